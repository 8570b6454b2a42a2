"""The reconciler writes the objects of the cluster to the store.

Every replica does this with every object that it sees. The store accepts what is new and ignores what is older, so the
order of the objects, repetitions and a stale watch do no harm. The newest version of each object waits in memory until
the store has it. An outage of the store delays them, but loses none.

If the store answers, but does not accept a batch, the objects of that batch are tried again in smaller ones, behind all
others. So one that can't be written, because somebody has locked its row for example, delays no other.

Deletions are written first, because another object of the same batch may have the same name.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec
import structlog

from scheduledjob.domain.schedule.machine import first_state, first_wake
from scheduledjob.domain.schedule.requests import NO_REQUESTS
from scheduledjob.domain.schedule.restore import restored_state
from scheduledjob.domain.schedule.state import State
from scheduledjob.engine.store import Put, Store, StoreError
from scheduledjob.engine.stored_row import NewRow, Origin
from scheduledjob.engine.threads import run_apart
from scheduledjob.jobs.container.pod_spec import POD_KIND
from scheduledjob.kube.report.state_from_status import state_from_status
from scheduledjob.kube.report.status import UNKNOWN_KIND, engine_text

from .desired_state import DesiredState, ObjectRules, read_object, refuse_circle, requests_key, slug_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .known_objects import KnownObjects

_R = TypeVar("_R")

log = structlog.get_logger("scheduledjob.reconcile")

BATCH = 500
"""Objects in one write to the store. An object that comes alone is written alone."""
LARGE = 2048
"""Bytes of a spec. A smaller object is read within milliseconds, whatever it contains."""
MAX_REFUSED = 100_000
"""How many refused objects are remembered for the sweep."""
RETRY_DELAY = 1.0
"""Seconds until a write is tried again after the store did not answer."""


class ReplicaHandle(Protocol):
    """The replica of this process, which learns of new rows sooner from here than from the store."""

    def due(self, instant: Instant) -> None: ...

    def changed(self, slugs: Sequence[str]) -> None: ...


class ReconcileObserver(Protocol):
    """Learns what becomes of objects. All calls are in the event loop and return quickly."""

    def reconciled(self, desired: DesiredState) -> None:
        """The store has a new definition of this object, or its status is out of date."""

    def tombstoned(self, uid: str) -> None:
        """The object is gone, and so is its schedule."""

    def swept(self, count: int) -> None:
        """The sweep has ended this many schedules."""

    def request_refused(self, body: Mapping[str, Any], reason: str) -> None:
        """A request made by annotation can't be carried out."""

    def reconcile_failed(self) -> None:
        """The store could not be written, or an object could not be read."""


@dataclass(slots=True)
class _PendingObject:
    body: Mapping[str, Any]
    gone: bool
    restored: bool = False
    failures: int = 0
    """How often a batch with it failed although the store answered."""


class _Candidate(NamedTuple):
    """An object, and the row to create if the store does not have it."""

    body: Mapping[str, Any]
    desired: DesiredState
    row: NewRow


_Read: TypeAlias = "tuple[Mapping[str, Any], DesiredState]"
Check: TypeAlias = "Callable[[DesiredState, Mapping[str, Any]], Awaitable[str]]"


async def _accept(desired: DesiredState, body: Mapping[str, Any]) -> str:
    return ""


