"""Which late slots run, compared with the rule applied to a list of every slot."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.definition import CatchUp, Definition, ExcludeWindow, Misfire
from scheduledjob.domain.schedule.misfire import (
    MAX_DECISION_STEPS,
    MAX_WALK_STEPS,
    ON_TIME,
    SlotDecision,
    decide_slots,
    jitter_of,
    newest_due,
)
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.state import Run
from scheduledjob.domain.time.instants import DAY, SECOND, Instant, Micros
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.once import AtTrigger

if TYPE_CHECKING:
    from scheduledjob.domain.triggers.registry import Trigger

T: Instant = 1_790_000_000 * SECOND
END = 300


@st.composite
def cases(draw: st.DrawFn) -> tuple[Definition, list[Instant], list[Instant], Instant]:
    """A definition, its slots, those that are excluded, and the time of the decision."""
    every = draw(st.sampled_from([1, 3, 10, 60]))
    moments = draw(st.lists(st.integers(1, END * SECOND).map(lambda n: T + n), max_size=2))
    start, length = draw(st.tuples(st.integers(0, END), st.integers(0, 100)))
    window = ExcludeWindow(T + start * SECOND, T + (start + length) * SECOND)
    rule = Misfire(
        draw(st.sampled_from(CatchUp)),
        draw(st.integers(1, 6)),
        draw(st.none() | st.integers(0, END).map(lambda n: n * SECOND)),
    )
    triggers: tuple[Trigger, ...] = (EveryTrigger(every * SECOND, T + every * SECOND), *map(AtTrigger, moments))
    jitter = draw(st.sampled_from([0, 0, 5 * SECOND]))
    definition = Definition(kind="k", triggers=triggers, exclude=(window,), misfire=rule, jitter=jitter)
    every_slot = sorted({*range(T + every * SECOND, T + END * SECOND + 1, every * SECOND), *moments})
    kept = [slot for slot in every_slot if not window.start <= slot < window.end]
    out = [slot for slot in every_slot if window.start <= slot < window.end]
    return definition, kept, out, T + draw(st.integers(0, END * SECOND))


@given(cases())
def test_the_rule_takes_what_a_list_of_all_slots_says(
    case: tuple[Definition, list[Instant], list[Instant], Instant],
) -> None:
    definition, kept, out, now = case
    slots = slots_of(Plan(definition), seed="s", created=T)
    assert slots is not None

    def due(slot: Instant) -> Instant:
        return slot + jitter_of("u", slot, definition.jitter)

    if not kept or due(kept[0]) > now:
        return
    planned = kept[0]
    came = [slot for slot in kept if slot == planned or due(slot) <= now]
    came = kept[: kept.index(came[-1]) + 1]
    if now - due(planned) < ON_TIME:
        came = [planned]
    rule = definition.misfire
    wanted = rule.max_catch_up if rule.catch_up is CatchUp.ALL else 1
    limit = rule.deadline
    newest: list[Instant] = []
    for slot in reversed(came[-wanted:]):
        if limit is not None and now - due(slot) > limit:
            break
        newest.insert(0, slot)
    expected = SlotDecision(newest, len(came) - len(newest), sum(slot < came[-1] for slot in out), came[-1])
    assert decide_slots(definition, slots, "u", Run(slot=planned, due=due(planned)), T, now) == expected


@given(st.integers(0, 10**9), st.integers(0, 300))
def test_the_newest_due_slot_is_found_past_jitter(offset: int, jitter: int) -> None:
    definition = Definition(kind="k", triggers=(EveryTrigger(SECOND, T),))
    slots = slots_of(Plan(definition), seed="s", created=T)
    assert slots is not None
    now = T + offset
    found = newest_due(slots, "u", jitter * SECOND, now)
    came = [
        slot
        for slot in range(now - now % SECOND, max(T, now - (jitter + 2) * SECOND) - 1, -SECOND)
        if slot + jitter_of("u", slot, jitter * SECOND) <= now
    ]
    assert found is None or found + jitter_of("u", found, jitter * SECOND) <= now
    if came and came[0] >= now - 60 * SECOND:
        assert found == came[0]


class CostlySlots:
    """A slot each year, each of which takes a long search."""

    following = ()
    by_hand = False
    zoned = False

    def __init__(self) -> None:
        self.steps = 0

    def next(self, after: Instant) -> Instant | None:
        self.steps += MAX_WALK_STEPS // 2
        return after - after % YEAR + YEAR

    def previous(self, at: Instant) -> Instant | None:
        self.steps += MAX_WALK_STEPS // 2
        return at - at % YEAR

    def count(self, after: Instant, until: Instant, max_steps: int = 0, /) -> tuple[int, int]:
        return until // YEAR - after // YEAR, 0

    def is_within(self, slot: Instant) -> bool:
        return True

    def is_excluded(self, slot: Instant) -> bool:
        return False


YEAR = 365 * DAY


def test_slots_that_are_hard_to_find_are_not_all_caught_up() -> None:
    slots, now = CostlySlots(), 1100 * YEAR
    planned = Run(slot=1000 * YEAR, due=1000 * YEAR)
    definition = Definition(kind="k", misfire=Misfire(CatchUp.ALL, max_catch_up=100))
    decision = decide_slots(definition, slots, "u", planned, 1000 * YEAR - 1, now)
    assert decision.start == [1097 * YEAR, 1098 * YEAR, 1099 * YEAR, 1100 * YEAR]
    assert decision.missed == 97
    assert slots.steps <= 3 * MAX_WALK_STEPS


class RecordedSlots(CostlySlots):
    """Slots that are easy to find. It records what is counted, and counts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[tuple[Instant, Instant, int]] = []

    def next(self, after: Instant) -> Instant | None:
        return after - after % YEAR + YEAR

    def previous(self, at: Instant) -> Instant | None:
        return at - at % YEAR

    def count(self, after: Instant, until: Instant, max_steps: int = MAX_DECISION_STEPS, /) -> tuple[int, int]:
        self.counted.append((after, until, max_steps))
        return 0, 0


