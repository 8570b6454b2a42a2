"""Lists and watches the objects that match a label selector, and keeps a part of each. The operator watches Pods so.

The API server filters by labels here, while kopf filters only after it has received everything, and few of the
cluster's Pods may be ours. Each path is listed and then watched from the version of the list. When the watch ends, it
continues from the last resourceVersion, which bookmarks keep fresh. If that version has expired (410, or another error
that the watch reports), the path is listed again, and the uids show which objects are gone. So nothing is missed except
for intermediate states.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from scheduledjob.kube.client.api import pause, rng
from scheduledjob.kube.client.api_errors import ApiError, Gone, is_retryable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.reflector")

T = TypeVar("T")

WATCH_SECONDS = 300
"""Seconds after which the API server ends a watch, up to twice that, so that the paths don't end at the same time."""
MAX_RESUMES = 5
"""Failures in a row after which the path is listed again: the resourceVersion may be the cause."""
SILENCE_SECONDS = 75.0
"""Seconds without an event after which a watch counts as dead. There is a bookmark every minute."""


class Reflector(Generic[T]):
    """The objects that exist, by uid."""

    def __init__(
        self,
        api: Api,
        paths: Sequence[str],
        selector: str,
        on_event: Callable[[T, bool], None],
        *,
        keep: Callable[[dict[str, Any]], T],
    ) -> None:
        """``paths`` are lists, such as the Pods of a namespace. ``keep`` returns the part of an object to keep.

        ``on_event`` is called in this event loop with that part, and with whether the object is gone: first for each
        object, then whenever that part has changed.
        """
        self._api = api
        self._selector = selector
        self._on_event = on_event
        self._keep = keep
        self._views = {path: _View[T]() for path in paths}

    @property
    def connected_since(self) -> float | None:
        """The monotonic second since when every path is watched; None if one is not."""
        since = [view.connected_since for view in self._views.values()]
        return None if None in since else max((moment for moment in since if moment is not None), default=0.0)

    @property
    def restarts(self) -> int:
        """How often a watch has ended with an error."""
        return sum(view.restarts for view in self._views.values())

    @property
    def errors(self) -> dict[str, str]:
        """The current errors, by path."""
        return {path: view.error for path, view in self._views.items() if view.error}

    def get(self, uid: str) -> T | None:
        """Return the part of an object that is kept, or None if the object does not exist."""
        return next((view.kept[uid] for view in self._views.values() if uid in view.kept), None)

    def __iter__(self) -> Iterator[T]:
        return (kept for view in self._views.values() for kept in view.kept.values())

    def __len__(self) -> int:
        return sum(len(view.kept) for view in self._views.values())

    async def run(self) -> None:
        """Watch until cancelled. Errors of the API server do not end it."""
        async with asyncio.TaskGroup() as group:
            for path, view in self._views.items():
                group.create_task(self._reflect(path, view))

    async def _reflect(self, path: str, view: _View[T]) -> None:
        while True:
            try:
                if not view.version:
                    await self._list(path, view)
                await self._watch(path, view)
            except ApiError as error:
                view.failures += 1
                if not _resumable(error) or view.failures % MAX_RESUMES == 0:
                    view.version = ""
                self._broken(path, view, error)
                # An expired list or version is no reason to wait.
                if view.failures > 1 or not isinstance(error, Gone):
                    await asyncio.sleep(pause(view.failures, error.retry_after))

    def _broken(self, path: str, view: _View[T], error: ApiError) -> None:
        view.restarts += 1
        if isinstance(error, Gone):
            return
        if view.error != error.message:
            log.warning("a watch failed; trying again", path=path, error=error.message)
        view.connected_since, view.error = None, error.message

    async def _list(self, path: str, view: _View[T]) -> None:
        """Update the view with a list."""
        gone, version = set(view.kept), ""
        async for page in self._api.pages(path, {"labelSelector": self._selector}):
            version = page["metadata"]["resourceVersion"]
            for body in page["items"]:
                gone.discard(body["metadata"]["uid"])
                self._update(view, body)
            await asyncio.sleep(0)  # let other tasks run while a long list is read
        for uid in gone:
            self._on_event(view.kept.pop(uid), True)
        view.version = version

    async def _watch(self, path: str, view: _View[T]) -> None:
        """Watch until the API server ends the watch."""
        seconds = round(WATCH_SECONDS * rng.uniform(1.0, 2.0))
        params: dict[str, str | int] = {
            "labelSelector": self._selector,
            "resourceVersion": view.version,
            "timeoutSeconds": seconds,
        }
        events = self._api.watch(path, params, silence=SILENCE_SECONDS, on_open=lambda: self._connected(path, view))
        async with aclosing(events):
            async for event in events:
                body = event["object"]
                if event["type"] == "DELETED":
                    view.kept.pop(body["metadata"]["uid"], None)
                    self._on_event(self._keep(body), True)
                elif event["type"] != "BOOKMARK":
                    self._update(view, body)
                view.version, view.failures = body["metadata"]["resourceVersion"], 0

    def _connected(self, path: str, view: _View[T]) -> None:
        if view.connected_since is None:
            view.connected_since = time.monotonic()
            if view.error:
                log.info("the watch works again", path=path)
            view.error = ""

    def _update(self, view: _View[T], body: dict[str, Any]) -> None:
        uid, kept = body["metadata"]["uid"], self._keep(body)
        if view.kept.get(uid) != kept:
            view.kept[uid] = kept
            self._on_event(kept, False)


class _View(Generic[T]):
    """The objects of a path."""

    def __init__(self) -> None:
        self.kept: dict[str, T] = {}
        self.version = ""
        """The resourceVersion from which the watch continues; empty means list first."""
        self.failures = 0
        """Failures in a row, without an event between them."""
        self.connected_since: float | None = None
        self.restarts = 0
        self.error = ""


def _resumable(error: ApiError) -> bool:
    """Whether the watch can continue from its last version: the connection broke, or the server is busy."""
    return error.status == 0 or is_retryable(error.status)
