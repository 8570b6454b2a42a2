"""Documents: ids of any slug, values that are read as they were written, and runs that newer ones push out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.stores.firestore.layout import add_to_recent, document_id, run_path, shard_of
from scheduledjob.stores.firestore.operations import MAX_BYTES, MAX_WRITES, Write, pack_commits
from scheduledjob.stores.firestore.wire import _encode, _Write
from tests.stores.support import claim, desired

if TYPE_CHECKING:
    from scheduledjob.stores.firestore import FirestoreStore
    from scheduledjob.stores.firestore.operations import Fields

ODD = [
    "a/b",
    "a//b",
    "/",
    "//",
    ".",
    "..",
    "__x__",
    "__id7__",
    " ",
    "a ",
    "Ä",
    "A\u0308",
    "a",
    "A",
    "\x00",
    "a\nb",
    "%2F",
    "a.b",
    "*~[]`",
    "😀" * 200,
    "x" * 1_400,
    "x" * 1_399,
]


@given(st.lists(st.text(min_size=1), unique=True))
def test_an_id_is_legal_and_unique(names: list[str]) -> None:
    ids = [document_id(name) for name in names]
    assert all(re.fullmatch(r"[0-9a-f]{40}", document) for document in ids)
    assert len(set(ids)) == len(names)
    assert all(0 <= shard_of(document, 7) < 7 for document in ids)


@pytest.mark.firestore
async def test_any_slug_can_be_scheduled(store: FirestoreStore) -> None:
    await store.put([desired(slug, 1, payload=slug.encode()) for slug in ODD], replace=False)
    assert [row.slug for row in await store.get(ODD) if row is not None] == ODD
    assert [row.slug for row in await store.rows()] == sorted(ODD)
    assert {row.slug: row.payload for row in (await claim(store)).rows} == {slug: slug.encode() for slug in ODD}
    assert await store.delete(ODD) == [True] * len(ODD)
    assert await store.rows() == []


def _record(number: int, ok: bool, keep: int, finished: int, slug: str) -> RunRecord:
    outcome = Outcome.SUCCEEDED if ok else Outcome.FAILED
    return RunRecord(
        run_id=f"run-{number}",
        uid="uid",
        slug=slug,
        slot=0,
        started=None,
        finished=finished,
        attempt=1,
        outcome=outcome,
        keep=keep,
    )


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.sampled_from("ab")), max_size=30),
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)
def test_runs_that_newer_ones_push_out_are_known_without_reading(runs, random, step) -> None:  # type: ignore[no-untyped-def]  # Hypothesis' Random has no public type
    ends = random.sample(range(1_000), len(runs))
    records = [_record(n, ok, keep, ends[n], slug) for n, (ok, keep, slug) in enumerate(runs)]
    recent: list[str] = []
    dropped: set[str] = set()
    for start in range(0, len(records), step):
        recent, surplus = add_to_recent(recent, records[start : start + step])
        assert not dropped & set(surplus)
        dropped |= set(surplus)
        left = {run_path(record.run_id) for record in records[: start + step]} - dropped
        for slug in "ab":
            for ok in (True, False):
                # No run is dropped that should be kept: of each group the newest stay, as many as they say.
                group = [r for r in records[: start + step] if r.slug == slug and (r.outcome == "Succeeded") is ok]
                group.sort(key=lambda record: -record.finished)
                for newer, record in enumerate(group):
                    if newer < record.keep:
                        assert run_path(record.run_id) in left
                if group and len({record.keep for record in group}) == 1:
                    assert len(left & {run_path(record.run_id) for record in group}) == min(group[0].keep, len(group))


def test_of_runs_that_finished_at_once_those_written_last_stay() -> None:
    recent: list[str] = []
    pushed_out: list[str] = []
    for number in range(5):
        recent, surplus = add_to_recent(recent, [_record(number, True, 2, 7, "a")])
        pushed_out += surplus
    assert pushed_out == [run_path(f"run-{number}") for number in range(3)]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3 << 20)), max_size=60))
def test_a_commit_holds_whole_units_within_its_limits(units: list[tuple[int, int]]) -> None:
    blob = bytes(3 << 20)
    writes = [[Write("p", {"f": blob[:size]})] + [Write("q")] * (count - 1) for count, size in units]
    parts = pack_commits(writes)
    assert [number for part in parts for number in part] == list(range(len(units)))
    for part in parts:
        assert sum(len(writes[number]) for number in part) <= MAX_WRITES
        assert len(part) == 1 or sum(write.size() for number in part for write in writes[number]) <= MAX_BYTES


def test_a_commit_is_filled_to_its_limit() -> None:
    half = bytes(MAX_BYTES // 2 - Write("p", {"f": b""}).size())
    assert pack_commits([[Write("p", {"f": half})], [Write("p", {"f": half})]]) == [[0, 1]]
    assert pack_commits([[Write("p", {"f": half})], [Write("p", {"f": half + b"."})]]) == [[0], [1]]


texts = st.text(st.characters(codec="utf-8"), max_size=60)


@given(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    texts,
    st.binary(),
    st.lists(texts),
    st.integers(1, 99),
)
@example(None, "", b"", ["😀" * 60], 99)
def test_a_write_is_estimated_as_no_shorter_than_it_is(
    value: bool | int | None, text: str, data: bytes, items: list[str], times: int
) -> None:
    fields: Fields = {
        "value": value,
        "text": text * times,
        "data": data * times,
        "items": items * times,
        "named": {item * times: item * times for item in items},
    }
    write = _Write()
    for name, field in fields.items():
        _encode(write.update.fields[name], field)
    assert write.ByteSize() <= Write("", fields).size()
