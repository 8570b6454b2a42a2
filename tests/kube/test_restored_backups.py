"""A store or an etcd that was restored from a backup: what the lists of objects find out, and what becomes of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock, Mock

import pytest

from scheduledjob.domain.schedule import restore
from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.schedule.restore import is_older, told_state
from scheduledjob.domain.schedule.state import Outcome, Run, State, record_of
from scheduledjob.kube.reconcile.desired_state import ObjectRules
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.reconcile.reconciler import Reconciler
from scheduledjob.kube.reconcile.resync import PageCheck, Resync
from scheduledjob.kube.report.status import engine_text
from scheduledjob.kube.runtime import OperatorRuntime
from scheduledjob.kube.settings.operator_settings import OperatorSettings

from .test_reconciler import NOW, ReconcileObserver, Store, body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from scheduledjob.engine.replica import Replica
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.report.status_queue import StatusQueue


class Queue:
    def changed(self, uid: str) -> None: ...


class Restores:
    def __init__(self) -> None:
        self.objects: list[str] = []
        self.stores: list[str] = []

    def object_restored(self, body: Mapping[str, Any]) -> None:
        self.objects.append(body["metadata"]["name"])

    def store_restored(self, body: Mapping[str, Any]) -> None:
        self.stores.append(body["metadata"]["name"])


class Operator:
    """A reconciler and a page check on one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.found = Restores()
        observer = ReconcileObserver()
        objects = KnownObjects()
        self.reconciler = Reconciler(store, objects, ObjectRules(), observer, observer, status_is_complete=lambda: True)
        self.page_check = PageCheck(store, objects, self.reconciler, cast("StatusQueue", Queue()), self.found)

    async def watch(self, *bodies: dict[str, Any], deleted: bool = False) -> None:
        for seen in bodies:
            self.reconciler.observe(seen, deleted=deleted)
        await self.reconciler.settled()

    async def sweep(self, *bodies: dict[str, Any]) -> None:
        self.page_check.begin()
        await self.page_check.check(list(bodies))
        await self.reconciler.settled()

    async def list_object(self, listed: dict[str, Any], by: str) -> None:
        """List an object, in the ``sweep`` or in the first list."""
        if by == "sweep":
            await self.sweep(listed)
        else:
            await self.page_check.compare([listed])
            await self.reconciler.settled()

    async def generation(self) -> int | None:
        (row,) = await self.store.get(["ns/a"])
        return None if row is None else row.generation


@asynccontextmanager
async def operating(store: Store | None = None) -> AsyncIterator[Operator]:
    operator = Operator(store or Store())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(operator.reconciler.run())
        yield operator
        running.cancel()


# ---------------------------------------------------------------- etcd


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_edit_after_the_restore_of_etcd_counts(restarted: bool) -> None:
    store = Store()
    async with operating(store) as before:
        await before.watch(body("a", version=90, generation=9))
        restored = body("a", version=50, generation=5)
        operator = Operator(store) if restarted else before
        running = asyncio.create_task(operator.reconciler.run()) if restarted else None
        await operator.watch(restored)
        await operator.sweep(restored)
        await operator.sweep(restored)
        assert await operator.generation() == 5
        assert operator.found.objects == ["a"]
        await operator.watch(body("a", version=51, generation=6))
        assert await operator.generation() == 6
        await operator.sweep(body("a", version=51, generation=6))
        assert operator.found.objects == ["a"]
        if running is not None:
            running.cancel()


async def test_an_edit_of_the_same_generation_counts_although_its_version_is_lower() -> None:
    async with operating() as operator:
        await operator.watch(body("a", version=90, generation=2))
        edited = body("a", version=51, generation=2)
        edited["spec"]["job"]["curl"]["url"] = "http://example.com/edited"
        await operator.watch(edited)
        await operator.sweep(edited)
        await operator.sweep(edited)
        (row,) = await operator.store.get(["ns/a"])
        assert row is not None
        assert "edited" in row.definition
        assert operator.found.objects == ["a"]


async def test_an_object_that_etcd_has_again_runs_again() -> None:
    async with operating() as operator:
        await operator.watch(body("a", version=80))
        await operator.watch(body("a", version=81), deleted=True)
        assert await operator.generation() is None
        restored = body("a", version=50)
        await operator.sweep(restored)  # refused
        assert await operator.generation() is None
        await operator.sweep(restored)
        assert await operator.generation() == 1
        await operator.watch(body("a", version=52, generation=2))
        assert await operator.generation() == 2


