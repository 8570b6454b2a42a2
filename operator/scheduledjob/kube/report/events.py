"""Kubernetes Events: what happened to a ScheduledJob, as ``kubectl describe`` shows it.

A job that fails every second must not fill etcd, so there is one Event for each object and reason. The Event is a
series: it is created when something first happens, and updated from time to time with the count, the time and the
message of the last occurrence. Its name is derived from the object and the reason, so all replicas continue the same
series, also after a restart. The resourceVersion keeps them from overwriting each other's count.

Events have a low priority. They share a budget with status, which gets most of it. The queue is bounded: an Event that
finds no room is dropped and counted. Namespaces take turns, and none may fill the queue. Nothing waits for an Event.

Events are created with events.k8s.io but updated with the core API. Both show the same object, but events.k8s.io does
not allow a change of the message.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import structlog

from scheduledjob.domain.time.instants import Instant, to_datetime
from scheduledjob.engine.turns import Turns
from scheduledjob.kube.client.api import STRATEGIC_MERGE_PATCH
from scheduledjob.kube.client.api_errors import AlreadyExists, ApiConflict, ApiError, ApiUnavailable, NotFound
from scheduledjob.kube.client.budget import Budget, BudgetUse
from scheduledjob.resource_names import API_VERSION, GROUP, KIND

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.events")

WRITE_INTERVAL = 15.0
"""Seconds between two writes of the same series."""
MAX_PENDING = 500
"""Series in the queue. A namespace may have as many as have room besides."""
MAX_SERIES = 5000
"""Series whose state is cached, so that an update needs only one request."""
NOTE_LIMIT = 1024
"""Bytes of a note: the limit of the API."""
RETRY_DELAY = 10.0
"""Seconds until a write is tried again after the API server did not answer."""
ATTEMPTS = 5
"""Attempts to write a series, after other replicas have written first."""
CONTROLLER = f"{GROUP}/operator"

EventType = Literal["Normal", "Warning"]


class Reason(StrEnum):
    """The reasons of Events. People search for them, and alerts match them."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    RETRYING = "Retrying"
    WAITING = "Waiting"
    MISSED = "Missed"
    SKIPPED_OVERLAP = "SkippedOverlap"
    LACKED_CAPACITY = "LackedCapacity"
    CANCELLED = "Cancelled"
    OVERDUE = "Overdue"
    HOOK_GIVEN_UP = "HookGivenUp"
    AUTO_PAUSED = "AutoPaused"
    INVALID_SPEC = "InvalidSpec"
    UNKNOWN_KIND = "UnknownKind"
    COMPLETED = "Completed"
    OWNER_LOST = "OwnerLost"
    ACT_REFUSED = "ActRefused"
    RESTORED = "Restored"


class Regarding(NamedTuple):
    """The ScheduledJob that an Event is about."""

    namespace: str
    name: str
    uid: str


class _Key(NamedTuple):
    uid: str
    reason: str


@dataclass(slots=True)
class _PendingEvent:
    """What has happened since the last write of a series."""

    regarding: Regarding
    type: EventType
    note: str
    action: str
    count: int
    first: Instant
    last: Instant


@dataclass(slots=True)
class _Series:
    """An Event as it was last written."""

    count: int
    version: str
    written: float
    """When, in monotonic seconds."""


