"""Every store against a model: whatever clients and replicas do in whatever order, rows and history are the same.

The model is a list that is searched from end to end, without heaps, SQL or documents. The test sets the clock of the
memory store, and compares everything to the microsecond. The other stores have their own clocks. For them the unit of
time is an hour, so that nothing becomes due during a test. A lease lasts hours or one microsecond, and a time that
depends on the clock is copied from the store if it is within bounds.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from scheduledjob.domain.schedule.state import Outcome, Run, RunRecord, State
from scheduledjob.domain.time.instants import HOUR, SECOND, Instant, Micros
from scheduledjob.engine.store import Put, SlugTaken, Store
from scheduledjob.engine.stored_row import Disposition, Key, Origin, Row, Settlement
from scheduledjob.stores import open_store
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .support import PATIENCE, desired, record, renew

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

T = TypeVar("T")

SLUGS = ["job-0", "job-1", "job-2"]
KINDS = ["print", "shell"]
REPLICAS = ["alice", "bob"]
STATES = [State(decided_until=1).encode(), State(decided_until=2, runs=[Run(slot=7, due=7)]).encode()]
"""The second state has an active run, which a deletion cancels."""
START: Instant = 1_800_000_000 * SECOND

RUNS = [run for slug in SLUGS for run in (f"uid-of-{slug}-7", *(f"run-{n}-of-{slug}" for n in range(3)))]

few_slugs = st.lists(st.sampled_from(SLUGS), unique=True, min_size=1)
some_kinds = st.sampled_from([KINDS, KINDS, KINDS[:1], KINDS[1:], []])
steps = st.integers(-3, 3)
wake_steps = st.sampled_from([None, -3, -2, -1, -1, 0, 1, 2, 3])


@dataclass(frozen=True)
class Held:
    """What a replica knows of a claim, which may be out of date."""

    replica: str
    slug: str
    key: Key
    version: int
    revision: int


class StoreMachine(RuleBasedStateMachine):
    """The rules; ``open`` returns two connections to one fresh installation."""

    unit: Micros = HOUR
    slack: Micros = SECOND
    """How much readings of the store's clock may differ."""
    turned = False
    runs: Sequence[str] = RUNS
    """All runs that may be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.rows: list[Row] = []
        self.history: list[RunRecord] = []
        self.held: list[Held] = []
        self.ended = 0
        self.stores: list[Store] = []

    async def open(self) -> list[Store]:
        raise NotImplementedError

    @initialize()
    def connect(self) -> None:
        self.stores = self.run(self.open())

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def now(self) -> Instant:
        return self.run(self.stores[0].now())

    def find(self, slug: str) -> Row | None:
        return next((row for row in self.rows if row.slug == slug), None)

    def adopt(self, row: Row, earliest: Instant, latest: Instant) -> None:
        """Copy ``wake_at``, which depends on the store's clock, if it is within bounds."""
        (seen,) = self.run(self.stores[0].get([row.slug]))
        assert seen is not None
        assert seen.wake_at is not None
        assert earliest - self.slack <= seen.wake_at <= latest + self.slack
        row.wake_at = seen.wake_at

    # ---- clients

    @rule(
        store=st.integers(0, 1),
        slugs=few_slugs,
        kind=st.sampled_from(KINDS),
        origin=st.sampled_from(Origin),
        payload=st.sampled_from([None, b"", b"p"]),
        state=st.sampled_from(STATES),
        step=wake_steps,
        first=st.none() | steps,
        replacing=st.sampled_from([True, True, True, False]),
    )
    def put(
        self,
        store: int,
        slugs: list[str],
        kind: str,
        origin: Origin,
        payload: bytes | None,
        state: bytes,
        step: int | None,
        first: int | None,
        replacing: bool,
    ) -> None:
        self.write(store, slugs, kind, origin, payload, state, step, first, replacing)

    def write(
        self,
        store: int,
        slugs: list[str],
        kind: str,
        origin: Origin,
        payload: bytes | None,
        state: bytes,
        step: int | None,
        first: int | None,
        replacing: bool,
    ) -> None:
        before = self.now()
        wake_at = None if step is None else before + step * self.unit
        named = None if first is None else before + first * self.unit
        new = [
            desired(
                slug, wake_at, kind=kind, origin=origin, payload=payload, state=state, first=named, created_at=before
            )
            for slug in slugs
        ]
        taken = [slug for slug in slugs if self.find(slug)]
        if taken and not replacing:
            with pytest.raises(SlugTaken) as raised:
                self.run(self.stores[store].put(new, replace=False))
            assert raised.value.slugs == tuple(taken)
            return
        answers = self.run(self.stores[store].put(new, replace=replacing))
        after = self.now()
        for wanted, answer in zip(new, answers, strict=True):
            row = self.find(wanted.slug)
            if row is None:
                assert answer is Put.CREATED
                (seen,) = self.run(self.stores[1 - store].get([wanted.slug]))
                assert seen is not None
                assert all(seen.key != held.key for held in self.held)
                row = replace(
                    seen, uid=wanted.uid, kind=kind, origin=origin.value, definition="", revision=1, first=named
                )
                row = replace(row, payload=payload, result=None, created_at=before, wake_at=wake_at, state=state)
                self.rows.append(replace(row, owner=None))
            elif named is None and (row.kind, row.payload) == (kind, payload):
                if row.owner is None or origin is not Origin.LIBRARY:
                    assert answer is Put.UNCHANGED
                    continue
                assert answer is Put.UPDATED
                row.origin, row.generation, row.requests = origin.value, 0, ""
                row.revision += 1
                row.payload_revision = row.revision
            else:
                assert answer is Put.UPDATED
                row.kind, row.payload, row.first = kind, payload, named
                row.origin, row.generation, row.requests = origin.value, 0, ""
                row.revision += 1
                row.payload_revision = row.revision
                if row.owner is None:
                    self.adopt(row, min(before, before if row.wake_at is None else row.wake_at), after)

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 2), payload=st.binary(max_size=2))
    def edit(self, which: int, payload: bytes) -> None:
        """A rule of its own, so that rows are edited often and in every state."""
        row = self.rows[which % len(self.rows)]
        self.write(0, [row.slug], row.kind, Origin(row.origin), payload, row.state, None, None, True)

    @precondition(lambda self: len(self.rows) == len(SLUGS))
    @rule(slug=st.sampled_from(SLUGS), everything=st.sampled_from([False] * 5 + [True]), origin=st.sampled_from(Origin))
    def delete(self, slug: str, everything: bool, origin: Origin) -> None:
        """Rarely more than one, so that rows exist long enough for much to happen to them."""
        ending = [row for row in self.rows if (row.origin == origin if everything else row.slug == slug)]
        self.cancel(ending)
        if everything:
            assert self.run(self.stores[1].clear(origin)) == len(ending)
        else:
            assert self.run(self.stores[0].delete([slug, "missing"])) == [bool(ending), False]
        self.adopt_cancelled()

    def cancel(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in self.rows if row not in rows]
        there = {record.run_id for record in self.history}
        self.cancelled = {f"{row.uid}-7" for row in rows if row.state == STATES[1]} - there

    def adopt_cancelled(self) -> None:
        new = [record for record in self.run(self.stores[0].history(limit=1000)) if record.run_id in self.cancelled]
        assert {record.run_id for record in new} == self.cancelled
        assert all(record.outcome is Outcome.CANCELLED for record in new)
        self.history += new

    # ---- replicas

    @precondition(lambda self: self.rows)
    @rule(
        replica=st.sampled_from(REPLICAS),
        kinds=some_kinds,
        limit=st.integers(0, 3),
        ahead=st.integers(0, 3),
        lease=st.integers(0, 4),
    )
    def claim(self, replica: str, kinds: list[str], limit: int, ahead: int, lease: int) -> None:
        self.take(replica, kinds, limit, ahead, lease)

    @precondition(lambda self: self.rows)
    @rule(replica=st.sampled_from(REPLICAS), lease=st.integers(0, 4))
    def claim_all(self, replica: str, lease: int) -> None:
        self.take(replica, KINDS, len(SLUGS), 3, lease)

    def take(self, replica: str, kinds: list[str], limit: int, ahead: int, lease: int) -> None:
        store = self.stores[REPLICAS.index(replica)]
        ahead *= self.unit
        lease = lease * self.unit or 1
        before = self.now()
        must = self.claimable(kinds, ahead, before, -self.slack)
        claimed: list[Row] = []
        next_wake: Instant | None = None

        async def until_all_came() -> None:
            nonlocal next_wake
            async with asyncio.timeout(PATIENCE):
                while True:
                    left = limit - len(claimed)
                    batch = await store.claim(replica, kinds, limit=left, ahead=ahead, lease=lease)
                    claimed.extend(batch.rows)
                    next_wake = batch.next_wake
                    if len(claimed) >= min(limit, len(must)):
                        return
                    await asyncio.sleep(0.02)

        self.run(until_all_came())
        after = self.now()
        if lease == 1:  # the lease ended at once: if a second claim was needed, it may have claimed a row again
            assume(len({row.key for row in claimed}) == len(claimed))
        assert len({row.key for row in claimed}) == len(claimed) <= limit
        may = {row.key for row in self.claimable(kinds, ahead, after, self.slack)}
        assert {row.key for row in claimed} <= may
        if self.turned:
            wakes = [row.wake_at for row in must]
            mine = {row.key: row.wake_at for row in must}
            assert [mine[row.key] for row in claimed] == wakes[:limit]
        for row in claimed:
            known = self.find(row.slug)
            assert known is not None
            assert row.version > known.version
            assert row.recovered == (known.owner is not None)
            known.owner = replica
            known.version = row.version
            self.adopt(known, before + lease, after + lease)
            assert self.plain(row, known)
            self.held.append(Held(replica, row.slug, row.key, row.version, row.revision))
        if self.turned:
            assert next_wake == self.next_wake(kinds, ahead, before)

    def claimable(self, kinds: Sequence[str], ahead: Micros, now: Instant, slack: Micros) -> list[Row]:
        rows = [
            (row.wake_at, row)
            for row in self.rows
            if row.kind in kinds
            and row.wake_at is not None
            and row.wake_at <= now + slack + (0 if row.owner else ahead)
        ]
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def next_wake(self, kinds: Sequence[str], ahead: Micros, now: Instant) -> Instant | None:
        if self.claimable(kinds, ahead, now, 0):
            return None
        return min(
            (
                row.wake_at + (ahead if row.owner else 0)
                for row in self.rows
                if row.kind in kinds and row.wake_at is not None
            ),
            default=None,
        )

    @precondition(lambda self: self.held)
    @rule(
        disposition=st.sampled_from(Disposition), informed=st.booleans(), state=st.sampled_from(STATES), step=wake_steps
    )
    def settle_the_latest(self, disposition: Disposition, informed: bool, state: bytes, step: int | None) -> None:
        self.write_state([0], False, disposition, 0, informed, state, step, None, None, [])

    @precondition(lambda self: self.held)
    @rule(
        which=st.lists(st.integers(0, 4), min_size=1, unique=True),
        foreign=st.sampled_from([False, False, False, True]),
        disposition=st.sampled_from(Disposition),
        version=st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
        informed=st.booleans(),
        state=st.sampled_from(STATES),
        step=wake_steps,
        payload=st.sampled_from([None, b"s"]),
        result=st.sampled_from([None, b"r"]),
        runs=st.lists(st.integers(0, 2), max_size=2, unique=True),
    )
    def settle(
        self,
        which: list[int],
        foreign: bool,
        disposition: Disposition,
        version: int,
        informed: bool,
        state: bytes,
        step: int | None,
        payload: bytes | None,
        result: bytes | None,
        runs: list[int],
    ) -> None:
        self.write_state(which, foreign, disposition, version, informed, state, step, payload, result, runs)

    def write_state(
        self,
        which: list[int],
        foreign: bool,
        disposition: Disposition,
        version: int,
        informed: bool,
        state: bytes,
        step: int | None,
        payload: bytes | None,
        result: bytes | None,
        runs: list[int],
    ) -> None:
        before = self.now()
        wake_at = None if step is None else before + step * self.unit
        chosen = {held.key: held for held in (self.held[-1 - n] for n in which if n < len(self.held))}
        if not chosen:
            return
        replica = next(iter(chosen.values())).replica
        if foreign:
            replica = REPLICAS[1 - REPLICAS.index(replica)]
        sent = []
        for held in chosen.values():
            row = next((row for row in self.rows if row.key == held.key), None)
            revision = row.revision if row and informed else held.revision
            self.ended += 1
            # A run belongs to one schedule, so no two settlements of a call record it differently.
            records = [record(f"run-{n}-of-{held.slug}", START + self.ended, slug=held.slug) for n in runs]
            sent.append(
                Settlement(
                    key=held.key,
                    version=held.version + version,
                    disposition=disposition,
                    state=state,
                    wake_at=wake_at,
                    revision=revision,
                    records=records,
                    payload=payload,
                    result=result,
                )
            )
        answers = self.run(self.stores[REPLICAS.index(replica)].settle(replica, sent))
        after = self.now()
        for settlement, answer in zip(sent, answers, strict=True):
            row = self.owned(replica, settlement.key, settlement.version)
            assert answer == (row is not None)
            if row is not None:
                self.carry_out(settlement, row, before, after)

    def carry_out(self, settlement: Settlement, row: Row, before: Instant, after: Instant) -> None:
        there = {record.run_id for record in self.history}
        for ended in settlement.records:
            if ended.run_id not in there:
                there.add(ended.run_id)
                self.history.append(ended)
        if settlement.disposition is Disposition.REMOVE and settlement.revision == row.revision:
            self.rows.remove(row)
            return
        row.state = settlement.state
        if settlement.payload is not None and row.payload_revision <= settlement.revision:
            row.payload = settlement.payload
        row.result = row.result if settlement.result is None else settlement.result
        if settlement.disposition is Disposition.KEEP:
            row.version += 1
            self.held.append(Held(row.owner or "", row.slug, row.key, row.version, settlement.revision))
            return
        row.owner = None
        if settlement.revision == row.revision:
            row.wake_at = settlement.wake_at
        else:
            self.adopt(row, min(before, settlement.wake_at or before), after)

    @precondition(lambda self: self.held)
    @rule(
        which=st.lists(st.integers(0, 4), min_size=1, unique=True),
        replica=st.sampled_from(REPLICAS),
        lease=st.integers(0, 4),
    )
    def renew(self, which: list[int], replica: str, lease: int) -> None:
        lease = lease * self.unit or 1
        asked = {held.key: held.version for held in (self.held[-1 - n] for n in which if n < len(self.held))}
        before = self.now()
        answer = self.run(
            renew(self.stores[REPLICAS.index(replica)], list(asked.items()), replica=replica, lease=lease)
        )
        after = self.now()
        mine = [row for key, version in asked.items() if (row := self.owned(replica, key, version))]
        assert answer.revisions == {row.key: row.revision for row in mine}
        for row in mine:
            self.adopt(row, before + lease, after + lease)

    def owned(self, replica: str, key: Key, version: int) -> Row | None:
        return next((r for r in self.rows if (r.key, r.owner, r.version) == (key, replica, version)), None)

    # ---- what everybody reads

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        if not self.stores:
            return
        seen = self.run(self.stores[1].rows())
        known = sorted(self.rows, key=lambda row: row.slug)
        assert [row.slug for row in seen] == [row.slug for row in known]
        assert all(self.plain(*pair) for pair in zip(seen, known, strict=True))

    @staticmethod
    def plain(seen: Row, known: Row) -> bool:
        """Compare two rows, except for what only a claim or the store's clock decides. Returns True."""
        only_claims_know: dict[str, Any] = {"edited_at": 0, "recovered": False, "due_at": None}
        assert replace(seen, **only_claims_know) == replace(known, **only_claims_know)
        return True

    @invariant()
    def history_is_as_the_model_says(self) -> None:
        if not self.stores:
            return
        seen = self.run(self.stores[0].history(limit=1000))
        assert [record.finished for record in seen] == sorted(
            (record.finished for record in self.history), reverse=True
        )
        assert sorted(seen, key=_by_run) == sorted(self.history, key=_by_run)
        assert self.run(self.stores[1].recorded(self.runs)) == {record.run_id for record in self.history}


