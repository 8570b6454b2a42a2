"""The operator's Pods: creates, watches and deletes them for the executor, and prunes old Pods.

Only the part of a Pod that says how it ended is kept. A Pod is watched by its name, because the executor waits for it
before it has a uid.
"""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import structlog

from scheduledjob.engine.executor import OUTPUT_LIMIT
from scheduledjob.jobs.container.pod_names import CONTAINER, JOB_ENDED, UID_LABEL, attempt_of
from scheduledjob.jobs.container.pod_outcome import EXPIRED
from scheduledjob.jobs.container.pod_projection import project
from scheduledjob.jobs.container.pod_pruning import superfluous
from scheduledjob.jobs.container.pods_protocol import PodExists, PodRefused, PodsUnavailable, SecretVersion
from scheduledjob.kube.client.api import LONGEST_ASKED_PAUSE
from scheduledjob.kube.client.api_errors import (
    AlreadyExists,
    ApiConflict,
    ApiError,
    ApiUnavailable,
    NotFound,
    Unauthorized,
    is_too_large,
)
from scheduledjob.kube.client.paths import NAME
from scheduledjob.kube.client.paths import pods as pods_path
from scheduledjob.kube.watch.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

    from scheduledjob.domain.schedule.definition import Keep
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.jobs.container.pod_names import AttemptOf
    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.pods")

ATTEMPTS = 3
"""Attempts of a request, except for one that creates a Pod. After that the executor decides when to try again."""
LOG_LINES = 512
"""Lines of a log that are read first. They are too few if lines are very short, and too many if lines are very long."""
LONG_LINES = 15
"""Lines of a log that are read if ``LOG_LINES`` are more than ``LOG_BYTES``."""
LOG_BYTES = 256 * 1024
"""Bytes of a log. The API server cuts off what follows. The runtime breaks lines at 16 KiB."""
STRICT = {"fieldValidation": "Strict"}
"""A misspelt field of a template is an error. By default the API server would drop it."""
_NO_SECRET = SecretVersion("", {})


