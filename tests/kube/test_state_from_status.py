"""An object that the store does not know, with the status that was written of it: with the engine's record, and
without."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from scheduledjob.domain.schedule.state import Completion, Run, State
from scheduledjob.domain.time.instants import MINUTE, SECOND, Instant, rfc3339
from scheduledjob.engine.stored_row import Row
from scheduledjob.kube.reconcile.desired_state import DesiredState, ObjectRules, read_object
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.reconcile.reconciler import Reconciler, _PendingObject
from scheduledjob.kube.report.status import StoredSchedule, build_status
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOW: Instant = 1_796_119_200 * SECOND
CREATED = NOW - 60 * MINUTE
CUSTOM = {"custom": {"kind": "print", "params": {"text": "x"}}}
CONTAINER = {"container": {"image": "busybox:1"}}


class SilentObserver:
    """Stands in for the observer and the replica, and ignores every call."""

    def due(self, instant: Instant) -> None: ...
    def changed(self, slugs: Sequence[str]) -> None: ...
    def reconciled(self, desired: DesiredState) -> None: ...
    def tombstoned(self, uid: str) -> None: ...
    def swept(self, count: int) -> None: ...
    def request_refused(self, body: Mapping[str, Any], reason: str) -> None: ...
    def reconcile_failed(self) -> None:
        raise AssertionError("an object could not be read")


def an_object(job: Mapping[str, Any] = CUSTOM, asked: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "ns",
            "name": "a",
            "uid": "u",
            "generation": 3,
            "resourceVersion": "7",
            "creationTimestamp": rfc3339(CREATED),
            "annotations": {f"scheduledjobs.dev/{name}": token for name, token in asked.items()},
        },
        "spec": {"triggers": [{"every": "1m"}], "job": job, "concurrencyPolicy": "Allow"},
    }


def with_status(
    body: dict[str, Any], state: State, *, engine: str | None = None, owner: str | None = "somebody", known: bool = True
) -> dict[str, Any]:
    """The object with the status of that state; ``engine`` in place of the engine's own record. ``known``: whether who
    wrote it could run the job."""
    desired = read_object(body, ObjectRules())
    assert not desired.problem
    state.generation, state.when = desired.generation, desired.definition.when_digest
    row = Row(
        1, desired.slug, desired.uid, desired.kind, "cluster", desired.definition.encode(), 1, NOW, None, None, None,
        CREATED, 1, None, state.encode(), owner=owner, generation=desired.generation,
    )  # fmt: skip
    stored = StoredSchedule(row, state, desired.definition, desired.slots, [])
    status = build_status(stored, {desired.kind} if known else set(), {}, NOW)
    return body | {"status": {name: part for name, part in status.items() if part is not None} | {"engine": engine}}


async def restored(
    body: dict[str, Any], *, status_is_complete: bool = False, rules: ObjectRules | None = None
) -> State:
    """Return the state of the row in a store that did not know the object."""
    store = MemoryStore(MemoryDatabase(clock=lambda: NOW))
    reconciler = Reconciler(
        store,
        KnownObjects(),
        rules or ObjectRules(),
        SilentObserver(),
        SilentObserver(),
        status_is_complete=lambda: status_is_complete,
    )
    await reconciler._write([_PendingObject(body, gone=False)])
    (row,) = await store.get(["ns/a"])
    assert row is not None
    return State.decode(row.state)


UNREADABLE = [None, "", "}{", '{"floor": -1}', '{"floor": 99999999999999999999999}']


@pytest.mark.parametrize("engine", UNREADABLE)
async def test_decided_slots_stay_decided(engine: str | None) -> None:
    before = State(
        decided_until=NOW, started=7, succeeded=5, failed=2, missed=3, last_success=NOW - MINUTE,
        handled=("run-now/once", "cancel/u-1", "resume/again"),
    )  # fmt: skip
    state = await restored(with_status(an_object(), before, engine=engine))
    assert state.decided_until == NOW
    assert (state.started, state.succeeded, state.failed, state.missed) == (7, 5, 2, 3)
    assert sorted(state.handled) == sorted(before.handled)
    assert state.last_success == NOW - MINUTE


@pytest.mark.parametrize("engine", UNREADABLE)
async def test_begun_runs_are_restored(engine: str | None) -> None:
    slot = NOW - 5 * MINUTE
    runs = [
        Run(slot=slot, due=slot, begun=slot + 7, attempt=2),
        Run(slot=slot + 1, due=slot + 1, begun=slot + 1, token="by-hand"),
    ]
    body = with_status(
        an_object(asked={"run-now": "by-hand", "run-now-payload": "p"}),
        State(decided_until=NOW, runs=runs, handled=("run-now/by-hand",)),
        engine=engine,
    )
    state = await restored(body)
    assert [(run.slot, run.attempt, run.lost, run.token, run.payload) for run in state.runs] == [
        (slot, 3, 1, "", None),
        (slot + 1, 2, 1, "by-hand", b"p"),
    ]


@pytest.mark.parametrize("engine", UNREADABLE)
async def test_a_pod_is_adopted(engine: str | None) -> None:
    slot = NOW - 5 * MINUTE
    run = Run(slot=slot, due=slot, begun=slot, detached=True)
    state = await restored(with_status(an_object(CONTAINER), State(decided_until=slot, runs=[run]), engine=engine))
    assert state.runs
    assert (state.runs[0].slot, state.runs[0].attempt, state.runs[0].adoptable) == (slot, 1, True)


@pytest.mark.parametrize("engine", UNREADABLE)
@pytest.mark.parametrize("status_is_complete", [True, False])
async def test_a_planned_slot_is_one_run(engine: str | None, status_is_complete: bool) -> None:
    before = State(decided_until=NOW - MINUTE, next=Run(slot=NOW, due=NOW))
    state = await restored(with_status(an_object(), before, engine=engine), status_is_complete=status_is_complete)
    runs = [*state.runs, *([state.next] if state.next is not None and state.next.due <= NOW else [])]
    assert [(run.slot, run.attempt) for run in runs] == [(NOW, 1 if status_is_complete else 2)]


@pytest.mark.parametrize("job", [CUSTOM, CONTAINER], ids=["custom", "pod"])
@pytest.mark.parametrize("engine", UNREADABLE)
async def test_a_planned_slot_that_has_begun_is_one_run(engine: str | None, job: dict[str, Any]) -> None:
    before = State(decided_until=NOW - MINUTE, started=3, next=Run(slot=NOW, due=NOW, detached=job is CONTAINER))
    body = with_status(an_object(job), before, engine=engine)
    body["status"]["active"][0]["started"] = rfc3339(NOW)
    state = await restored(body)
    assert [run.slot for run in state.runs] == [NOW]
    assert (state.decided_until, state.started) == (NOW, 4)
    assert state.next is None or state.next.slot > NOW


@pytest.mark.parametrize("kept", [True, False], ids=["engine", "fields"])
async def test_a_run_of_an_unknown_kind_did_not_begin(kept: bool) -> None:
    """No plugin of that name was installed before or since. If there is or was a plugin, the run may have begun."""
    before = State(decided_until=NOW - 2 * MINUTE, next=Run(slot=NOW - MINUTE, due=NOW - MINUTE))

    def body_of(*, known: bool) -> dict[str, Any]:
        body = with_status(an_object(), msgspec.structs.replace(before), owner=None, known=known)
        body["status"]["engine"] = before.encode().decode() if kept else None
        return body

    unknown = ObjectRules(kinds=frozenset())
    state = await restored(body_of(known=False), rules=unknown)
    assert state.runs == []
    assert state.next is None or (state.next.attempt, state.next.begun) == (1, 0)
    if kept:
        before.generation, before.when = 3, read_object(an_object(), ObjectRules()).definition.when_digest
        assert state.next is not None
        assert state.next.slot == NOW - MINUTE
        for body, rules in ((body_of(known=True), unknown), (body_of(known=False), ObjectRules())):
            assert [run.attempt for run in (await restored(body, rules=rules)).runs] == [2, 2]


@pytest.mark.parametrize(
    ("before", "part"),
    [
        (State(decided_until=NOW, completed=Completion.JOB), "completed"),
        (State(decided_until=NOW, paused=True, failures_in_row=3), "paused"),
        (State(decided_until=NOW, suspended=True), "suspended"),
    ],
    ids=["completed", "paused", "suspended"],
)
@pytest.mark.parametrize("engine", UNREADABLE)
async def test_a_stopped_schedule_stays_stopped(before: State, part: str, engine: str | None) -> None:
    state = await restored(with_status(an_object(), before, engine=engine))
    assert getattr(state, part) == getattr(before, part)


async def test_the_engine_field_is_preferred() -> None:
    body = with_status(an_object(), State(decided_until=NOW - 5 * MINUTE))
    body["status"]["engine"] = State(decided_until=NOW - MINUTE).encode().decode()
    assert (await restored(body, status_is_complete=True)).decided_until == NOW - MINUTE


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"floor": "yesterday"},
        {"floor": "2026-01-01T00:00:00"},
        {"floor": 5},
        {"active": "x", "floor": rfc3339(NOW)},
    ],
)
async def test_an_empty_or_invalid_status_restores_nothing(status: dict[str, Any]) -> None:
    state = await restored(an_object() | {"status": status})
    assert state.decided_until == CREATED
