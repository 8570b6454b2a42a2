"""The test against the model, with objects of a cluster too: observed in any order, deleted, touched."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import NewRow, Origin

from .test_linearizability import KINDS, RUNS, SLUGS, START, STATES, MemoryMachine, StoreMachine, check, few_slugs

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import Row


def uid_of(slug: str, number: int) -> str:
    """Return a uid of the slug; number 0 is that of ``put``'s rows."""
    return f"uid-of-{slug}" if number == 0 else f"uid-{number}-of-{slug}"


UIDS = range(4)
CREATED = [START - 5, START - 3, START - 3, START - 1]
"""Kubernetes counts in seconds, so two objects may have the same time."""


def requests_on(row: Row) -> str:
    """Return the requests on the object, without those that they have replaced."""
    found = json.loads(row.requests or "{}")
    return f'{{"run":"{found["run"]}"}}' if "run" in found else ""


def requests_with_earlier(wanted: str, stored: str) -> str:
    """Return what is stored of requests that replace others. No replica handles any here."""
    new, old = json.loads(wanted or "{}"), json.loads(stored or "{}")
    runs = [each["run"] for each in [*old.get("earlier", []), old] if "run" in each]
    earlier = [{"run": run} for run in runs if run != new.get("run")]
    both = new | ({"earlier": earlier} if earlier else {})
    return json.dumps(both, separators=(",", ":")) if both else ""


class ClusterMachine(StoreMachine):
    """The rules that a cluster adds."""

    runs = (*RUNS, *(f"{uid_of(slug, n)}-7" for slug in SLUGS for n in UIDS))

    def __init__(self) -> None:
        super().__init__()
        self.tombstoned: set[str] = set()

    @rule(
        store=st.integers(0, 1),
        slugs=few_slugs,
        number=st.sampled_from(UIDS),
        generation=st.integers(1, 3),
        kind=st.sampled_from(KINDS),
        requests=st.sampled_from(["", "", '{"run":"1"}', '{"run":"2"}']),
        payload=st.sampled_from([None, b"p"]),
        state=st.sampled_from(STATES),
        step=st.sampled_from([None, -3, -1, 0, 1, 3]),
    )
    def reconcile(
        self,
        store: int,
        slugs: list[str],
        number: int,
        generation: int,
        kind: str,
        requests: str,
        payload: bytes | None,
        state: bytes,
        step: int | None,
    ) -> None:
        before = self.now()
        wake_at = None if step is None else before + step * self.unit
        new = [
            NewRow(
                slug=slug,
                uid=uid_of(slug, number),
                kind=kind,
                origin=Origin.CLUSTER,
                definition="",
                state=state,
                wake_at=wake_at,
                first=None,
                payload=payload,
                created_at=CREATED[number],
                generation=generation,
                requests=requests,
            )
            for slug in slugs
        ]
        expected = [self.expect(new_row) for new_row in new]
        replaced = [
            row
            for new_row, put in zip(new, expected, strict=True)
            if put is Put.CREATED and (row := self.find(new_row.slug)) is not None
        ]
        self.cancel(replaced)
        self.tombstoned |= {row.uid for row in replaced}
        assert self.run(self.stores[store].reconcile(new)) == expected
        after = self.now()
        self.adopt_cancelled()
        for new_row, put in zip(new, expected, strict=True):
            if put is Put.CREATED:
                self.appear(new_row)
            elif put is Put.UPDATED:
                self.change(new_row, before, after)

    def expect(self, new: NewRow) -> Put:
        row = self.find(new.slug)
        if new.uid in self.tombstoned:
            return Put.STALE
        if row is None:
            return Put.CREATED
        if row.origin != "cluster" or (row.uid == new.uid and row.generation > new.generation):
            return Put.STALE
        if row.uid != new.uid:
            return Put.CREATED if row.created_at < new.created_at else Put.STALE
        same = (row.kind, requests_on(row), row.generation) == (new.kind, new.requests, new.generation)
        return Put.UNCHANGED if same else Put.UPDATED

    def appear(self, new: NewRow) -> None:
        (seen,) = self.run(self.stores[0].get([new.slug]))
        assert seen is not None
        assert all(seen.key != held.key for held in self.held)
        row = replace(seen, uid=new.uid, kind=new.kind, origin="cluster", definition="", revision=1, first=None)
        row = replace(row, payload=new.payload, result=None, created_at=new.created_at, wake_at=new.wake_at)
        self.rows.append(replace(row, state=new.state, owner=None, generation=new.generation, requests=new.requests))

    def change(self, new: NewRow, before: Instant, after: Instant) -> None:
        row = self.find(new.slug)
        assert row is not None
        if row.generation != new.generation:
            row.payload, row.payload_revision = new.payload, row.revision + 1
        row.kind, row.generation, row.first = new.kind, new.generation, None
        row.requests = requests_with_earlier(new.requests, row.requests)
        self.poll_at(row, before, after)

    def poll_at(self, row: Row, before: Instant, after: Instant) -> None:
        row.revision += 1
        if row.owner is None:
            self.adopt(row, min(before, before if row.wake_at is None else row.wake_at), after)

    @precondition(lambda self: self.rows)
    @rule(store=st.integers(0, 1), which=st.integers(0, 2), numbers=st.lists(st.sampled_from(UIDS), max_size=2))
    def tombstone(self, store: int, which: int, numbers: list[int]) -> None:
        row = self.rows[which % len(self.rows)]
        asked = [(row.slug, row.uid), *((row.slug, uid_of(row.slug, n)) for n in numbers), ("missing", "uid-missing")]
        self.cancel([row])
        self.tombstoned |= {uid for _, uid in asked}
        assert self.run(self.stores[store].tombstone(asked)) == [uid == row.uid for _, uid in asked]
        self.adopt_cancelled()

    @rule(slug=st.sampled_from(SLUGS), number=st.sampled_from(UIDS))
    def tombstone_one(self, slug: str, number: int) -> None:
        """Most often of an object that does not exist."""
        uid = uid_of(slug, number)
        ending = [row for row in self.rows if (row.slug, row.uid) == (slug, uid)]
        self.cancel(ending)
        self.tombstoned.add(uid)
        assert self.run(self.stores[0].tombstone([(slug, uid)])) == [bool(ending)]
        self.adopt_cancelled()

    @rule(slugs=few_slugs)
    def touch(self, slugs: list[str]) -> None:
        before = self.now()
        self.run(self.stores[0].touch(slugs))
        after = self.now()
        for slug in slugs:
            if (row := self.find(slug)) is not None:
                self.poll_at(row, before, after)


class MemoryClusterMachine(ClusterMachine, MemoryMachine):
    pass


def test_memory_behaves_as_the_model() -> None:
    steps = settings(max_examples=200, stateful_step_count=40)
    run_state_machine_as_test(MemoryClusterMachine, settings=steps)


@pytest.mark.postgres
def test_postgres_behaves_as_the_model(behaviour_postgres_url: str) -> None:
    check(behaviour_postgres_url, 25, ClusterMachine)


@pytest.mark.firestore
def test_firestore_behaves_as_the_model(behaviour_firestore_url: str) -> None:
    check(behaviour_firestore_url, 10, ClusterMachine)
