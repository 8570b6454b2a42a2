"""Which schedules have lost their object, by the lists: the part of the sweep that must never be wrong, without I/O."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.kube.reconcile.sweep import AbsenceCounter, ListResult, ScheduleRef

A, B = ScheduleRef("team-a/one", "uid-1"), ScheduleRef("team-b/two", "uid-2")


def complete(*uids: str) -> ListResult:
    return ListResult(uids=set(uids), complete={""})


def test_absent_from_two_complete_lists_in_a_row_means_gone() -> None:
    absences = AbsenceCounter()
    assert absences.count([A, B], complete("uid-2")) == []
    assert absences.unsure
    assert absences.count([A, B], complete("uid-2")) == [A]


def test_an_appearance_resets_the_count() -> None:
    absences = AbsenceCounter()
    absences.count([A], complete())
    assert absences.count([A], complete("uid-1")) == []
    assert absences.count([A], complete()) == []


def test_a_partial_list_proves_presence_but_not_absence() -> None:
    absences = AbsenceCounter()
    absences.count([A, B], complete())
    partial = ListResult(uids={"uid-1"}, errors={"": "expired"})
    assert absences.count([A, B], partial) == []
    assert not absences.unsure
    assert absences.count([A, B], complete()) == [B], "A was in one of the last two lists"


def test_a_namespace_that_was_not_listed_loses_no_schedule() -> None:
    absences = AbsenceCounter()
    only_a = ListResult(complete={"team-a"}, errors={"team-b": "forbidden"})
    for _ in range(5):
        gone = absences.count([A, B], only_a)
    assert gone == [A]


def test_a_schedule_stays_gone_until_its_tombstone_is_written() -> None:
    absences = AbsenceCounter()
    for _ in range(2):
        absences.count([A], complete())
    assert absences.count([A], complete()) == [A]


def test_a_new_object_with_the_same_name_starts_at_zero() -> None:
    absences = AbsenceCounter()
    again = ScheduleRef(A.slug, "uid-3")
    absences.count([A], complete())
    assert absences.count([again], complete()) == []


NAMESPACES = ("a", "b", "c")
KNOWN = [ScheduleRef(f"{namespace}/{n}", f"{namespace}{n}") for namespace in NAMESPACES for n in range(3)]
LISTINGS = st.builds(
    ListResult,
    uids=st.sets(st.sampled_from([schedule.uid for schedule in KNOWN])),
    complete=st.sets(st.sampled_from(("", *NAMESPACES))),
)


@given(st.lists(st.tuples(st.sets(st.sampled_from(KNOWN)), LISTINGS), max_size=8))
def test_gone_means_absent_from_the_last_two_complete_lists(history: list[tuple[set[ScheduleRef], ListResult]]) -> None:
    absences = AbsenceCounter()
    for step, (known, listing) in enumerate(history, 1):
        gone = absences.count(sorted(known), listing)
        for schedule in KNOWN:
            lacking = 0
            for before, past_listing in reversed(history[:step]):
                if schedule not in before or schedule.uid in past_listing.uids:
                    break
                lacking += past_listing.covers(schedule.namespace)
            assert (schedule in gone) == (lacking >= 2)