async def test_the_newer_object_of_a_name_gives_way_to_the_restored_one() -> None:
    async with operating() as operator:
        old, new = body("a", version=70, uid="old"), body("a", version=80, uid="new")
        new["metadata"]["creationTimestamp"] = "2026-12-01T11:00:01Z"
        await operator.watch(old)
        await operator.watch(new)
        for _ in range(3):
            await operator.sweep(body("a", version=50, uid="old"))
        (row,) = await operator.store.get(["ns/a"])
        assert row is not None
        assert row.uid == "old"


async def test_a_late_list_does_not_lower_a_generation_or_revive_an_object() -> None:
    """An edit and a deletion while the object is listed: the list is older than what the store has then."""
    async with operating() as operator:
        await operator.watch(body("a", version=10))
        operator.page_check.begin()
        await operator.watch(body("a", version=11, generation=2))
        await operator.page_check.check([body("a", version=10)])
        assert await operator.generation() == 2
        operator.page_check.begin()
        await operator.watch(body("a", version=12, generation=3))
        await operator.page_check.check([body("a", version=11, generation=2)])
        assert await operator.generation() == 3
        operator.page_check.begin()
        await operator.watch(body("a", version=13, generation=3), deleted=True)
        await operator.page_check.check([body("a", version=12, generation=3)])
        await operator.reconciler.settled()
        await operator.sweep()
        await operator.sweep()
        assert await operator.generation() is None
        assert operator.found.objects == []


async def test_the_next_list_follows_soon_only_while_something_is_suspect() -> None:
    async with operating() as operator:
        unsure: list[bool] = []
        await operator.watch(body("a", version=90, generation=9))
        restored = body("a", version=50, generation=5)
        for listed in (body("a", version=90, generation=9), restored, restored, restored):
            await operator.sweep(listed)
            unsure.append(operator.page_check.unsure)
        assert unsure == [False, True, False, False]


# ---------------------------------------------------------------- the start


async def test_nothing_runs_before_the_store_has_every_object_as_it_is_now() -> None:
    """What was suspended or edited while no operator ran would run once more as it was."""

    class Cluster:
        async def pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
            yield {"items": [body(name, version=9, generation=2) for name in names]}

    class FirstGenerations:
        async def run(self) -> None:
            started.set_result({row.slug: row.generation for row in await store.rows()})

    store, names = Store(), [f"job-{number}" for number in range(20)]
    started: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
    async with operating(store) as operator:
        await operator.watch(*(body(name) for name in names))
        settings = OperatorSettings(namespaces=("ns",))
        api = cast("Api", Cluster())
        resync = Resync(
            settings,
            api,
            store,
            "me",
            operator.reconciler,
            operator.page_check,
            unwatched=AsyncMock(return_value=set()),
        )
        runtime = OperatorRuntime.__new__(OperatorRuntime)
        runtime._resync, runtime.replica = resync, cast("Replica", FirstGenerations())
        async with asyncio.TaskGroup() as tasks:
            listing = tasks.create_task(resync.run())
            await runtime._run_replica(asyncio.Event())
            listing.cancel()
    assert (await started) == {f"ns/{name}": 2 for name in names}


# ---------------------------------------------------------------- the store

T = NOW


def told(**fields: Any) -> State:
    given: dict[str, Any] = {"decided_until": T, "succeeded": 3, "handled": ("run-now/1",), "generation": 1} | fields
    return State(**given)


@pytest.mark.parametrize(
    ("stored", "older"),
    [
        (told(), False),
        (told(succeeded=4), False),
        (told(succeeded=2), True),
        (told(decided_until=T - 1), True),
        (told(handled=()), True),
        (told(handled=("run-now/2",), cancelled=1), False),
        (told(decided_until=T + 1, failed=1, handled=()), False),
    ],
)
def test_a_store_with_less_history_than_the_status_is_older(stored: State, older: bool) -> None:
    assert is_older(stored, told()) is older


def active(attempt: int, slot: int = T) -> Run:
    return Run(slot=slot, due=slot, attempt=attempt)


