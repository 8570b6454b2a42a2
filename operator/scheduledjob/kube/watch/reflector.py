"""Lists and watches objects by a label selector, and keeps a little of each: this is how Pods are seen.

kopf filters by labels only after everything has been sent, and of the cluster's Pods ours may be one in a hundred;
here the API server filters. For each path: list, then watch from there; go on from the last resourceVersion when the
watch ends, which bookmarks keep fresh; and when that is forgotten (410, or any error that the watch itself reports),
list again, and tell what is gone by comparing uids. So nothing is missed but states between two that were seen.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from scheduledjob.kube.client.api import pause, rng
from scheduledjob.kube.client.api_errors import ApiError, Gone, later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.reflector")

T = TypeVar("T")

WATCH_SECONDS = 300
"""Seconds after which the API server ends a watch in order; spread, so that paths don't end theirs together."""
RESUMED_AT_MOST = 5
"""After that many failures in a row the list is made anew: a watch may fail for what it is asked to go on from."""
SILENCE_SECONDS = 75.0
"""Seconds without even a bookmark, of which there is one a minute, after which a watch is taken to be dead."""


class Reflector(Generic[T]):
    """What there is of some kind of object, by uid."""

    def __init__(
        self,
        api: Api,
        paths: Sequence[str],
        selector: str,
        on_event: Callable[[T, bool], None],
        *,
        keep: Callable[[dict[str, Any]], T],
    ) -> None:
        """``paths``: lists, such as that of the Pods of a namespace. ``keep``: what is remembered of an object.

        ``on_event`` is called in this event loop with what ``keep`` made and whether the object is gone: for each
        object at first, and whenever what is kept of it has changed.
        """
        self._api = api
        self._selector = selector
        self._on_event = on_event
        self._keep = keep
        self._views = {path: _View[T]() for path in paths}

    @property
    def connected_since(self) -> float | None:
        """Monotonic seconds since when every path is watched; None: not now."""
        since = [view.connected_since for view in self._views.values()]
        return None if None in since else max((moment for moment in since if moment is not None), default=0.0)

    @property
    def restarts(self) -> int:
        """How often a watch ended with an error."""
        return sum(view.restarts for view in self._views.values())

    @property
    def errors(self) -> dict[str, str]:
        """What is wrong now, by path."""
        return {path: view.error for path, view in self._views.items() if view.error}

    def get(self, uid: str) -> T | None:
        """What is kept of an object; None: there is none of this uid."""
        return next((view.kept[uid] for view in self._views.values() if uid in view.kept), None)

    def __iter__(self) -> Iterator[T]:
        return (kept for view in self._views.values() for kept in view.kept.values())

    def __len__(self) -> int:
        return sum(len(view.kept) for view in self._views.values())

    async def run(self) -> None:
        """Until cancelled; no error of the API server ends it."""
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
                if not _resumable(error) or view.failures % RESUMED_AT_MOST == 0:
                    view.version = ""
                self._broken(path, view, error)
                # A list that expired, or a version that is forgotten, is no reason to wait.
                if view.failures > 1 or not isinstance(error, Gone):
                    await asyncio.sleep(pause(view.failures, error.retry_after))

    def _broken(self, path: str, view: _View[T], error: ApiError) -> None:
        view.restarts += 1
        if isinstance(error, Gone):
            return
        if view.error != error.message:
            log.warning("a watch is broken; trying again", path=path, error=error.message)
        view.connected_since, view.error = None, error.message

    async def _list(self, path: str, view: _View[T]) -> None:
        """Bring the view up to date."""
        gone, version = set(view.kept), ""
        async for page in self._api.pages(path, {"labelSelector": self._selector}):
            version = page["metadata"]["resourceVersion"]
            for body in page["items"]:
                gone.discard(body["metadata"]["uid"])
                self._seen(view, body)
            await asyncio.sleep(0)  # others wait while a long list is read
        for uid in gone:
            self._on_event(view.kept.pop(uid), True)
        view.version = version

    async def _watch(self, path: str, view: _View[T]) -> None:
        """One watch, to its end."""
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
                    self._seen(view, body)
                view.version, view.failures = body["metadata"]["resourceVersion"], 0

    def _connected(self, path: str, view: _View[T]) -> None:
        if view.connected_since is None:
            view.connected_since = time.monotonic()
            if view.error:
                log.info("the watch is mended", path=path)
            view.error = ""

    def _seen(self, view: _View[T], body: dict[str, Any]) -> None:
        uid, kept = body["metadata"]["uid"], self._keep(body)
        if view.kept.get(uid) != kept:
            view.kept[uid] = kept
            self._on_event(kept, False)


class _View(Generic[T]):
    """One path."""

    def __init__(self) -> None:
        self.kept: dict[str, T] = {}
        self.version = ""
        """From which the watch goes on; empty: list first."""
        self.failures = 0
        """In a row, without an event between them."""
        self.connected_since: float | None = None
        self.restarts = 0
        self.error = ""


def _resumable(error: ApiError) -> bool:
    """Whether the watch can go on from where it was: the connection broke, or the server is busy."""
    return error.status == 0 or later(error.status)