class EventRecorder:
    """Call ``record`` at any time, in the event loop. ``run`` writes until it is cancelled."""

    def __init__(
        self,
        api: Api,
        budget: Budget,
        *,
        instance: str,
        now: Callable[[], Instant],
        monotonic: Callable[[], float] = time.monotonic,
        every: float = WRITE_INTERVAL,
    ) -> None:
        """``instance`` names this replica. ``now`` returns the time that Events show. ``every``: seconds
        between two writes of a series."""
        self._api = api
        self._budget = budget
        self._instance = instance[:128]
        self._now = now
        self._monotonic = monotonic
        self._every = every
        self._waiting: dict[_Key, _PendingEvent] = {}
        self._due: list[tuple[float, _Key]] = []
        """A heap of the monotonic seconds when each series in ``_waiting`` is written."""
        self._known: OrderedDict[_Key, _Series] = OrderedDict()
        self._ready: Turns[_Key] = Turns()
        """The series that are due."""
        self._waiting_of: Counter[str] = Counter()
        """By namespace: its series in ``_waiting``."""
        self._came = asyncio.Event()
        self.written = 0
        """Writes that the API server accepted."""
        self.dropped = 0
        """Occurrences without an Event, because the queue was full or the API server refused it."""

    def record(self, regarding: Regarding, type: EventType, reason: Reason, message: str, action: str) -> None:
        """Record something that happened now. ``action`` is what the operator was doing, a word in CamelCase."""
        key, now = _Key(regarding.uid, reason), self._now()
        pending = self._waiting.get(key)
        if pending is not None:
            pending.note, pending.action, pending.type = message, action, type
            pending.count, pending.last = pending.count + 1, now
            return
        self._wait(key, _PendingEvent(regarding, type, message, action, 1, now, now))

    async def run(self) -> None:
        """Write the series that are due, one at a time, as the budget allows."""
        while True:
            while not self._ready and (wait := self._collect()) != 0.0:
                self._came.clear()
                try:
                    async with asyncio.timeout(wait):
                        await self._came.wait()
                except TimeoutError:
                    pass
            await self._budget.take(BudgetUse.EVENT)
            self._collect()
            key = self._ready.take()
            pending = self._waiting.pop(key)
            self._count(pending, -1)
            await self._write(key, pending)

    def _collect(self) -> float | None:
        """Let the series that are due take turns. Return the seconds until the next one is due: 0.0 if one is due now,
        and None if there is none."""
        while self._due:
            if (wait := self._due[0][0] - self._monotonic()) > 0:
                return 0.0 if self._ready else wait
            _, key = heapq.heappop(self._due)
            if (soonest := self._soonest(key)) > self._monotonic():
                heapq.heappush(self._due, (soonest, key))
            else:
                self._ready.put(self._waiting[key].regarding.namespace, key)
        return 0.0 if self._ready else None

    def _wait(self, key: _Key, pending: _PendingEvent, at_least: float = 0.0) -> None:
        if self._waiting_of[pending.regarding.namespace] >= MAX_PENDING - len(self._waiting):
            self.dropped += pending.count
            return
        self._waiting[key] = pending
        self._count(pending, 1)
        heapq.heappush(self._due, (self._monotonic() + at_least, key))
        self._came.set()

    def _count(self, pending: _PendingEvent, more: int) -> None:
        namespace = pending.regarding.namespace
        self._waiting_of[namespace] += more
        if not self._waiting_of[namespace]:
            del self._waiting_of[namespace]

    def _soonest(self, key: _Key) -> float:
        series = self._known.get(key)
        return self._monotonic() if series is None else series.written + self._every

    async def _write(self, key: _Key, pending: _PendingEvent) -> None:
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await self._budget.take(BudgetUse.EVENT)
                if await self._try(key, pending):
                    return
        except ApiUnavailable:
            pass
        except ApiError as error:
            # The namespace is being deleted, or RBAC forbids it: waiting does not help.
            log.info(
                "the API server refused an Event", name=pending.regarding.name, reason=key.reason, error=error.message
            )
            self.dropped += pending.count
            return
        self._retry(key, pending)

    async def _try(self, key: _Key, pending: _PendingEvent) -> bool:
        """Return False if the series has changed or is gone: read it again and retry."""
        series = self._known.get(key)
        regarding, name = pending.regarding, name_of(key, pending.regarding)
        path = f"/api/v1/namespaces/{regarding.namespace}/events/{name}"
        try:
            if series is None:
                url = f"/apis/events.k8s.io/v1/namespaces/{regarding.namespace}/events"
                self._remember(key, await self._api.post(url, self._event(name, key, pending), attempts=1))
            else:
                patch = self._patch(series, pending)
                answer = await self._api.patch(path, patch, content_type=STRATEGIC_MERGE_PATCH, attempts=1)
                self._remember(key, answer)
        except AlreadyExists:
            self._continue(key, regarding, await self._api.get(path, attempts=1))
        except ApiConflict:
            self._known.pop(key, None)
            self._continue(key, regarding, await self._api.get(path, attempts=1))
        except NotFound:
            if series is None:
                raise
            self._known.pop(key, None)  # the Event has expired: start a new series
        else:
            self.written += 1
            return True
        return False

    def _retry(self, key: _Key, pending: _PendingEvent) -> None:
        newer = self._waiting.get(key)
        if newer is None:
            self._wait(key, pending, RETRY_DELAY)
        else:
            newer.count, newer.first = newer.count + pending.count, pending.first

    def _remember(self, key: _Key, body: dict[str, Any]) -> None:
        count = (body.get("series") or {}).get("count") or 1
        self._known[key] = _Series(count, body["metadata"]["resourceVersion"], self._monotonic())
        self._known.move_to_end(key)
        if len(self._known) > MAX_SERIES:
            self._known.popitem(last=False)

    def _continue(self, key: _Key, regarding: Regarding, body: dict[str, Any]) -> None:
        """Continue a series of another replica. Raises ``ApiError`` if the Event of that name is about something else.

        Anybody who may create Events can give one any name.
        """
        about = body.get("involvedObject") or body.get("regarding") or {}
        if (about.get("namespace"), about.get("name"), about.get("uid")) != regarding:
            name = body["metadata"]["name"]
            raise ApiError(409, "AlreadyExists", f'the Event "{name}" is about another object: delete it')
        self._remember(key, body)

    def _event(self, name: str, key: _Key, pending: _PendingEvent) -> dict[str, Any]:
        regarding = pending.regarding
        event: dict[str, Any] = {
            "metadata": {"name": name, "namespace": regarding.namespace},
            "eventTime": micro_time(pending.first),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": pending.action,
            "reason": key.reason,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
            "note": cut(pending.note),
            "type": pending.type,
        }
        if pending.count > 1:
            event["series"] = {"count": pending.count, "lastObservedTime": micro_time(pending.last)}
        return event

    def _patch(self, series: _Series, pending: _PendingEvent) -> dict[str, Any]:
        return {
            "metadata": {"resourceVersion": series.version},
            "series": {"count": series.count + pending.count, "lastObservedTime": micro_time(pending.last)},
            "message": cut(pending.note),
            "type": pending.type,
            "action": pending.action,
            "reportingInstance": self._instance,
        }


def name_of(key: _Key, regarding: Regarding) -> str:
    """Return the name of the Event, which is the same for every replica."""
    return f"{regarding.name}.{blake2b(f'{key.uid}/{key.reason}'.encode(), digest_size=8).hexdigest()}"


def cut(note: str) -> str:
    """Cut a note to the limit of the API, at a whole character."""
    data = note.encode()
    return note if len(data) <= NOTE_LIMIT else data[: NOTE_LIMIT - 4].decode(errors="ignore") + "…"


def micro_time(instant: Instant) -> str:
    """Format an instant as a Kubernetes MicroTime."""
    return to_datetime(instant).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
