"""`helm install` with default values, and every example in examples/cluster, on a node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from image.build import derive
from tests.cluster.e2e.operators import Sink, annotate, recent, until
from tests.cluster.harness import SCHEDULED_JOBS
from tests.e2e.release import TEAM

if TYPE_CHECKING:
    from tests.cluster.e2e.operators import Call
    from tests.cluster.harness import ApiClient, Node
    from tests.e2e.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.node]

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"
ELSEWHERE, TOKEN = "https://api.example.com", "a-token-of-the-test"
"""The host that an example calls, which a server of the test replaces, and the token that the server requires."""
DERIVED = {"word-count"}
"""The example that needs a derived image and an operator that loads plugins."""
DERIVED_IMAGE = "registry.example.com/team/scheduledjob-acme:1"
POSTGRES_IMAGE = "docker.io/library/postgres:17"
PG_DUMP = """#!/bin/sh
for each; do case "$each" in --file=*) echo "a dump of $PGDATABASE for $PGUSER" >"${each#--file=}";; esac; done
test "$PGPASSWORD" = correct-horse-battery
"""


async def give_postgres_image(node: Node, folder: Path) -> None:
    """Load an image named like Postgres' whose pg_dump writes one line: the test is about the Pod."""
    archive = folder / "postgres.tar"
    source = folder / "postgres"
    await asyncio.to_thread(write_dump_image, source)
    await asyncio.to_thread(derive, source, POSTGRES_IMAGE, archive)
    await node.import_archive(archive)


def write_dump_image(folder: Path) -> None:
    folder.mkdir()
    (folder / "pg_dump").write_text(PG_DUMP)
    (folder / "pg_dump").chmod(0o755)
    (folder / "Dockerfile").write_text("ARG OPERATOR_IMAGE\nFROM ${OPERATOR_IMAGE}\nCOPY pg_dump /usr/bin/pg_dump\n")


async def give_volume(node: Node, folder: Path) -> None:
    """Create a volume for the claim of the example."""
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread(folder.chmod, 0o777)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "backups"},
        "spec": {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }
    await node.cluster.apply(json.dumps(volume))


async def give_server(node: Node, sink: Sink) -> None:
    """Apply the example http-ping again, so that it calls the test's server with the test's token."""
    text = await asyncio.to_thread((EXAMPLES / "http-ping.yaml").read_text)
    assert ELSEWHERE in text
    own = text.replace(ELSEWHERE, sink.url.replace("127.0.0.1", node.host)).replace("not-a-real-token", TOKEN)
    await node.cluster.apply(own, "-n", TEAM)

    def answer(call: Call) -> web.Response:
        allowed = call.path == "/ping" and call.headers.get("Authorization") == f"Bearer {TOKEN}"
        return web.Response(text="ok") if allowed else web.Response(status=401)

    sink.answer = answer


async def succeeded(api: ApiClient, name: str) -> None:
    """Wait until the requested run has ended, and check that it succeeded."""
    body = await until(
        api,
        TEAM,
        name,
        lambda job: any(run.get("token") == "now" and run.get("outcome") for run in recent(job)),
        f"the end of a run of {name}",
    )
    (run,) = (run for run in recent(body) if run.get("token") == "now")
    assert run["outcome"] == "Succeeded", (name, run)


async def test_the_examples_succeed_with_default_values(release: Release, tmp_path: Path) -> None:
    node, cluster = release.node, release.node.cluster
    await give_postgres_image(node, tmp_path)
    await give_volume(node, node.directory / "backups")
    async with release.diagnosed(), Sink() as sink, cluster.client() as api:
        notes = await release.install()
        assert "with 1 replica and its store in memory" in notes
        assert "it ran at" in await release.test()
        await release.namespace(TEAM)
        await cluster.kubectl("apply", "--server-side", "-R", "-n", TEAM, "-f", str(EXAMPLES))
        await give_server(node, sink)
        jobs = await api.list(f"{SCHEDULED_JOBS}/namespaces/{TEAM}/scheduledjobs")
        names = {job["metadata"]["name"] for job in jobs}
        assert names > DERIVED
        async with asyncio.TaskGroup() as waiting:
            for name in sorted(names - DERIVED):
                await annotate(api, TEAM, name, run_now="now")
                waiting.create_task(succeeded(api, name))
        pods = await api.list(f"/api/v1/namespaces/{TEAM}/pods", labelSelector="scheduledjobs.dev/name")
        in_pods = {pod["metadata"]["labels"]["scheduledjobs.dev/name"] for pod in pods}
        assert in_pods >= {"one-shot", "payroll", "nightly-database-backup", "http-ping"}
        assert [call.path for call in sink.of("http-ping")] == ["/ping"]
        (dump,) = (node.directory / "backups").iterdir()
        assert dump.read_text() == "a dump of shop for shop\n"


async def test_a_python_job_succeeds_in_a_derived_image(release: Release, tmp_path: Path) -> None:
    node, cluster = release.node, release.node.cluster
    own = EXAMPLES / "custom-python"
    await asyncio.to_thread(derive, own, DERIVED_IMAGE, tmp_path / "derived.tar")
    await node.import_archive(tmp_path / "derived.tar")
    async with release.diagnosed(), cluster.client() as api:
        await release.install("settings: {plugins: true}")
        await release.namespace(TEAM)
        await cluster.apply(own / "job.yaml", "-n", TEAM)
        await annotate(api, TEAM, "word-count", run_now="now")
        await succeeded(api, "word-count")
