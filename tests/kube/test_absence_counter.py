"""Who is gone for good, judged from lists: the part of the sweep that must never be wrong, without any I/O."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.kube.reconcile.sweep import AbsenceCounter, ListResult, ScheduleRef

A, B = ScheduleRef("team-a/one", "uid-1"), ScheduleRef("team-b/two", "uid-2")


def complete(*uids: str) -> ListResult:
    return ListResult(uids=set(uids), complete={""})


def test_two_complete_lists_in_a_row_must_lack_it() -> None:
    absences = AbsenceCounter()
    assert absences.count([A, B], complete("uid-2")) == []
    assert absences.unsure
    assert absences.count([A, B], complete("uid-2")) == [A]


def test_one_sight_of_it_begins_the_count_anew() -> None:
    absences = AbsenceCounter()
    absences.count([A], complete())
    assert absences.count([A], complete("uid-1")) == []
    assert absences.count([A], complete()) == []


def test_a_partial_list_shows_who_is_there_and_never_who_is_not() -> None:
    absences = AbsenceCounter()
    absences.count([A, B], complete())
    partial = ListResult(uids={"uid-1"}, errors={"": "expired"})
    assert absences.count([A, B], partial) == []
    assert not absences.unsure
    assert absences.count([A, B], complete()) == [B], "of two lists in a row only A was in one"


def test_a_namespace_that_was_not_listed_loses_nobody() -> None:
    absences = AbsenceCounter()
    only_a = ListResult(complete={"team-a"}, errors={"team-b": "forbidden"})
    for _ in range(5):
        gone = absences.count([A, B], only_a)
    assert gone == [A]


def test_who_could_not_be_buried_is_gone_again() -> None:
    absences = AbsenceCounter()
    for _ in range(2):
        absences.count([A], complete())
    assert absences.count([A], complete()) == [A]


def test_a_new_object_of_the_same_name_is_another() -> None:
    absences = AbsenceCounter()
    again = ScheduleRef(A.slug, "uid-3")
    absences.count([A], complete())
    assert absences.count([again], complete()) == []


NAMESPACES = ("a", "b", "c")
KNOWN = [ScheduleRef(f"{namespace}/{n}", f"{namespace}{n}") for namespace in NAMESPACES for n in range(3)]
LISTINGS = st.builds(
    ListResult,
    uids=st.sets(st.sampled_from([each.uid for each in KNOWN])),
    complete=st.sets(st.sampled_from(("", *NAMESPACES))),
)


@given(st.lists(st.tuples(st.sets(st.sampled_from(KNOWN)), LISTINGS), max_size=8))
def test_gone_is_who_the_last_two_complete_lists_lacked(history: list[tuple[set[ScheduleRef], ListResult]]) -> None:
    absences = AbsenceCounter()
    for step, (known, listing) in enumerate(history, 1):
        gone = absences.count(sorted(known), listing)
        for each in KNOWN:
            lacking = 0
            for before, one in reversed(history[:step]):
                if each not in before or each.uid in one.uids:
                    break
                lacking += one.covers(each.namespace)
            assert (each in gone) == (lacking >= 2)