@pytest.mark.parametrize(
    ("stored", "reported", "older"),
    [
        (told(runs=[active(1)]), told(runs=[active(2)]), True),
        (told(runs=[active(2)]), told(runs=[active(2)]), False),
        (told(runs=[active(3)]), told(runs=[active(2)]), False),
        (told(decided_until=T + 1, runs=[active(1, T + 1)]), told(runs=[active(2)]), False),
        (told(waiting=[active(1)]), told(runs=[active(1)]), True),
        (told(upcoming=[active(1)]), told(runs=[active(1)]), True),
        (told(upcoming=[active(1)]), told(started=1), True),
        (told(waiting=[active(1)], runs=[active(1, T - 1)]), told(runs=[active(1, T - 1)]), False),
        (told(followed=5), told(followed=5, followed_ids={"run-1": T}), True),
        (told(followed=5, followed_ids={"run-1": T}), told(followed=5, followed_ids={"run-1": T}), False),
        (told(followed=T), told(followed=5, followed_ids={"run-1": T}), False),
        (told(followed=4), told(followed=5), True),
    ],
)
def test_a_store_with_an_earlier_attempt_or_fewer_followed_ends_is_older(
    stored: State, reported: State, older: bool
) -> None:
    """Such a state has the same counts. Without the comparison, an attempt number would occur twice, and a run that
    follows another would be lost."""
    assert is_older(stored, reported) is older


def test_the_cost_of_a_comparison_grows_with_the_runs_and_not_with_their_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identified = Mock(side_effect=restore._identity)
    monkeypatch.setattr(restore, "_identity", identified)
    state = told(runs=[active(1, n) for n in range(1000)], waiting=[active(1, 1000 + n) for n in range(1000)])
    assert not is_older(state, state)
    assert identified.call_count <= 4000


def test_a_status_that_no_version_wrote_tells_nothing() -> None:
    assert told_state("{") is None
    assert told_state('{"floor": -5}') is None
    assert told_state(engine_text(told())) == told()


def test_status_has_no_records() -> None:
    record = record_of(active(1), Outcome.CANCELLED, T, uid="u", slug="ns/a", keep=Keep())
    assert told_state(engine_text(told(unrecorded=(record,)))) == told()


@pytest.mark.parametrize("by", ["first list", "sweep"])
async def test_a_restored_store_continues_from_the_status(by: str) -> None:
    async with operating() as operator:
        await operator.watch(body("a"))
        state = told(succeeded=1, next=None)
        listed = body("a")
        listed["status"] = {"engine": engine_text(state), "observedGeneration": 1}
        await operator.list_object(listed, by)
        (row,) = await operator.store.get(["ns/a"])
        assert row is not None
        found = State.decode(row.state)
        assert (found.succeeded, found.handled, found.decided_until) == (1, ("run-now/1",), T)
        assert operator.found.stores == ["a"]
        await operator.sweep(listed)
        assert operator.found.stores == ["a"]


@pytest.mark.parametrize("by", ["first list", "sweep"])
async def test_a_run_that_is_active_in_the_backup_is_not_recorded_as_deleted(by: str) -> None:
    """It may be active still, and goes on. A record of it would keep its real end out of the history."""
    async with operating() as operator:
        await operator.watch(body("a"))
        operator.store._tables.slugs["ns/a"].state = told(runs=[active(1)]).encode()
        listed = body("a")
        listed["status"] = {"engine": engine_text(told(runs=[active(2)])), "observedGeneration": 1}
        await operator.list_object(listed, by)
        (row,) = await operator.store.get(["ns/a"])
        assert row is not None
        assert [(run.slot, run.attempt) for run in State.decode(row.state).runs] == [(T, 2)]
        assert await operator.store.history("ns/a") == []


async def test_a_row_that_this_version_can_not_read_is_left_alone() -> None:
    """A newer operator wrote it, perhaps in the middle of a rolling update."""
    async with operating() as operator:
        await operator.watch(body("a"))
        listed = body("a")
        listed["status"] = {"engine": engine_text(told()), "observedGeneration": 1}
        (row,) = await operator.store.get(["ns/a"])
        assert row is not None
        operator.store._tables.slugs["ns/a"].state = b'["of", "a", "newer", "version"]'
        await operator.sweep(listed)
        await operator.page_check.compare([listed])
        assert await operator.generation() == 1
        assert operator.found.stores == []


async def test_a_store_that_is_ahead_of_the_status_is_left_alone() -> None:
    async with operating() as operator:
        await operator.watch(body("a"))
        (before,) = await operator.store.get(["ns/a"])
        listed = body("a")
        listed["status"] = {"engine": engine_text(State(decided_until=T - 60)), "observedGeneration": 1}
        await operator.sweep(listed)
        await operator.page_check.compare([listed])
        assert await operator.store.get(["ns/a"]) == [before]
        assert operator.found.stores == []
