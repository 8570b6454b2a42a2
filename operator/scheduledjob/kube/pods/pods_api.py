"""The operator's Pods: the executor's protocol of them, on the API server and a watch; and how old ones go.

Of each Pod only what says how it ended is remembered. Whoever follows one is told by its name, because a Pod is waited
for before it has a uid.
"""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.engine.executor import OUTPUT_LIMIT
from scheduledjob.jobs.container.pod_names import CONTAINER, UID_LABEL
from scheduledjob.jobs.container.pod_outcome import EXPIRED
from scheduledjob.jobs.container.pod_projection import project
from scheduledjob.jobs.container.pod_pruning import attempt_of, superfluous
from scheduledjob.jobs.container.pods_protocol import PodExists, PodRefused, PodsUnavailable
from scheduledjob.kube.client.api import LONGEST_ASKED_PAUSE
from scheduledjob.kube.client.api_errors import (
    AlreadyExists,
    ApiConflict,
    ApiError,
    ApiUnavailable,
    NotFound,
    Unauthorized,
)
from scheduledjob.kube.client.paths import NAME
from scheduledjob.kube.client.paths import pods as pods_path
from scheduledjob.kube.watch.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.jobs.container.pod_pruning import AttemptOf
    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.pods")

IN_FLIGHT = 64
"""Requests under way at once that create Pods: more only wait in the API server."""
TRIES = 3
"""Tries of one request before whoever asked hears of it; the executor asks again for as long as it takes."""
LOG_LINES = 512
"""Of a log as most are; of one with very short lines they are too few, of one with very long lines too many."""
LONG_LINES = 15
LOG_BYTES = 256 * 1024
"""Where a log's last lines are longer, the API server cuts their end off. No line is longer than 16 KiB: the runtime
breaks them."""


class ClusterPods:
    """The Pods of some namespaces, or of all; ``run`` watches them."""

    def __init__(self, api: Api, namespaces: Sequence[str] = (), *, in_flight: int = IN_FLIGHT) -> None:
        """``namespaces`` empty: all of them."""
        self._api = api
        self._in_flight = asyncio.Semaphore(in_flight)
        self._latest: dict[tuple[str, str], dict[str, Any]] = {}
        self._watches: defaultdict[tuple[str, str], set[_PodWatch]] = defaultdict(set)
        paths = [pods_path(namespace) for namespace in namespaces] or [pods_path()]
        self.reflector: Reflector[dict[str, Any]] = Reflector(api, paths, UID_LABEL, self._on_pod_event, keep=project)

    async def run(self) -> None:
        """Watch until cancelled; no error of the API server ends it."""
        await self.reflector.run()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every Pod of the operator's, trimmed."""
        return iter(self.reflector)

    def __len__(self) -> int:
        return len(self.reflector)

    # ---------------------------------------------------------------- the executor's protocol

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        async with self._in_flight:
            try:
                return project(await self._api.post(pods_path(pod["metadata"]["namespace"]), pod, attempts=TRIES))
            except AlreadyExists:
                raise PodExists from None
            except ApiError as error:
                raise _translate(error) from None

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        try:
            return project(await self._api.get(pods_path(namespace, name), attempts=TRIES))
        except NotFound:
            return None
        except ApiError as error:
            raise _away(error) from None

    async def expire(self, pod: Mapping[str, Any]) -> None:
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "spec": {"activeDeadlineSeconds": EXPIRED}}
        await self._gone_or(self._api.patch(_path(pod), body, attempts=TRIES))

    async def delete(self, pod: Mapping[str, Any]) -> None:
        options = {"preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._gone_or(self._api.delete(_path(pod), options, attempts=TRIES))

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
        return await self._api.read("GET", f"{_path(pod)}/log", params=params, attempts=TRIES)

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        if not NAME.fullmatch(name):  # the API server lets a Pod refer to what can't be there
            return {}
        try:
            found = await self._api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}", attempts=TRIES)
        except NotFound:
            return {}
        except ApiError as error:
            raise _translate(error) from None
        return {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}

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

    async def _gone_or(self, call: Awaitable[object]) -> None:
        """A Pod that is gone, or another of its name, is what was wanted."""
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
            watch.tell(pod, is_gone=is_gone)

    # ---------------------------------------------------------------- what goes

    async def prune(
        self,
        now: Instant,
        min_age: float,
        active: Callable[[Collection[AttemptOf]], Awaitable[Collection[AttemptOf]]],
    ) -> int:
        """Delete finished Pods beyond what history keeps, and Pods whose attempt nobody has; how many that were.

        One replica at a time need do it. ``now``: the store's clock; ``min_age``: seconds, two leases at least.
        ``active`` says which of some attempts are active, from the store, so no Pod goes before its run has a record.
        Nothing goes while the watch is broken. Raises ``PodsUnavailable``.
        """
        if self.reflector.connected_since is None:
            return 0
        found = [(whose, pod) for pod in superfluous(self, now, min_age) if (whose := attempt_of(pod)) is not None]
        if not found:
            return 0
        living = set(await active({whose for whose, _ in found}))
        deleted = 0
        for whose, pod in found:
            if whose in living:
                continue
            if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                log.warning("a Pod runs for nobody and is deleted", pod=pod["metadata"]["name"], run_id=whose.run_id)
            try:
                await self.delete(pod)
                deleted += 1
            except PodRefused as error:
                log.warning("an old Pod can't be deleted", pod=pod["metadata"]["name"], error=str(error))
        return deleted


class _PodWatch:
    """One follower of one Pod."""

    def __init__(self, pods: ClusterPods, latest: dict[str, Any] | None) -> None:
        self.latest: Mapping[str, Any] | None = latest
        self.gone: frozenset[str] = frozenset()
        self._pods = pods
        self._changed = asyncio.Event()

    @property
    def blind(self) -> bool:
        return self.latest is None or self._pods.reflector.connected_since is None

    def tell(self, pod: dict[str, Any], *, is_gone: bool) -> None:
        self.latest = pod
        if is_gone:
            self.gone |= {pod["metadata"]["uid"]}
        self._changed.set()

    async def change(self) -> None:
        await self._changed.wait()
        self._changed.clear()


def _path(pod: Mapping[str, Any]) -> str:
    return pods_path(pod["metadata"]["namespace"], pod["metadata"]["name"])


def _away(error: ApiError) -> PodsUnavailable:
    return PodsUnavailable(error.message, min(error.retry_after, LONGEST_ASKED_PAUSE))


def _translate(error: ApiError) -> Exception:
    """Whether it is worth asking again. A conflict is: of two creations that count against one quota, say."""
    if isinstance(error, ApiUnavailable | Unauthorized | ApiConflict):
        return _away(error)
    return PodRefused(f"refused by the API server: {error.message}")
