"""What has to be so before an operator can work, asked until it is.

A Role that forgot a verb, a CRD that is not there yet and an API server that is away are mended by people while the
operator runs, so it neither ends nor hammers: it asks every few seconds, says once a minute what is missing and what
to do about it, and goes on by itself when it is there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from scheduledjob.kube.client.api_errors import ApiError, NotFound
from scheduledjob.manifests.models import GROUP, VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.start")

CHECK_INTERVAL = 2.0
LOG_INTERVAL = 60.0
CRD = f"scheduledjobs.{GROUP}"


@dataclass(frozen=True, slots=True)
class Permission:
    """Something that the operator has to be allowed to do."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    """Empty: in all namespaces."""
    name: str = ""

    def __str__(self) -> str:
        what = self.resource + (f"/{self.subresource}" if self.subresource else "")
        group = f' of "{self.group}"' if self.group else ""
        where = f' in namespace "{self.namespace}"' if self.namespace else " in all namespaces"
        return f"{self.verb} {what}{group}{where}"


def permissions_of(namespaces: Sequence[str], lease: tuple[str, str], *, holds: bool) -> list[Permission]:
    """Everything that the shipped roles grant, Secrets and ConfigMaps apart: those are the administrator's choice.

    ``lease``: (namespace, name) of the Lease of operators with a store in memory; ``holds``: this is one of them.
    """
    needed = [
        ("list", GROUP, "scheduledjobs", ""),
        ("watch", GROUP, "scheduledjobs", ""),
        ("patch", GROUP, "scheduledjobs", "status"),
        ("create", "", "pods", ""),
        ("patch", "", "pods", ""),
        ("delete", "", "pods", ""),
        ("get", "", "pods", ""),
        ("list", "", "pods", ""),
        ("watch", "", "pods", ""),
        ("get", "", "pods", "log"),
        ("create", "events.k8s.io", "events", ""),
        ("get", "", "events", ""),
        ("patch", "", "events", ""),
    ]
    found = [
        Permission(verb, group, resource, subresource, namespace)
        for namespace in namespaces or [""]
        for verb, group, resource, subresource in needed
    ]
    namespace, name = lease
    found.append(Permission("get", "coordination.k8s.io", "leases", namespace=namespace, name=name))
    if holds:
        found.append(Permission("create", "coordination.k8s.io", "leases", namespace=namespace))
        found.append(Permission("patch", "coordination.k8s.io", "leases", namespace=namespace, name=name))
    found.append(Permission("get", "", "namespaces", namespace="kube-system", name="kube-system"))
    return found


class Preflight:
    """Asks until everything is there; ``missing`` says what is not, for readiness."""

    def __init__(self, api: Api, namespaces: Sequence[str], permissions: Sequence[Permission]) -> None:
        """``namespaces``: empty for all."""
        self._api = api
        self._namespaces = namespaces
        self._permissions = permissions
        self.missing: str | None = "the cluster has not been asked yet"

    async def passed(self) -> None:
        """Returns once everything is there."""
        said, said_at = "", float("-inf")
        while (missing := await self.look()) is not None:
            if missing != said or time.monotonic() - said_at >= LOG_INTERVAL:
                log.warning("waiting", missing=missing)
                said, said_at = missing, time.monotonic()
            await asyncio.sleep(CHECK_INTERVAL)
        if said:
            log.info("nothing is missing any more")

    async def look(self) -> str | None:
        """What is missing now, in words that say what to do; None: nothing."""
        try:
            self.missing = await self._crd() or await self._rbac()
        except ApiError as error:
            self.missing = str(error)
        return self.missing

    async def _crd(self) -> str | None:
        namespace = f"/namespaces/{self._namespaces[0]}" if self._namespaces else ""
        try:
            await self._api.get(f"/apis/{GROUP}/{VERSION}{namespace}/scheduledjobs", {"limit": 1}, attempts=1)
        except NotFound:
            return f"the cluster does not know ScheduledJobs: apply the CustomResourceDefinition {CRD} (crds/)"
        except ApiError as error:
            if error.status == 403:
                return None  # said below, with everything else that is missing
            raise
        return None

    async def _rbac(self) -> str | None:
        refused = [permission for permission in self._permissions if not await self._allowed(permission)]
        if not refused:
            return None
        return f"RBAC does not allow the operator to {'; '.join(map(str, refused))}: bind it to the shipped role"

    async def _allowed(self, permission: Permission) -> bool:
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": permission.resource,
            "subresource": permission.subresource,
            "namespace": permission.namespace,
            "name": permission.name,
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await self._api.post(path, {**review, "spec": {"resourceAttributes": attributes}}, attempts=1)
        return bool(answer["status"]["allowed"])