class ClusterPods:
    """The Pods of the watched namespaces. ``run`` watches them."""

    def __init__(self, api: Api, namespaces: Sequence[str] = ()) -> None:
        """``namespaces``: empty means all."""
        self._api = api
        self._secrets: WeakValueDictionary[str, SecretVersion] = WeakValueDictionary()
        """What running attempts remember, so that attempts that use the same Secret share its values."""
        self._latest: dict[tuple[str, str], dict[str, Any]] = {}
        self._watches: defaultdict[tuple[str, str], set[_PodWatch]] = defaultdict(set)
        paths = [pods_path(namespace) for namespace in namespaces] or [pods_path()]
        self.reflector: Reflector[dict[str, Any]] = Reflector(api, paths, UID_LABEL, self._on_pod_event, keep=project)

    async def run(self) -> None:
        """Watch until cancelled. Errors of the API server do not end it."""
        await self.reflector.run()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every Pod of the operator's, trimmed."""
        return iter(self.reflector)

    def __len__(self) -> int:
        return len(self.reflector)

    # ---------------------------------------------------------------- the executor's protocol

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        namespace = pod["metadata"]["namespace"]
        try:
            return project(await self._api.post(pods_path(namespace), pod, STRICT, attempts=1))
        except AlreadyExists:
            raise PodExists from None
        except ApiError as error:
            raise _translate(error) from None

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        try:
            return project(await self._api.get(pods_path(namespace, name), attempts=ATTEMPTS))
        except NotFound:
            return None
        except ApiError as error:
            raise _unavailable(error) from None

    async def expire(self, pod: Mapping[str, Any], *, job_ended: bool = False) -> None:
        metadata: dict[str, Any] = {"uid": pod["metadata"]["uid"]}
        if job_ended:
            metadata["annotations"] = {JOB_ENDED: "true"}
        body = {"metadata": metadata, "spec": {"activeDeadlineSeconds": EXPIRED}}
        await self._ignore_gone(self._api.patch(_path(pod), body, attempts=ATTEMPTS))

    async def delete(self, pod: Mapping[str, Any]) -> None:
        options = {"preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._ignore_gone(self._api.delete(_path(pod), options, attempts=ATTEMPTS))

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        try:
            found = await self._tail(pod, LOG_LINES)
            if len(found) >= LOG_BYTES:
                found = await self._tail(pod, LONG_LINES)
            elif len(found) < OUTPUT_LIMIT and found.count(b"\n") >= LOG_LINES:
                found = await self._tail(pod, OUTPUT_LIMIT)
        except ApiError as error:
            raise _translate(error) from None
        return found

    async def _tail(self, pod: Mapping[str, Any], lines: int) -> bytes:
        params: dict[str, str | int] = {"container": CONTAINER, "tailLines": lines, "limitBytes": LOG_BYTES}
        return await self._api.read("GET", f"{_path(pod)}/log", params=params, attempts=ATTEMPTS)

    async def secret(self, namespace: str, name: str) -> SecretVersion:
        if not NAME.fullmatch(name):  # the API server accepts a reference to an impossible name
            return _NO_SECRET
        try:
            found = await self._api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}", attempts=ATTEMPTS)
        except NotFound:
            return _NO_SECRET
        except ApiError as error:
            raise _translate(error) from None
        version = f"{found['metadata']['uid']}/{found['metadata']['resourceVersion']}"
        key = f"{namespace}/{name}/{version}"
        known = self._secrets.get(key)
        if known is None:
            values = {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}
            known = self._secrets[key] = SecretVersion(version, values)
        return known

    @contextmanager
    def watch(self, namespace: str, name: str) -> Iterator[_PodWatch]:
        key = (namespace, name)
        watch = _PodWatch(self, self._latest.get(key))
        self._watches[key].add(watch)
        try:
            yield watch
        finally:
            self._watches[key].discard(watch)
            if not self._watches[key]:
                del self._watches[key]

    async def _ignore_gone(self, call: Awaitable[object]) -> None:
        """Ignore that the Pod is gone, or that another Pod has its name: that is what the caller wants."""
        try:
            await call
        except (NotFound, ApiConflict):
            return
        except ApiError as error:
            raise _translate(error) from None

    # ---------------------------------------------------------------- the watch

    def _on_pod_event(self, pod: dict[str, Any], is_gone: bool) -> None:
        metadata = pod["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if not is_gone:
            self._latest[key] = pod
        elif key in self._latest and self._latest[key]["metadata"]["uid"] == metadata["uid"]:
            del self._latest[key]
        for watch in self._watches.get(key, ()):
            watch.notify(pod, is_gone=is_gone)

    # ---------------------------------------------------------------- pruning

    async def prune(
        self,
        now: Instant,
        min_age: float,
        kept: Callable[[str, str], Keep | None],
        active: Callable[[Collection[AttemptOf]], Awaitable[Collection[AttemptOf]]],
    ) -> int:
        """Delete finished Pods that history does not keep, and Pods whose attempt no schedule has. Return their number.

        ``now`` is the store's clock. ``min_age`` is in seconds, at least two leases. ``kept`` returns the
        ``history`` of a job, by slug and uid; None if it is unknown. ``active`` returns the active ones of some
        attempts from the store, so a Pod is deleted only after its run has been recorded. Nothing is deleted while the
        watch is broken. Raises ``PodsUnavailable``.
        """
        if self.reflector.connected_since is None:
            return 0
        pods = superfluous(self, kept, now, min_age)
        found = [(attempt, pod) for pod in pods if (attempt := attempt_of(pod)) is not None]
        if not found:
            return 0
        still_active = set(await active({attempt for attempt, _ in found}))
        deleted = 0
        for attempt, pod in found:
            if attempt in still_active:
                continue
            if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                log.warning("deleting an orphaned Pod", pod=pod["metadata"]["name"], run_id=attempt.run_id)
            try:
                await self.delete(pod)
                deleted += 1
            except PodRefused as error:
                log.warning("an old Pod can't be deleted", pod=pod["metadata"]["name"], error=str(error))
        return deleted


class _PodWatch:
    """Follows a Pod."""

    def __init__(self, pods: ClusterPods, latest: dict[str, Any] | None) -> None:
        self.latest: Mapping[str, Any] | None = latest
        self.gone: frozenset[str] = frozenset()
        self._pods = pods
        self._changed = asyncio.Event()

    @property
    def blind(self) -> bool:
        return self.latest is None or self._pods.reflector.connected_since is None

    def notify(self, pod: dict[str, Any], *, is_gone: bool) -> None:
        self.latest = pod
        if is_gone:
            self.gone |= {pod["metadata"]["uid"]}
        self._changed.set()

    async def change(self) -> None:
        await self._changed.wait()
        self._changed.clear()


def _path(pod: Mapping[str, Any]) -> str:
    return pods_path(pod["metadata"]["namespace"], pod["metadata"]["name"])


def _unavailable(error: ApiError) -> PodsUnavailable:
    return PodsUnavailable(error.message, min(error.retry_after, LONGEST_ASKED_PAUSE))


def _translate(error: ApiError) -> Exception:
    """Return the error for the executor. A conflict is worth another attempt: two Pods may count against a quota."""
    if is_too_large(error):  # another attempt does not change that
        return PodRefused(f"refused by the API server: {error.message}: make its template or its payload smaller")
    if isinstance(error, ApiUnavailable | Unauthorized | ApiConflict):
        return _unavailable(error)
    return PodRefused(f"refused by the API server: {error.message}")
