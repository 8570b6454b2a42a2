"""Reconciling: what was seen of the cluster's objects becomes what the store holds.

Every replica does this with everything that it sees, whenever it sees it: the store takes what is new and leaves what
it knows better, so order, repetition and a stale watch do no harm. What comes in is kept by uid, the latest of each,
until the store has taken it; an outage of the store makes that later, never less.

Deletions go first: a name that is free again may be taken by the next object in the same batch.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from scheduledjob.domain.schedule.machine import first_state, first_wake
from scheduledjob.domain.schedule.requests import NONE
from scheduledjob.domain.schedule.restore import restored_state
from scheduledjob.domain.schedule.state import State
from scheduledjob.engine.store import NewRow, Origin, Put, Store, StoreError
from scheduledjob.jobs.container.pod_spec import POD_KIND
from scheduledjob.kube.report.state_from_status import state_from_status
from scheduledjob.kube.report.status import UNKNOWN_KIND, engine_text

from .desired_state import DesiredState, ObjectRules, asked_of, read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .known_objects import KnownObjects

log = structlog.get_logger("scheduledjob.reconcile")

BATCH = 500
"""Objects in one write: a listing of many is a few of these, one object alone does not wait for others."""
RETRY_DELAY = 1.0
"""Seconds until a store that did not answer is asked again."""


class ReplicaHandle(Protocol):
    """What is told of what we wrote, so that it need not wait to hear it from the store."""

    def due(self, instant: Instant) -> None: ...

    def changed(self, slugs: Sequence[str]) -> None: ...


class ReconcileObserver(Protocol):
    """Who wants to know what became of objects; all calls are in the event loop and return quickly."""

    def taken(self, desired: DesiredState) -> None:
        """The store has a new wish of this object, or what its status says of it is out of date."""

    def tombstoned(self, uid: str) -> None:
        """The object is gone, and so is its schedule."""

    def refused(self, body: Mapping[str, Any], reason: str) -> None:
        """Something that was asked for by annotation is not done."""

    def failed(self) -> None:
        """The store could not be written, or an object not be read."""


@dataclass(slots=True)
class _PendingObject:
    body: Mapping[str, Any]
    gone: bool


class Reconciler:
    """Brings what is seen into the store. ``seen`` at any time; ``run`` until it is cancelled."""

    def __init__(
        self,
        store: Store,
        objects: KnownObjects,
        rules: ObjectRules,
        replica: ReplicaHandle,
        observer: ReconcileObserver,
        *,
        status_is_complete: Callable[[], bool],
    ) -> None:
        """``status_is_complete`` returns whether status says everything about the runs of an object that the store does
        not know: its last operator wrote every status before it shut down."""
        self._store = store
        self._objects = objects
        self._rules = rules
        self._replica = replica
        self._observer = observer
        self._status_is_complete = status_is_complete
        self._waiting: dict[str, _PendingObject] = {}
        """By uid, in the order in which they came first."""
        self._came = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def seen(self, body: Mapping[str, Any], *, deleted: bool = False, again: bool = False) -> None:
        """An object as it is now, or as it was last. One that is being deleted starts nothing more.

        What is none of our business (labels, status) is passed over if the store has the rest; ``again``: it has not.
        """
        metadata = body["metadata"]
        gone = deleted or "deletionTimestamp" in metadata
        uid = metadata["uid"]
        if gone:
            self._waiting.pop(uid, None)
        else:
            waiting = self._waiting.get(uid)
            if waiting is not None and waiting.gone:
                return  # a uid never comes back
            known = self._objects.saw(body)
            if known.version != metadata["resourceVersion"]:
                return  # seen before, in a newer version
            if not again and waiting is None and known.desired == (known.generation, asked_of(body)):
                return
        self._waiting[uid] = _PendingObject(body, gone)
        self._idle.clear()
        self._came.set()

    async def settled(self) -> None:
        """Wait until the store has everything that was seen."""
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                batch = [self._waiting.pop(uid) for uid in list(self._waiting)[:BATCH]]
                try:
                    await self._take(batch)
                except StoreError as error:
                    log.warning("objects wait for the store", objects=len(batch), error=str(error))
                    self._observer.failed()
                    for pending in batch:
                        uid = pending.body["metadata"]["uid"]
                        # A newer version of the object wins, but a deletion is final.
                        if pending.gone or uid not in self._waiting:
                            self._waiting[uid] = pending
                    await asyncio.sleep(RETRY_DELAY)
            self._idle.set()

    async def _take(self, batch: Sequence[_PendingObject]) -> None:
        """Bring these into the store. What it can't hold keeps nothing else out of it."""
        try:
            await self._tombstone([pending.body for pending in batch if pending.gone])
            await self._write([pending.body for pending in batch if not pending.gone])
        except StoreError:
            raise
        except Exception:
            if len(batch) > 1:
                for pending in batch:
                    await self._take([pending])
                return
            log.exception("an object is left out", uid=batch[0].body["metadata"]["uid"])
            self._observer.failed()

    async def _tombstone(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        if not bodies:
            return
        gone = [
            (f"{body['metadata']['namespace']}/{body['metadata']['name']}", body["metadata"]["uid"]) for body in bodies
        ]
        await self._store.tombstone(gone)
        self.tombstoned(gone)

    def tombstoned(self, gone: Sequence[tuple[str, str]]) -> None:
        """The schedules of these (slug, uid) have been ended."""
        self._objects.gone([uid for _, uid in gone])
        self._replica.changed([slug for slug, _ in gone])
        for _, uid in gone:
            self._observer.tombstoned(uid)

    async def _write(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        if not bodies:
            return
        now = await self._store.now()
        found: list[tuple[Mapping[str, Any], DesiredState, NewRow]] = []
        for body in bodies:
            try:
                desired = read_object(body, self._rules)
                found.append((body, desired, self._new_row(body, desired, now)))
            except Exception:  # one object must never keep the others from the store
                log.exception("an object can't be read", uid=body["metadata"]["uid"])
                self._observer.failed()
        # A name twice is an object and its next incarnation: the older one waits for its deletion to be seen.
        newest = {
            desired.slug: (body, desired, row)
            for body, desired, row in sorted(found, key=lambda item: item[1].created_at)
        }
        puts = await self._store.reconcile([row for _, _, row in newest.values()])
        await self._forget(
            [desired for (_, desired, _), put in zip(newest.values(), puts, strict=True) if put is Put.STALE]
        )
        changed: list[str] = []
        soonest: Instant | None = None
        for (body, desired, row), put in zip(newest.values(), puts, strict=True):
            if put is Put.STALE:
                continue
            taken = (desired.generation, desired.asked)
            self._objects.understood(desired.uid, desired.slug, taken, desired.follows, valid=desired.ready)
            if desired.refused_act:
                self._observer.refused(body, desired.refused_act)
            if put is Put.UPDATED or not _status_is_current(body, desired, row if put is Put.CREATED else None):
                self._observer.taken(desired)
            if put is Put.UPDATED:
                changed.append(desired.slug)
                soonest = now
            elif put is Put.CREATED and row.wake_at is not None and (soonest is None or row.wake_at < soonest):
                soonest = row.wake_at
        self._replica.changed(changed)
        if soonest is not None:
            self._replica.due(soonest)

    async def _forget(self, stale: Sequence[DesiredState]) -> None:
        """Of those that the store would not have, the ones whose end it knows: a list that was under way had them."""
        if stale:
            rows = await self._store.get([desired.slug for desired in stale])
            ended = [
                desired.uid for desired, row in zip(stale, rows, strict=True) if row is None or row.uid != desired.uid
            ]
            self._objects.gone(ended)

    def _new_row(self, body: Mapping[str, Any], desired: DesiredState, now: Instant) -> NewRow:
        """The row as it begins, should the store not have it yet."""
        state, wake_at = self._first(body, desired, now)
        return NewRow(
            desired.slug,
            desired.uid,
            desired.kind,
            Origin.CLUSTER,
            desired.definition.encode(),
            state,
            wake_at,
            payload=desired.payload,
            created_at=desired.created_at,
            generation=desired.generation,
            requests=desired.requests.encode(),
        )

    def _first(self, body: Mapping[str, Any], desired: DesiredState, now: Instant) -> tuple[bytes, Instant | None]:
        """The state that the row begins with, and when it is due."""
        wake_at: Instant | None
        if (restored := self._restore(body.get("status") or {}, desired, now)) is not None:
            state, wake_at = restored
            for run in [*state.runs, *state.waiting]:
                if run.token and run.token == desired.requests.run:
                    run.payload = desired.requests.payload
            as_it_was = state.generation == desired.generation and desired.requests == NONE
            return state.encode(), wake_at if as_it_was else now
        detached = desired.kind == POD_KIND
        # The API server's clock may be ahead of the store's: that would put off what is due by the difference.
        created = min(desired.created_at, now)
        state = first_state(desired.definition, desired.slots, desired.uid, created, detached=detached)
        state.generation = desired.generation
        wake_at = first_wake(desired.definition, state, now)
        if desired.requests != NONE:
            state.revision, wake_at = 0, now  # whoever takes it first looks at what is asked for
        return state.encode(), wake_at

    def _restore(
        self, status: Mapping[str, Any], desired: DesiredState, now: Instant
    ) -> tuple[State, Instant | None] | None:
        """The state that status remembers, and when it is due: by the engine's record, else by what people are told."""

        def restored(text: str) -> tuple[State, Instant | None] | None:
            # What nobody could run when that was written, and nobody can now, did not begin either.
            in_order = self._status_is_complete() or (bool(desired.unknown_kind) and _was_of_unknown_kind(status))
            detached = desired.kind == POD_KIND
            try:
                return restored_state(
                    text, desired.definition, desired.slots, desired.uid, now, in_order=in_order, detached=detached
                )
            except msgspec.MsgspecError as error:
                log.warning("the status of an object is none of ours", slug=desired.slug, error=str(error))
                return None

        if (text := status.get("engine")) and (found := restored(text)) is not None:
            return found
        state = state_from_status(status, desired, now)
        return None if state is None else restored(state.encode().decode())


def _was_of_unknown_kind(status: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Stalled" and condition["reason"] == UNKNOWN_KIND
        for condition in status.get("conditions") or ()
    )


def _status_is_current(body: Mapping[str, Any], desired: DesiredState, new: NewRow | None) -> bool:
    """Whether status tells of this wish already; and of the ``new`` row, where the store did not have it: an operator
    that finds ten thousand objects as its store in memory left them has nothing to write."""
    status = body.get("status") or {}
    ready = next(
        (condition["status"] for condition in status.get("conditions") or () if condition["type"] == "Ready"), ""
    )
    if status.get("observedGeneration") != desired.generation or ready != str(desired.ready):
        return False
    return new is None or (desired.ready and status.get("engine") == engine_text(State.decode(new.state)))
