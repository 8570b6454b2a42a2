"""Timetables, compared with a walk over every second of some days."""

from __future__ import annotations

import random
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduledjob.domain.cron.days import WHOLE_MINUTES_FROM
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND, Instant, to_datetime, to_instant
from scheduledjob.domain.time.zones import zone_of
from scheduledjob.domain.triggers.cron import Cron, CronError
from scheduledjob.domain.triggers.day_bits import MAX_COUNT_STEPS, MAX_STEPS, DayBits
from scheduledjob.domain.triggers.every import Every
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.domain.triggers.once import At
from scheduledjob.domain.triggers.timetable import Timetable, Window
from tests.domain.cron_oracle import EPOCH, Oracle, minute_skies, random_expression

if TYPE_CHECKING:
    from scheduledjob.domain.triggers.stored_trigger import BoundTrigger

START = to_instant(datetime(2026, 3, 7, tzinfo=UTC))


def instant(text: str) -> Instant:
    return to_instant(datetime.fromisoformat(text))


class RandomTimetable:
    """A random timetable over a period, with the slots that it must have."""

    def __init__(self, pick: random.Random) -> None:
        self.pick = pick
        self.sky = pick.choice(minute_skies())
        self.low, self.high = self.sky.start * SECOND, (self.sky.stop - 1) * SECOND
        slots: set[Instant] = set()
        triggers: list[BoundTrigger] = []
        for _ in range(pick.choice((1, 1, 2, 3))):
            trigger, its_slots = self._trigger()
            triggers.append(trigger)
            slots |= its_slots
        excluded: set[Instant] = set()
        exclude: list[Window | Cron] = []
        for _ in range(pick.choice((0, 1, 1, 2))):
            exclusion, left_out = self._exclusion(slots)
            exclude.append(exclusion)
            excluded |= left_out
        start_at = self._moment() if pick.random() < 0.3 else None
        end_at = self._moment() if pick.random() < 0.3 else None
        inside = {
            slot
            for slot in slots
            if (start_at is None or slot >= start_at)
            and (end_at is None or slot <= end_at)
            and self.low <= slot <= self.high
        }
        self.kept, self.excluded = sorted(inside - excluded), sorted(inside & excluded)
        self.timetable = Timetable(triggers, exclude, start_at, end_at)
        self.about = f"{triggers} {exclude} {start_at} {end_at}"

    def check(self) -> None:
        moments = [self.low, self.high, *(self._moment() for _ in range(6))]
        moments += [slot - shift for slot in self.pick.sample(self.kept, min(2, len(self.kept))) for shift in (0, 1)]
        for at in moments:
            index = bisect_right(self.kept, at)
            following, newest = self.timetable.next(at), self.timetable.previous(at)
            if index < len(self.kept):
                assert following == self.kept[index], f"next after {at}: {self.about}"
            else:
                assert following is None or following > self.high, f"next after {at}: {self.about}"
            if index:
                assert newest == self.kept[index - 1], f"previous at {at}: {self.about}"
            else:
                assert newest is None or newest < self.low, f"previous at {at}: {self.about}"
        for after, until in pairwise(moments):
            expected = tuple(
                max(0, bisect_right(slots, until) - bisect_right(slots, after)) for slots in (self.kept, self.excluded)
            )
            assert self.timetable.count(after, until) == expected, f"{after} to {until}: {self.about}"

    def _moment(self) -> Instant:
        moment = self.pick.randint(self.low, self.high)
        return moment - moment % MINUTE if self.pick.random() < 0.5 else moment

    def _cron(self) -> tuple[Cron, Oracle]:
        while True:
            expression = random_expression(self.pick, seconds=False)
            try:
                return Cron(expression, self.sky.zone), Oracle(expression)
            except CronError:
                continue

    def _trigger(self) -> tuple[BoundTrigger, set[Instant]]:
        kind = self.pick.choice(("cron", "cron", "every", "at"))
        if kind == "cron":
            cron, oracle = self._cron()
            return cron, {second * SECOND for second in self.sky.slots(oracle)}
        if kind == "every":
            seconds = self.pick.choice((1, 7, 30, 60, 3600, 5400, 86_400, 100_000))
            seconds = seconds if seconds > 1 or self.pick.random() < 0.2 else 60
            anchor = self.pick.randint(self.low - DAY, self.low + DAY) // SECOND
            shift = max(0, -(-(self.sky.start - anchor) // seconds))
            slots = range(anchor + shift * seconds, self.sky.stop, seconds)
            return Every(seconds).bind(anchor * SECOND), {second * SECOND for second in slots}
        moment = self._moment()
        if self.pick.random() < 0.5:
            moment -= moment % MINUTE
        return At(to_datetime(moment)), {moment}

    def _exclusion(self, slots: set[Instant]) -> tuple[Window | Cron, set[Instant]]:
        if self.pick.random() < 0.5:
            start = self._moment()
            window = Window(start, start + self.pick.randint(-HOUR, 2 * DAY))
            return window, {slot for slot in slots if window.start <= slot < window.end}
        cron, oracle = self._cron()
        seconds = set(self.sky.slots(oracle))
        if not oracle.unix:
            return cron, {slot for slot in slots if slot // SECOND in seconds}
        # Five fields exclude whole minutes; a slot that a gap moved to its end is a single second.
        shown = dict(self.sky.real)
        minutes = {second for second in seconds if oracle.matches(shown[second])}
        return cron, {slot for slot in slots if slot // SECOND in seconds or slot // MINUTE * 60 in minutes}


@pytest.mark.parametrize("seed", range(6))
def test_timetables_agree_with_a_walk(seed: int) -> None:
    pick = random.Random(seed)
    for _ in range(60):
        RandomTimetable(pick).check()


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_any_timetable_agrees_with_a_walk(seed: int) -> None:
    RandomTimetable(random.Random(seed)).check()


def test_a_slot_of_two_triggers_is_one_slot() -> None:
    timetable = Timetable([Every(60).bind(0), Cron("* * * * *"), At(to_datetime(START)), Every(60.0).bind(0)])
    assert timetable.count(START - 1, START + HOUR - 1) == (60, 0)
    assert timetable.next(START - 1) == START
    assert timetable.next(START) == START + MINUTE


def test_moments_keep_their_microseconds() -> None:
    timetable = Timetable([At(to_datetime(START + 1)), At(to_datetime(START + 3)), Every(1).bind(START)])
    assert [timetable.next(START + shift) for shift in (-1, 0, 1, 3)] == [START, START + 1, START + 3, START + SECOND]
    assert [timetable.previous(START + shift) for shift in (0, 1, 2, 4)] == [START, START + 1, START + 1, START + 3]
    assert timetable.count(START, START + SECOND) == (3, 0)


def test_a_window_excludes_its_beginning_and_not_its_end() -> None:
    window = Window(START, START + HOUR)
    timetable = Timetable([Every(60).bind(0)], [window])
    assert timetable.next(START - MINUTE) == START + HOUR
    assert timetable.previous(START + HOUR - 1) == START - MINUTE
    assert timetable.count(START - MINUTE, START + HOUR) == (1, 60)


def test_windows_may_overlap_touch_and_be_empty() -> None:
    windows = [
        Window(START + HOUR, START + 2 * HOUR),
        Window(START, START + HOUR),
        Window(START - 1, START + MINUTE),
        Window(START + 3 * HOUR, START + 3 * HOUR),
    ]
    timetable = Timetable([Every(60).bind(0)], windows)
    assert timetable.next(START - 1) == START + 2 * HOUR
    assert timetable.count(START - 1, START + 4 * HOUR) == (121, 120)


def test_start_and_end_are_inclusive() -> None:
    timetable = Timetable([Every(60).bind(0)], start_at=START, end_at=START + 2 * MINUTE)
    assert timetable.next(0) == START
    assert timetable.next(START + MINUTE) == START + 2 * MINUTE
    assert timetable.next(START + 2 * MINUTE) is None
    assert timetable.previous(START - 1) is None
    assert timetable.previous(START + DAY) == START + 2 * MINUTE
    assert timetable.count(0, START + DAY) == (3, 0)


def test_an_exclusion_in_five_fields_means_whole_minutes() -> None:
    nights = Cron("* 22-5 * * *", "Europe/Lisbon")
    timetable = Timetable([Every(30).bind(0)], [nights])
    assert timetable.next(instant("2026-01-10T21:59:30Z")) == instant("2026-01-11T06:00:00Z")
    assert timetable.previous(instant("2026-01-11T05:59:59Z")) == instant("2026-01-10T21:59:30Z")
    assert timetable.count(instant("2026-01-10T21:59:30Z"), instant("2026-01-11T06:00:00Z")) == (1, 8 * 120)


def test_an_exclusion_in_six_fields_means_its_seconds() -> None:
    timetable = Timetable([Every(30).bind(0)], [Cron("0 * * * * ?")])
    assert timetable.next(START) == START + 30 * SECOND
    assert timetable.count(START, START + HOUR) == (60, 60)


def test_an_exclusion_reaches_the_slot_that_a_gap_moved() -> None:
    daily = Cron("0 30 2 * * ?", "America/Los_Angeles")
    timetable = Timetable([daily], [Cron("0 30 2 8 3 ?", "America/Los_Angeles")])
    assert timetable.next(instant("2026-03-08T00:00:00Z")) == instant("2026-03-09T09:30:00Z")


def test_an_interval_is_refused_as_an_exclusion() -> None:
    with pytest.raises(CronError, match="write an expression with fields, or a window"):
        Timetable([Every(30).bind(0)], [Cron("@every 30s")])


def test_exclusions_may_exclude_everything() -> None:
    for trigger in (Every(1).bind(0), Every(7).bind(0), Cron("*/5 * * * *", "Europe/Lisbon"), Cron("0 0 1 1 *")):
        timetable = Timetable([trigger], [Cron("* * * * *")])
        assert timetable.next(START) is None
        assert timetable.previous(START) is None
        kept, excluded = timetable.count(START, START + 400 * DAY)
        assert kept == 0
        assert excluded == trigger.count(START, START + 400 * DAY)


def test_a_rare_slot_among_excluded_ones_is_found() -> None:
    """All seconds of a leap day except one are excluded."""
    timetable = Timetable(
        [Every(1).bind(0)],
        [
            Cron("1-59 * * * * ?"),
            Cron("0 1-59 * * * ?"),
            Cron("* * 1-23 * * ?"),
            Cron("* * 0 1-28,30,31 * ?"),
            Cron("* * 0 29 1,3-12 ?"),
        ],
    )
    assert timetable.next(START) == instant("2028-02-29T00:00:00Z")
    assert timetable.previous(START) == instant("2024-02-29T00:00:00Z")
    assert timetable.count(START - 3 * 365 * DAY, START + 3 * 365 * DAY)[0] == 2


def test_the_search_by_days_respects_windows_moments_and_ends() -> None:
    swallowing: list[Window | Cron] = [Cron("1-59 * * * * ?"), Window(START, START + 5 * MINUTE)]
    moment = At(to_datetime(START + 90 * SECOND + 500))
    timetable = Timetable([Every(1).bind(0), moment], swallowing)
    assert timetable.next(START - SECOND) == START + 5 * MINUTE
    assert timetable.previous(START + 5 * MINUTE - 1) == START - MINUTE
    outside = At(to_datetime(START + 6 * MINUTE - 500))
    timetable = Timetable(
        [Every(1).bind(0), outside], [Cron("1-58 * * * * ?"), Cron("59 * * * * ?"), Cron("0 6 * * * ?")]
    )
    assert timetable.next(START + 5 * MINUTE) == START + 7 * MINUTE
    timetable = Timetable([Every(1).bind(0)], swallowing, end_at=START + 4 * MINUTE, start_at=START - 30 * SECOND)
    assert timetable.next(START - 30 * SECOND) is None
    assert timetable.previous(START + 4 * MINUTE) is None


def test_a_timetable_knows_the_jobs_it_follows() -> None:
    following = FollowingTrigger("extract")
    timetable = Timetable([following])
    assert timetable.following == (following,)
    assert timetable.next(START) is None
    assert timetable.previous(START) is None
    assert timetable.count(0, START) == (0, 0)
    assert not timetable.by_hand


def test_a_manual_trigger_has_no_slots_and_changes_no_others() -> None:
    alone = Timetable([ManualTrigger()])
    assert alone.by_hand
    assert alone.next(START) is alone.previous(START) is None
    assert alone.count(0, START) == (0, 0)
    beside = Timetable([Every(60).bind(0), ManualTrigger()])
    assert beside.by_hand
    assert beside.next(START) == START + MINUTE


@pytest.mark.parametrize(
    ("triggers", "expected"),
    [
        ([Every(1).bind(0)], 315_619_200),
        ([Cron("*/5 * * * *", "Europe/Lisbon")], 1_052_064),
        ([Cron("0 */5 * * * ?", "Europe/Lisbon"), Every(300).bind(0)], 1_052_064),
    ],
)
def test_ten_years_are_counted_exactly(triggers: list[BoundTrigger], expected: int) -> None:
    start, end = instant("2016-01-01T00:00:00Z"), instant("2026-01-01T00:00:00Z")
    assert Timetable(triggers).count(start, end) == (expected, 0)


def test_slots_before_1970_are_found() -> None:
    timetable = Timetable([Every(60).bind(to_instant(EPOCH - timedelta(days=1)))])
    assert timetable.previous(-1) == -MINUTE
    assert timetable.next(-1) == 0


def test_the_search_by_days_ends_with_the_schedule() -> None:
    seconds = [Cron("1-59 * * * * ?")]
    assert Timetable([Every(1).bind(0)], seconds, end_at=START + 59 * SECOND).next(START) is None
    assert Timetable([Every(1).bind(0)], seconds, end_at=START + MINUTE).next(START) == START + MINUTE
    assert Timetable([Every(1).bind(0)], seconds, start_at=START + 1).previous(START + 59 * SECOND) is None
    assert Timetable([Every(1).bind(0)], seconds, start_at=START).previous(START + 59 * SECOND) == START


def test_days_have_equal_keys_only_if_their_clocks_agree() -> None:
    """After the day that Alaska had twice, local times of the next UTC day belong to their first occurrence."""
    cron, same = Cron("0 0 0-23 * * ?", "America/Juneau"), Cron("0 0 0-22,23 * * ?", "America/Juneau")
    begin, end = instant("1867-10-10T00:00:00Z"), instant("1867-10-30T00:00:00Z")
    assert Timetable([cron, same]).count(begin, end) == (cron.count(begin, end), 0)


def test_the_search_by_days_passes_windows_and_stops_at_moments() -> None:
    minutes = Cron("1-59 * * * * ?")
    windowed = Timetable([Every(1).bind(0)], [minutes, Window(START, START + 5 * MINUTE)])
    assert windowed.next(START - 50 * SECOND) == START + 5 * MINUTE
    assert windowed.previous(START + 5 * MINUTE + 59 * SECOND) == START + 5 * MINUTE
    moment = START + 5 * MINUTE - 3 * SECOND
    between = Timetable([Every(7).bind(START), Every(1).bind(0), At(to_datetime(moment + 1))], [Cron("1-56 * * * * ?")])
    assert between.next(START + 4 * MINUTE) == moment
    early = Timetable([Every(1).bind(0), At(to_datetime(moment - 500))], [minutes, Cron("57 * * * * ?")])
    assert early.next(START + 4 * MINUTE) == START + 5 * MINUTE  # it is excluded with its second
    kept = Timetable([Every(2).bind(0), At(to_datetime(moment + 500))], [Cron("0-56/2,58 * * * * ?")])
    assert kept.next(START + 3 * MINUTE) == moment + 500


# ---------------------------------------------------------------- the bound on the work

ZONES = [
    *("UTC", "Europe/Lisbon", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "Pacific/Apia"),
    *("America/Sao_Paulo", "Asia/Kolkata", "Africa/Casablanca", "Europe/Moscow", "America/Los_Angeles"),
    *("Pacific/Auckland", "Asia/Tehran", "America/Caracas", "Asia/Kathmandu", "Europe/London"),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[DayBits]:
    """The ``DayBits`` of the searches of a test, in their order."""
    made: list[DayBits] = []

    def remembered(*parts: Any) -> DayBits:
        made.append(DayBits(*parts))
        return made[-1]

    monkeypatch.setattr("scheduledjob.domain.triggers.timetable.DayBits", remembered)
    return made


def many(seconds: str, zones: int, excluded: str = "* * {day} {month} ?") -> Timetable:
    """A timetable of the largest size that a manifest allows. Its last exclusion excludes everything."""
    triggers = [Cron(f"{seconds}* * {day + 1}-31 * ?", ZONES[day % zones]) for day in range(16)]
    exclude = [
        Cron(seconds + excluded.format(day=number % 28 + 1, month=number % 12 + 1), ZONES[number % zones])
        for number in range(63)
    ]
    return Timetable(triggers, [*exclude, Cron("* * * * *")])


@pytest.mark.parametrize("zones", [1, 4, 8])
@pytest.mark.parametrize("excluded", ["* * {day} {month} ?", "*/2 */3 ? {month} {day}L", "{day} {month} * * ?"])
def test_the_work_of_a_search_is_bounded(zones: int, excluded: str, made: list[DayBits]) -> None:
    excluded = excluded.replace("{day}L", "1#{day}") if "L" in excluded else excluded
    excluded = excluded.replace("1#{day}", "SUN#1")
    timetable = many("", zones, excluded)
    made.clear()
    assert timetable.next(START) is None
    assert timetable.previous(START) is None
    timetable.count(START - 3650 * DAY, START)
    following, newest, counting = made
    assert following.steps <= MAX_STEPS + following.steps_of_day
    assert newest.steps <= MAX_STEPS + newest.steps_of_day
    assert counting.steps <= MAX_COUNT_STEPS + counting.steps_of_day


def test_a_search_keeps_few_days(made: list[DayBits]) -> None:
    """The days of a trigger in seconds are all different."""
    Timetable([Every(61).bind(0), Every(3601).bind(0)]).count(START, START + 100 * DAY)
    assert 0 < len(made[0]._known) <= 64


def test_at_least_a_year_is_searched_whatever_it_costs() -> None:
    first = instant("2027-03-02T00:00:00Z")
    timetable = many("", 8)
    open_again = [Window(START, first - 1), Window(first + DAY, first + 9000 * DAY)]
    triggers = [Cron(f"* * {day + 1}-31 * ?", ZONES[day % 8]) for day in range(16)]
    exclude = [Cron(f"* * ? {number % 12 + 1} SUN#{number % 5 + 1}", ZONES[number % 8]) for number in range(62)]
    assert timetable.next(START) is None
    assert Timetable(triggers, [*exclude, *open_again]).next(START) == first


def test_days_in_seconds_that_are_all_different_cost_many_steps() -> None:
    timetable = Timetable([Every(61).bind(0), Every(3601).bind(0)])
    timetable.count(START, START + 100 * DAY)
    assert timetable.steps > 100 * 25


def test_expressions_cost_steps_although_they_exclude_little() -> None:
    timetable = Timetable(
        [Cron("* * * * *")], [Cron(f"{number} 0 29 2 *") for number in range(60)] + [Cron("0 0 1 1 *")] * 4
    )
    timetable.count(START, START + 100 * DAY)
    assert timetable.steps > 100 * 3


def test_slots_that_are_passed_one_by_one_cost_steps() -> None:
    timetable = Timetable([Cron("0 * * * *")], [Cron("* 8-20 * * *")])
    assert timetable.next(START + 7 * HOUR) == START + 21 * HOUR
    assert timetable.steps > 12


def test_a_timetable_that_is_too_costly_is_refused_with_words() -> None:
    with pytest.raises(
        CronError, match=r"^triggers and exclude: the search .* steps for each day, .*: use fewer time zones"
    ):
        many("* ", 16)


def test_triggers_alone_are_never_too_costly() -> None:
    triggers = [Cron(f"{number} * * * * *", zone) for number, zone in enumerate(ZONES)]
    assert Timetable(triggers).next(START) == START + SECOND


def test_ten_years_of_sixteen_triggers_are_counted_exactly() -> None:
    triggers = [Cron(f"{number} 0 12 * * *", zone) for number, zone in enumerate(ZONES)]
    counted = Timetable(triggers).count(START - 3650 * DAY, START)
    assert counted == (sum(trigger.count(START - 3650 * DAY, START) for trigger in triggers), 0)


def test_of_a_period_that_is_too_long_only_the_beginning_is_counted() -> None:
    trigger, exclusion = Cron("* * * * *"), [Cron(f"{number} 0 1 1 *", zone) for number, zone in enumerate(ZONES[:8])]
    kept, excluded = Timetable([trigger], exclusion).count(START - 9000 * DAY, START)
    assert 1440 * 3650 < kept + excluded < 1440 * 9000


def test_no_zone_differs_from_utc_by_seconds_since_1973() -> None:
    for name in available_timezones() - {"Factory", "localtime"}:
        zone = zone_of(name)
        second = WHOLE_MINUTES_FROM * 86_400
        while second < 2_145_916_800:  # 2038
            segment = zone.at(second)
            assert segment.offset % 60 == 0, name
            assert segment.end % 60 == 0 or zone.at(segment.end).offset == segment.offset, name
            second = segment.end


def test_a_count_of_years_is_the_sum_of_its_months() -> None:
    triggers = [Cron(f"{number} {number} 9 * * 1-5", ZONES[number % 4]) for number in range(16)]
    exclude = [Cron(f"* * {number % 28 + 1} {number % 12 + 1} *", ZONES[number % 4]) for number in range(64)]
    timetable = Timetable(triggers, exclude)
    months = [timetable.count(START + 30 * DAY * month, START + 30 * DAY * (month + 1)) for month in range(24)]
    expected = tuple(map(sum, zip(*months, strict=True)))
    assert timetable.count(START, START + 24 * 30 * DAY) == expected
