"""What an operator needs of the cluster before it can work.

People fix a Role without a verb, a missing CRD and an unavailable API server while the operator runs. So it does not
exit: it checks every few seconds, logs once a minute what is missing and what to do about it, and continues as soon as
nothing is missing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from scheduledjob.kube.client.api_errors import ApiError, NotFound
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.resource_names import GROUP, PLURAL, RESOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.start")

CHECK_INTERVAL = 2.0
"""Seconds between two checks."""
LOG_INTERVAL = 60.0
"""Seconds until the same problem is logged again."""


@dataclass(frozen=True, slots=True)
class Permission:
    """Something that RBAC has to allow the operator."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    """Empty means all namespaces."""
    name: str = ""

    def __str__(self) -> str:
        what = self.resource + (f"/{self.subresource}" if self.subresource else "")
        group = f' of "{self.group}"' if self.group else ""
        where = f' in namespace "{self.namespace}"' if self.namespace else " in all namespaces"
        return f"{self.verb} {what}{group}{where}"


def permissions_of(namespaces: Sequence[str], lease: tuple[str, str], *, holds: bool) -> list[Permission]:
    """Return every permission that the shipped roles grant, except for optional ones.

    That is reading Secrets, ConfigMaps, and what says where the API server is.

    ``lease`` is (namespace, name) of the Lease of operators with a store in memory. ``holds``: this operator takes it.
    """
    needed = [
        ("list", GROUP, PLURAL, ""),
        ("watch", GROUP, PLURAL, ""),
        ("patch", GROUP, PLURAL, "status"),
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
    """Checks the cluster. ``missing`` says what is missing, for readiness."""

    def __init__(self, api: Api, namespaces: Sequence[str], permissions: Sequence[Permission]) -> None:
        """``namespaces``: empty means all."""
        self._api = api
        self._namespaces = namespaces
        self._permissions = permissions
        self.missing: str | None = "the cluster has not been checked yet"

    async def wait(self) -> None:
        """Wait until nothing is missing."""
        logged, logged_at = "", float("-inf")
        while (missing := await self.check()) is not None:
            if missing != logged or time.monotonic() - logged_at >= LOG_INTERVAL:
                log.warning("waiting for the cluster", missing=missing)
                logged, logged_at = missing, time.monotonic()
            await asyncio.sleep(CHECK_INTERVAL)
        if logged:
            log.info("the cluster has everything now")

    async def check(self) -> str | None:
        """Return what is missing now and what to do about it, or None."""
        try:
            self.missing = await self._crd() or await self._rbac()
        except ApiError as error:
            self.missing = str(error)
        return self.missing

    async def _crd(self) -> str | None:
        namespace = self._namespaces[0] if self._namespaces else ""
        try:
            await self._api.get(scheduled_jobs(namespace), {"limit": 1}, attempts=1)
        except NotFound:
            return f"the cluster does not know ScheduledJobs: apply the CustomResourceDefinition {RESOURCE} (crds/)"
        except ApiError as error:
            if error.status == 403:
                return None  # `_rbac` reports it, with everything else that is not allowed
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