def _by_run(record: RunRecord) -> str:
    return record.run_id


class MemoryMachine(StoreMachine):
    unit = SECOND
    slack = 0
    turned = True

    def __init__(self) -> None:
        super().__init__()
        self.time = START

    async def open(self) -> list[Store]:
        database = MemoryDatabase(lambda: self.time)
        return [MemoryStore(database), MemoryStore(database)]

    @rule(step=st.sampled_from([1, SECOND - 1, SECOND, SECOND, 2 * SECOND, 5 * SECOND]))
    def turn_the_clock(self, step: Micros) -> None:
        self.time += step


def check(url: str, examples: int, machine: type[StoreMachine] = StoreMachine) -> None:
    class ServerMachine(machine):  # type: ignore[misc, valid-type]  # a class like any other
        async def open(self) -> list[Store]:
            installation = f"model-{secrets.token_hex(6)}"
            stores = [open_store(url, installation) for _ in REPLICAS]
            for store in stores:
                await store.connect()
            return stores

    run_state_machine_as_test(
        ServerMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            # Shrinking a failure takes minutes if each step is a round trip, so the steps are printed as they are.
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_memory_behaves_as_the_model() -> None:
    run_state_machine_as_test(MemoryMachine, settings=settings(max_examples=200, stateful_step_count=40))


@pytest.mark.postgres
def test_postgres_behaves_as_the_model(behaviour_postgres_url: str) -> None:
    check(behaviour_postgres_url, examples=25)


@pytest.mark.firestore
def test_firestore_behaves_as_the_model(behaviour_firestore_url: str) -> None:
    check(behaviour_firestore_url, examples=10)
