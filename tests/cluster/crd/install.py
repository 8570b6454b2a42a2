"""The CRD on a cluster, and manifests as the API server is sent them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduledjob.manifests import files
from scheduledjob.manifests.yamltree import YamlError, documents, to_python
from scheduledjob.resource_names import API_VERSION, PLURAL, RESOURCE
from tests.cluster.harness import ApiError
from tests.cluster.harness.client import SCHEDULED_JOBS

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster
    from tests.cluster.harness.client import ApiClient

ROOT = Path(__file__).parents[3]
CRDS = ROOT / "crds"
MANIFESTS = ROOT / "tests" / "manifests"
WRITTEN_BY_THE_SERVER = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")

PUBLISHED_SECONDS = 30.0

_installed: set[Path] = set()


async def install(cluster: Cluster) -> None:
    """Apply the CRD, once for each cluster, and wait until it is served and explained."""
    if cluster.kubeconfig not in _installed:
        await cluster.apply(CRDS, "--force-conflicts")
        established = ("wait", "--for=condition=Established", f"crd/{RESOURCE}", "--timeout=30s")
        while (await cluster.kubectl(*established, check=False)).returncode:  # noqa: ASYNC110  # of the server's
            await asyncio.sleep(0.05)  # kubectl fails at once while the CRD has no status at all
        await _published(cluster)
        _installed.add(cluster.kubeconfig)


async def _published(cluster: Cluster) -> None:
    """Return when the schema can be read, which is a moment after the CRD is established and has no event."""
    async with cluster.client() as api, asyncio.timeout(PUBLISHED_SECONDS):
        while True:
            with contextlib.suppress(ApiError):
                if f"/namespaces/{{namespace}}/{PLURAL}" in await api.text(f"/openapi/v3{SCHEDULED_JOBS}"):
                    return
            await asyncio.sleep(0.05)


def jobs_in(path: Path, namespace: str) -> list[dict[str, Any]]:
    """The ScheduledJobs of a manifest that can be read, each for this namespace."""
    text = files.read(str(path))
    found: list[dict[str, Any]] = []
    if not isinstance(text, str):
        return found
    try:
        for root in documents(text, []):
            value = to_python(root)
            found += value["items"] if isinstance(value, dict) and value.get("kind") == "List" else [value]
    except YamlError:
        # What stands before the fault is sent as well.
        pass
    jobs = [job for job in found if isinstance(job, dict) and job.get("apiVersion") == API_VERSION]
    for job in jobs:
        metadata = job.get("metadata")
        if isinstance(metadata, dict):
            metadata |= {"namespace": namespace} if "namespace" in metadata else {}
            for key in WRITTEN_BY_THE_SERVER:
                metadata.pop(key, None)
    return jobs


async def verdict(api: ApiClient, job: dict[str, Any], namespace: str) -> str:
    """What the API server says to the creation of a job, as strictly as kubectl asks it; empty where it agrees."""
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    try:
        await api.post(path, job, dryRun="All", fieldValidation="Strict")
    except ApiError as error:
        if error.status not in (400, 422):
            raise
        return error.message
    return ""