class Reconciler:
    """Call ``observe`` at any time. ``run`` writes until it is cancelled."""

    def __init__(
        self,
        store: Store,
        objects: KnownObjects,
        rules: ObjectRules,
        replica: ReplicaHandle,
        observer: ReconcileObserver,
        *,
        status_is_complete: Callable[[], bool],
        check: Check = _accept,
    ) -> None:
        """``status_is_complete`` returns whether the status of an object that the store does not know has all its runs,
        because the last operator wrote every status before it shut down. ``check`` returns why the API server would
        refuse the Pods of an object."""
        self._store = store
        self._objects = objects
        self._rules = rules
        self._replica = replica
        self._observer = observer
        self._status_is_complete = status_is_complete
        self._check = check
        self._waiting: dict[str, _PendingObject] = {}
        """By uid, in the order of arrival."""
        self._refused: dict[str, int] = {}
        self._added = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def observe(
        self, body: Mapping[str, Any], *, deleted: bool = False, force: bool = False, restored: bool = False
    ) -> None:
        """Queue an object as it is now, or as it was when it was deleted.

        An object with a deletionTimestamp counts as deleted, so it starts no more runs. A change of labels or status is
        ignored, because the store has the rest. ``force`` writes the object anyway: the store does not have it.
        ``restored``: the cluster was restored from a backup, so this wins over everything that is known of the object.
        """
        metadata = body["metadata"]
        gone = deleted or "deletionTimestamp" in metadata
        uid = metadata["uid"]
        if gone:
            self._waiting.pop(uid, None)
        else:
            if restored:
                self._objects.remove([uid])
            waiting = self._waiting.get(uid)
            if waiting is not None and waiting.gone:
                return  # a deleted uid never returns
            known = self._objects.update(body)
            if known.version != metadata["resourceVersion"]:
                return  # a newer version is known
            if not force and waiting is None and known.reconciled == (known.generation, requests_key(body)):
                return
        self._waiting[uid] = _PendingObject(body, gone, restored)
        self._idle.clear()
        self._added.set()

    async def settled(self) -> None:
        """Wait until the store has everything that was observed."""
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                batch = self._next_batch()
                try:
                    await self._write_batch(batch)
                except StoreError as error:
                    log.warning("objects wait for the store", objects=len(batch), error=str(error))
                    self._observer.reconcile_failed()
                    answers = await self._store_answers()
                    for pending in batch:
                        pending.failures += answers
                        uid = pending.body["metadata"]["uid"]
                        # A newer version of the object wins, but a deletion is final.
                        if pending.gone or uid not in self._waiting:
                            self._waiting[uid] = pending
                    await asyncio.sleep(RETRY_DELAY)
            self._idle.set()

    def _next_batch(self) -> list[_PendingObject]:
        """Take the objects that failed least, fewer at once the more often they did."""
        failures = min(pending.failures for pending in self._waiting.values())
        uids = (uid for uid, pending in self._waiting.items() if pending.failures == failures)
        return [self._waiting.pop(uid) for uid in list(islice(uids, max(1, BATCH >> failures)))]

    async def _store_answers(self) -> bool:
        try:
            await self._store.now()
        except StoreError:
            return False
        return True

    async def _write_batch(self, batch: Sequence[_PendingObject]) -> None:
        """Write these to the store. If it can't hold an object, leave out only that object."""
        try:
            await self._tombstone([pending.body for pending in batch if pending.gone])
            await self._write([pending for pending in batch if not pending.gone])
        except StoreError:
            raise
        except Exception:  # the store can't hold one of the objects: find out which
            if len(batch) > 1:
                for pending in batch:
                    await self._write_batch([pending])
                return
            log.exception("an object can't be stored", uid=batch[0].body["metadata"]["uid"])
            self._observer.reconcile_failed()

    async def _tombstone(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        if not bodies:
            return
        gone = [(slug_of(body), body["metadata"]["uid"]) for body in bodies]
        await self._store.tombstone(gone)
        self._tombstoned(gone)

    def swept(self, gone: Sequence[tuple[str, str]]) -> None:
        """The sweep has ended these schedules, given as (slug, uid)."""
        self._observer.swept(len(gone))
        self._tombstoned(gone)

    def _tombstoned(self, gone: Sequence[tuple[str, str]]) -> None:
        self._objects.remove([uid for _, uid in gone])
        self._replica.changed([slug for slug, _ in gone])
        for _, uid in gone:
            self._observer.tombstoned(uid)

    async def _write(self, batch: Sequence[_PendingObject]) -> None:
        if not batch:
            return
        now = await self._store.now()
        read = await self._read([pending.body for pending in batch])
        candidates = await self._candidates(await self._checked(read), now)
        restored = {pending.body["metadata"]["uid"] for pending in batch if pending.restored}
        for candidate in candidates:
            candidate.row.restored = candidate.desired.uid in restored
        puts = await self._store.reconcile([candidate.row for candidate in candidates])
        results = list(zip(candidates, puts, strict=True))
        await self._forget([candidate.desired for candidate, put in results if put is Put.STALE])
        await self._report([(candidate, put) for candidate, put in results if put is not Put.STALE], now)

    async def _checked(self, found: Sequence[_Read]) -> Sequence[_Read]:
        """Refuse the objects whose Pods the API server would refuse."""
        problems = await asyncio.gather(*(self._check(desired, body) for body, desired in found))
        for (_, desired), problem in zip(found, problems, strict=True):
            if problem:
                desired.refuse(problem)
        return found

    async def _read(self, bodies: Sequence[Mapping[str, Any]]) -> list[_Read]:
        found: list[_Read] = []
        for body in bodies:
            await asyncio.sleep(0)  # one object may take milliseconds, and a batch must not hold the event loop
            try:
                desired = await self._apart(body, partial(read_object, body, self._rules))
                if circle := self._objects.circle(desired.slug, desired.follows):
                    refuse_circle(desired, circle)
                found.append((body, desired))
            except Exception:  # a faulty object must not keep the others from the store
                self._unreadable(body)
        return found

    @staticmethod
    async def _apart(body: Mapping[str, Any], compute: Callable[[], _R]) -> _R:
        """Compute what belongs to an object: in a thread, if the object is so large that this may take long."""
        return await run_apart(compute) if _is_large(body) else compute()

    def _unreadable(self, body: Mapping[str, Any]) -> None:
        log.exception("an object can't be read", uid=body["metadata"]["uid"])
        self._observer.reconcile_failed()

    async def _candidates(self, read: Sequence[_Read], now: Instant) -> list[_Candidate]:
        found: list[_Candidate] = []
        for body, desired in read:
            await asyncio.sleep(0)
            try:
                row = await self._apart(body, partial(self._new_row, body, desired, now))
                found.append(_Candidate(body, desired, row))
            except Exception:  # as above
                self._unreadable(body)
        # If a name occurs twice, the older object was deleted, and the watch has yet to report that.
        oldest_first = sorted(found, key=lambda candidate: candidate.desired.created_at)
        return list({candidate.desired.slug: candidate for candidate in oldest_first}.values())

    async def _report(self, results: Sequence[tuple[_Candidate, Put]], now: Instant) -> None:
        """Report what the store has accepted to the known objects, the observer and the replica."""
        changed: list[str] = []
        soonest: Instant | None = None
        for (body, desired, row), put in results:
            await asyncio.sleep(0)
            reconciled = (0, "") if desired.depends_on_others else (desired.generation, desired.requests_key)
            keep = None if desired.problem else desired.definition.keep
            self._objects.set_reconciled(
                desired.uid, desired.slug, reconciled, desired.follows, valid=desired.ready, keep=keep
            )
            if desired.request_problem:
                self._observer.request_refused(body, desired.request_problem)
            if put is Put.UPDATED or not _status_is_current(body, desired, row if put is Put.CREATED else None):
                self._observer.reconciled(desired)
            if put is Put.UPDATED:
                changed.append(desired.slug)
                soonest = now
            elif put is Put.CREATED and row.wake_at is not None and (soonest is None or row.wake_at < soonest):
                soonest = row.wake_at
        self._replica.changed(changed)
        if soonest is not None:
            self._replica.due(soonest)

    async def _forget(self, stale: Sequence[DesiredState]) -> None:
        """Forget the stale objects that the store knows to be deleted. A list that began before may contain them."""
        if stale:
            rows = await self._store.get([desired.slug for desired in stale])
            ended: list[str] = []
            for desired, row in zip(stale, rows, strict=True):
                if row is None or row.uid != desired.uid:
                    ended.append(desired.uid)
                    self._refused[desired.uid] = 0
                else:
                    self._refused[desired.uid] = row.generation
            self._objects.remove(ended)
            if len(self._refused) > MAX_REFUSED:  # a replica that does not sweep needs them only if it begins to
                self._refused.clear()

    def take_refused(self) -> dict[str, int]:
        """Return the objects, by uid, that the store has refused since the last call.

        The value is the later generation that the store has; 0: the object is deleted there.
        """
        refused, self._refused = self._refused, {}
        return refused

    def _new_row(self, body: Mapping[str, Any], desired: DesiredState, now: Instant) -> NewRow:
        """Return the row to create if the store does not have it yet."""
        state, wake_at = self._first_state(body, desired, now)
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

    def _first_state(
        self, body: Mapping[str, Any], desired: DesiredState, now: Instant
    ) -> tuple[bytes, Instant | None]:
        """Return the first state of the row, and when it is due."""
        wake_at: Instant | None
        if (restored := self._restore(body.get("status") or {}, desired, now)) is not None:
            state, wake_at = restored
            for run in [*state.runs, *state.waiting]:
                if state.generation != desired.generation:
                    run.revision = 0  # it has an older payload than the row
                if run.token and run.token == desired.requests.run:
                    run.payload = desired.requests.payload
            unchanged = state.generation == desired.generation and desired.requests == NO_REQUESTS
            return state.encode(), wake_at if unchanged else now
        detached = desired.kind == POD_KIND
        # The API server's clock may be ahead of the store's. That must not delay the first slot.
        created = min(desired.created_at, now)
        state = first_state(desired.definition, desired.slots, desired.uid, created, detached=detached)
        state.generation = desired.generation
        wake_at = first_wake(desired.definition, state, now)
        if desired.requests != NO_REQUESTS:
            state.revision, wake_at = 0, now  # the first owner handles the requests
        return state.encode(), wake_at

    def _restore(
        self, status: Mapping[str, Any], desired: DesiredState, now: Instant
    ) -> tuple[State, Instant | None] | None:
        """Return the state that status describes, and when it is due; None if it describes none.

        ``status.engine`` is preferred to the other fields.
        """

        def restored(text: str) -> tuple[State, Instant | None] | None:
            # If the kind was unknown when the status was written, and still is, no run has begun since.
            clean_shutdown = self._status_is_complete() or (bool(desired.unknown_kind) and _was_of_unknown_kind(status))
            detached = desired.kind == POD_KIND
            try:
                return restored_state(
                    text,
                    desired.definition,
                    desired.slots,
                    desired.uid,
                    now,
                    clean_shutdown=clean_shutdown,
                    detached=detached,
                )
            except msgspec.MsgspecError as error:
                log.warning("the status of an object can't be restored", slug=desired.slug, error=str(error))
                return None

        if (text := status.get("engine")) and (found := restored(text)) is not None:
            return found
        state = state_from_status(status, desired, now)
        return None if state is None else restored(state.encode().decode())


def _is_large(body: Mapping[str, Any]) -> bool:
    try:
        spec = len(msgspec.json.encode(body.get("spec")))
    except RecursionError:  # it is nested so deeply that it will be refused
        return True
    return spec > LARGE or len((body.get("status") or {}).get("engine") or "") > LARGE


def _was_of_unknown_kind(status: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] == "Stalled" and condition["reason"] == UNKNOWN_KIND
        for condition in status.get("conditions") or ()
    )


def _status_is_current(body: Mapping[str, Any], desired: DesiredState, new: NewRow | None) -> bool:
    """Return whether status already describes this desired state, and the ``new`` row if the store did not have it.

    An operator that restarts with its store in memory thus need not write the status of ten thousand objects.
    """
    status = body.get("status") or {}
    ready = next(
        (condition["status"] for condition in status.get("conditions") or () if condition["type"] == "Ready"), ""
    )
    if status.get("observedGeneration") != desired.generation or ready != str(desired.ready):
        return False
    return new is None or (desired.ready and status.get("engine") == engine_text(State.decode(new.state)))
