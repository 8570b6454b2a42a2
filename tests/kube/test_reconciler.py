"""The reconciler on a store in memory: order, repetition, outages, and an object that the store can't hold."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import HOUR, SECOND, Instant, rfc3339
from scheduledjob.engine.store import Put, StoreUnavailable
from scheduledjob.kube.reconcile import reconciler as reconciler_module
from scheduledjob.kube.reconcile.desired_state import DesiredState, ObjectRules, read_object
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.reconcile.reconciler import Reconciler
from scheduledjob.kube.report.status import engine_text
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import pytest

    from scheduledjob.engine.stored_row import NewRow

NOW: Instant = 1_796_119_200 * SECOND
READY = {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(NOW)}


class Store(MemoryStore):
    """A store that can be unavailable, and that can't hold some slugs."""

    def __init__(self) -> None:
        super().__init__(MemoryDatabase(clock=lambda: NOW))
        self.away = 0
        self.cannot_hold: set[str] = set()
        self.locked: set[str] = set()
        """Slugs of rows that somebody has locked."""
        self._written = asyncio.Event()
        self.at_tombstone: Callable[[], None] | None = None
        """Called by the next tombstone, which then fails."""

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        if self.at_tombstone is not None:
            call, self.at_tombstone = self.at_tombstone, None
            call()
            raise StoreUnavailable("away")
        self._refuse_locked([slug for slug, _ in identities])
        return await super().tombstone(identities)

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        if any(row.slug in self.cannot_hold for row in rows):
            raise ValueError("a value that no column takes")
        self._refuse_locked([row.slug for row in rows])
        puts = await super().reconcile(rows)
        self._written.set()
        return puts

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was written meets the condition."""
        while not condition():
            self._written.clear()
            await self._written.wait()

    def _refuse_locked(self, slugs: Sequence[str]) -> None:
        if not self.locked.isdisjoint(slugs):
            raise StoreUnavailable("a client holds a lock")


class ReconcileObserver:
    def __init__(self) -> None:
        self.reconciled_slugs: list[str] = []
        self.tombstoned_uids: list[str] = []
        self.failures = 0

    def due(self, instant: Instant) -> None: ...
    def changed(self, slugs: Sequence[str]) -> None: ...
    def request_refused(self, body: Mapping[str, Any], reason: str) -> None: ...
    def swept(self, count: int) -> None: ...

    def reconciled(self, desired: DesiredState) -> None:
        self.reconciled_slugs.append(desired.slug)

    def tombstoned(self, uid: str) -> None:
        self.tombstoned_uids.append(uid)

    def reconcile_failed(self) -> None:
        self.failures += 1


def body(name: str, *, version: int = 1, generation: int = 1, uid: str = "", labels: int = 0) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid or f"uid-{name}",
            "generation": generation,
            "resourceVersion": str(version),
            "creationTimestamp": rfc3339(NOW),
            "labels": {"n": str(labels)},
        },
        "spec": {"triggers": [{"every": f"{generation}m"}], "job": {"curl": {"url": "http://example.com/"}}},
    }


@asynccontextmanager
async def reconciling(
    store: Store,
    observer: ReconcileObserver,
    rules: ObjectRules | None = None,
    objects: KnownObjects | None = None,
) -> AsyncIterator[Reconciler]:
    known = KnownObjects() if objects is None else objects
    reconciler = Reconciler(store, known, rules or ObjectRules(), observer, observer, status_is_complete=lambda: True)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reconciler.run())
        yield reconciler
        running.cancel()


async def slugs(store: Store) -> list[str]:
    return [row.slug for row in await store.rows()]


async def test_an_observed_object_is_written_to_the_store_once() -> None:
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("a"))
        reconciler.observe(body("b"))
        await reconciler.settled()
        reconciler.observe(body("a", version=2, labels=1))  # a label does not matter
        await reconciler.settled()
    assert await slugs(store) == ["ns/a", "ns/b"]
    assert observer.reconciled_slugs == ["ns/a", "ns/b"]


async def test_the_history_of_an_object_is_that_of_its_newest_valid_version() -> None:
    objects, observer = KnownObjects(), ReconcileObserver()
    edits: list[tuple[dict[str, Any], Keep]] = [
        ({"history": {"succeeded": 1, "ttl": "1h"}}, Keep(1, ttl=HOUR)),
        ({"history": {"succeeded": 9}}, Keep(9)),
        ({"history": {"succeeded": 2}, "triggers": [{"cron": "no"}]}, Keep(9)),
        ({}, Keep()),
    ]
    async with reconciling(Store(), observer, objects=objects) as reconciler:
        for version, (spec, expected) in enumerate(edits, 1):
            edited = body("a", version=version, generation=version)
            edited["spec"] |= spec
            reconciler.observe(edited)
            await reconciler.settled()
            assert objects.keep_of("ns/a", "uid-a") == expected


async def test_an_older_version_changes_nothing() -> None:
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("a", version=9, generation=2))
        reconciler.observe(body("a", version=3, generation=1))
        await reconciler.settled()
    (row,) = await store.rows()
    assert row.generation == 2


async def test_a_deletion_is_final_whatever_is_observed_later() -> None:
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("a"))
        await reconciler.settled()
        reconciler.observe(body("a", version=2), deleted=True)
        reconciler.observe(body("a", version=3, generation=2))
        await reconciler.settled()
        reconciler.observe(body("a", version=4, generation=3))
        await reconciler.settled()
        assert len(reconciler._objects) == 0, "a late version does not bring it back"
    assert await slugs(store) == []
    assert observer.tombstoned_uids == ["uid-a"]


async def test_a_queued_deletion_is_not_undone_by_a_late_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler_module, "RETRY_DELAY", 0.0)
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("a"))
        await reconciler.settled()
        store.at_tombstone = lambda: reconciler.observe(body("a", version=2, generation=2))
        reconciler.observe(body("a", version=3), deleted=True)
        await reconciler.settled()
    assert await slugs(store) == []
    assert observer.tombstoned_uids == ["uid-a"]


async def test_a_new_store_does_not_rewrite_status_that_is_current() -> None:
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("a"))
        await reconciler.settled()
    (row,) = await store.rows()
    current = {
        "observedGeneration": 1,
        "conditions": [READY],
        "engine": engine_text(State.decode(row.state)),
    }
    wrong = {"conditions": [], "observedGeneration": 0, "engine": "{broken"}
    for status in (current, *({**current, key: value} for key, value in wrong.items())):
        store, observer = Store(), ReconcileObserver()
        async with reconciling(store, observer) as reconciler:
            reconciler.observe({**body("a"), "status": status})
            await reconciler.settled()
        assert observer.reconciled_slugs == ([] if status is current else ["ns/a"]), status


async def test_an_outdated_condition_is_rewritten() -> None:
    """The same object with another operator, which may have another plugin."""
    store = Store()
    report = body("a")
    report["spec"]["job"] = {"custom": {"kind": "report"}}
    for kinds, rewritten in ((None, True), ({"cluster.curl"}, True), ({"cluster.custom.report"}, False)):
        observer = ReconcileObserver()
        async with reconciling(store, observer, ObjectRules(kinds=kinds)) as reconciler:
            status = {"observedGeneration": 1, "conditions": [READY]} if kinds is not None else {}
            reconciler.observe({**report, "status": status})
            await reconciler.settled()
        assert observer.reconciled_slugs == (["ns/a"] if rewritten else [])


async def test_an_outage_of_the_store_delays_objects_but_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "RETRY_DELAY", 0.0)
    store, observer = Store(), ReconcileObserver()
    store.away = 3
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("a"))
        reconciler.observe(body("b"))
        await reconciler.settled()
    assert await slugs(store) == ["ns/a", "ns/b"]
    assert observer.failures == 3


async def test_an_object_that_cannot_be_stored_does_not_block_others() -> None:
    store, observer = Store(), ReconcileObserver()
    store.cannot_hold = {"ns/b"}
    async with reconciling(store, observer) as reconciler:
        for name in "abc":
            reconciler.observe(body(name))
        await reconciler.settled()
    assert await slugs(store) == ["ns/a", "ns/c"]
    assert observer.failures == 1


async def test_a_fast_clock_of_the_cluster_delays_nothing() -> None:
    store, observer = Store(), ReconcileObserver()
    ahead = body("a")
    ahead["metadata"]["creationTimestamp"] = rfc3339(NOW + 3600 * SECOND)
    ahead["spec"]["triggers"] = [{"cron": "* * * * * ?"}]
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(ahead)
        await reconciler.settled()
    (row,) = await store.rows()
    assert row.wake_at == NOW + SECOND


def follower(name: str, upstream: str) -> dict[str, Any]:
    found = body(name)
    found["spec"]["triggers"] = [{"following": {"name": upstream}}]
    return found


async def test_the_object_that_closes_a_circle_is_invalid_until_the_circle_is_open() -> None:
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(follower("a", "b"))
        reconciler.observe(follower("b", "a"))
        await reconciler.settled()
        valid, closing = await store.get(["ns/a", "ns/b"])
        assert valid is not None
        assert closing is not None
        assert (valid.kind, closing.kind) == ("cluster.curl", "cluster.invalid")
        words = "spec.triggers: jobs follow each other in a circle, so they would run for ever: b -> a -> b: "
        assert words + "remove the trigger following from one of them" in closing.definition
        reconciler.observe(body("a", version=2, generation=2))
        reconciler.observe(follower("b", "a"))  # unchanged, as in a resync
        await reconciler.settled()
    kinds = [row.kind for row in await store.rows()]
    assert kinds == ["cluster.curl", "cluster.curl"]


async def test_a_batch_lets_the_event_loop_go_on_after_each_object() -> None:
    store, observer = Store(), ReconcileObserver()
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with reconciling(store, observer) as reconciler:
        for number in range(200):
            reconciler.observe(body(f"job-{number}"))
        other = asyncio.create_task(other_work())
        await reconciler.settled()
        other.cancel()
    assert turns >= 2 * 200, "once for reading and once for reporting each object"


async def test_a_large_object_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, str] = {}

    def recording(found: Mapping[str, Any], rules: ObjectRules) -> DesiredState:
        threads[found["metadata"]["name"]] = threading.current_thread().name
        return read_object(found, rules)

    monkeypatch.setattr(reconciler_module, "read_object", recording)
    large = body("large")
    large["spec"]["payload"] = "x" * 10_000
    store, observer = Store(), ReconcileObserver()
    async with reconciling(store, observer) as reconciler:
        reconciler.observe(body("small"))
        reconciler.observe(large)
        await reconciler.settled()
    assert threads["small"] == threading.current_thread().name
    assert threads["large"].startswith("compute")
    assert await slugs(store) == ["ns/large", "ns/small"]


async def test_an_object_that_can_not_be_written_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "RETRY_DELAY", 0.001)
    store, observer = Store(), ReconcileObserver()
    store.locked = {"ns/deleted", "ns/edited"}
    async with asyncio.timeout(30), reconciling(store, observer) as reconciler:
        reconciler.observe(body("deleted"), deleted=True)
        for name in ("a", "edited", "b", "c"):
            reconciler.observe(body(name))
        await store.until(lambda: {"ns/a", "ns/b", "ns/c"} <= set(store._tables.slugs))
        reconciler.observe(body("later"))
        await store.until(lambda: "ns/later" in store._tables.slugs)
        assert store._tables.slugs.keys().isdisjoint(store.locked)
        store.locked.clear()
        await reconciler.settled()
    assert await slugs(store) == ["ns/a", "ns/b", "ns/c", "ns/edited", "ns/later"]
    assert observer.tombstoned_uids == ["uid-deleted"]