def test_no_time_is_counted_twice() -> None:
    slots, window = RecordedSlots(), ExcludeWindow(0, 1)
    definition = Definition(kind="k", exclude=(window,), misfire=Misfire(CatchUp.ALL, max_catch_up=5))
    planned = Run(slot=3 * YEAR, due=3 * YEAR)
    decision = decide_slots(definition, slots, "u", planned, YEAR, 9 * YEAR)
    assert [part[:2] for part in slots.counted] == [(YEAR, 3 * YEAR), (3 * YEAR, 9 * YEAR)]
    # A count that ended early finds fewer slots than the walk before it.
    assert len(decision.start) == 5
    assert decision.missed == 0


def test_what_is_hard_to_find_leaves_little_for_counting() -> None:
    costly, planned = CostlySlots(), Run(slot=1000 * YEAR, due=1000 * YEAR)
    with patch.object(costly, "count", return_value=(3, 0)) as count:
        definition = Definition(kind="k", misfire=Misfire(CatchUp.ALL, max_catch_up=100))
        decide_slots(definition, costly, "u", planned, 1000 * YEAR - 1, 1100 * YEAR)
    ((_, _, max_steps),) = [call.args for call in count.call_args_list]
    assert max_steps < MAX_DECISION_STEPS // 5


def test_the_walk_past_jitter_ends_when_slots_are_hard_to_find() -> None:
    slots = CostlySlots()
    newest = newest_due(slots, "u", 1000 * YEAR, 5000 * YEAR + 1)
    assert newest is not None
    assert newest + jitter_of("u", newest, 1000 * YEAR) <= 5000 * YEAR + 1
    assert slots.steps <= 3 * MAX_WALK_STEPS


def jittered_slot(jitter: Micros) -> tuple[Instant, Instant]:
    """Return a slot of every minute whose jitter is neither none nor all of it, and when it is due."""
    for minute in range(1, 100):
        slot = T + minute * 60 * SECOND
        due = slot + jitter_of("u", slot, jitter)
        if SECOND < due - slot < jitter - SECOND:
            return slot, due
    raise AssertionError("no slot has such a jitter")


def test_the_newest_due_slot_is_one_whose_jitter_has_passed() -> None:
    definition = Definition(kind="k", triggers=(EveryTrigger(60 * SECOND, T),))
    slots = slots_of(Plan(definition), seed="s", created=T)
    assert slots is not None
    slot, due = jittered_slot(30 * SECOND)
    assert newest_due(slots, "u", 30 * SECOND, due) == slot
    assert newest_due(slots, "u", 30 * SECOND, due - 1) == slot - 60 * SECOND


def test_the_starting_deadline_counts_from_when_a_slot_is_due_with_its_jitter() -> None:
    """Of the planned slot, and of a later one."""
    jitter, deadline = 30 * SECOND, 40 * SECOND
    rule = Misfire(CatchUp.LAST, starting_deadline=deadline)
    definition = Definition(kind="k", triggers=(EveryTrigger(60 * SECOND, T),), misfire=rule, jitter=jitter)
    slots = slots_of(Plan(definition), seed="s", created=T)
    assert slots is not None
    slot, due = jittered_slot(jitter)
    before = slot - 60 * SECOND
    for planned in (Run(slot=slot, due=due), Run(slot=before, due=before + jitter_of("u", before, jitter))):
        in_time = decide_slots(definition, slots, "u", planned, T, due + deadline)
        too_late = decide_slots(definition, slots, "u", planned, T, due + deadline + 1)
        assert (in_time.start, too_late.start) == ([slot], [])


def test_a_slot_that_a_caller_names_needs_no_triggers_beside_its_exclusions() -> None:
    definition = Definition(kind="k", exclude=(ExcludeWindow(T, T + SECOND),))
    decision = decide_slots(definition, None, "u", Run(slot=T, due=T), T - 1, T)
    assert decision == SlotDecision([T], missed=0, excluded=0, decided_until=T)
