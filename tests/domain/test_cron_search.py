"""The slots of cron expressions, compared with a brute-force oracle, with croniter and with documented examples."""

from __future__ import annotations

import random
import re
from bisect import bisect_left, bisect_right
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduledjob.domain.cron.days import GroupDays, groups_of
from scheduledjob.domain.cron.search import CronSearch
from scheduledjob.domain.time.instants import SECOND, to_instant
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.domain.triggers.cron import Cron, CronError
from tests.domain.cron_oracle import EPOCH, Oracle, Sky, minute_skies, random_expression, repeated_day, second_skies


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def agrees(expression: str, sky: Sky, pick: random.Random, instants: int = 12) -> bool:
    """Compare next, previous and count with the oracle. Returns False if the expression can never fire."""
    try:
        cron = Cron(expression, sky.zone)
    except CronError as error:
        if "can never fire" not in str(error):
            raise
        return False
    slots = sky.slots(Oracle(expression))
    about = f"{expression!r} in {sky.zone}"
    low, high = sky.start * SECOND, (sky.stop - 1) * SECOND
    edges = [slot * SECOND + shift for slot in pick.sample(slots, min(len(slots), 3)) for shift in (-1, 0, 1)]
    middle = (sky.start + sky.stop) // 2 * SECOND
    near = [middle + pick.randint(-7200, 7200) * SECOND for _ in range(instants // 3)]
    moments = [low, *edges, *near, *(pick.randint(low, high) for _ in range(instants // 2)), middle, middle - 1]
    moments = [moment for moment in moments if low <= moment <= high]
    for at in moments:
        index = bisect_right(slots, at // SECOND)
        following = cron.next_instant(at)
        if index < len(slots):
            assert following == slots[index] * SECOND, f"{about}: next after {at}"
        else:
            assert following is None or following >= sky.stop * SECOND, f"{about}: next after {at}"
        newest = cron.previous_instant(at)
        if index:
            assert newest == slots[index - 1] * SECOND, f"{about}: previous at {at}"
        else:
            assert newest is None or newest < low, f"{about}: previous at {at}"
    for after, until in pairwise(moments):
        expected = bisect_right(slots, until // SECOND) - bisect_right(slots, after // SECOND)
        assert cron.count(after, until) == max(0, expected), f"{about}: count from {after} to {until}"
    day = middle // SECOND // 86_400
    search = cron.by_day()
    assert isinstance(search, CronSearch)
    bits = GroupDays(groups_of([search])[0], 1).slots(day)
    first, last = day * 86_400, (day + 1) * 86_400
    if sky.start <= first and last <= sky.stop:
        inside = slots[bisect_left(slots, first) : bisect_left(slots, last)]
        assert bits == sum(1 << slot - first for slot in inside), f"{about}: bits of {day}"
    return True


@pytest.mark.parametrize("seed", range(40))
def test_minutes_agree_with_the_oracle(seed: int) -> None:
    pick = random.Random(seed)
    compared = sum(
        agrees(random_expression(pick, seconds=False), sky, pick) for sky in minute_skies() for _ in range(3)
    )
    assert compared > 40


@pytest.mark.parametrize("seed", range(5))
def test_seconds_agree_with_the_oracle(seed: int) -> None:
    pick = random.Random(1000 + seed)
    compared = sum(agrees(random_expression(pick, seconds=True), sky, pick) for sky in second_skies() for _ in range(3))
    assert compared > 20


def test_a_repeated_day_agrees_with_the_oracle() -> None:
    pick = random.Random(3000)
    assert sum(agrees(random_expression(pick, seconds=True), repeated_day(), pick) for _ in range(12)) > 3


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.booleans())
def test_any_expression_agrees_with_the_oracle(seed: int, seconds: bool) -> None:
    pick = random.Random(seed)
    agrees(random_expression(pick, seconds=seconds), pick.choice(second_skies() if seconds else minute_skies()), pick)


@pytest.mark.parametrize("seed", range(4))
def test_dates_agree_with_the_oracle_over_decades(seed: int) -> None:
    """Leap days, last days, nearest weekdays: what a few hours do not show."""
    pick = random.Random(2000 + seed)
    first, last = date(1996, 1, 1), date(2013, 1, 1)
    days = [first + timedelta(number) for number in range((last - first).days)]
    start = to_instant(datetime(1996, 1, 1, tzinfo=UTC)) - 1
    for _ in range(25):
        fields = random_expression(pick, seconds=False).split()
        expression = " ".join(["0 12", *fields[2:]] if len(fields) == 5 else ["0 0 12", *fields[3:]])
        oracle = Oracle(expression)
        expected = [day for day in days if oracle.matches_date(day)]
        try:
            cron = Cron(expression)
        except CronError:
            assert not expected
            continue
        found, at = [], start
        while (slot := cron.next_instant(at)) is not None and slot < to_instant(datetime(2013, 1, 1, tzinfo=UTC)):
            found.append((EPOCH + timedelta(microseconds=slot)).date())
            assert len(found) % 97 or cron.count(start, slot) == len(found)
            assert cron.previous_instant(slot) == slot
            assert cron.next_instant(slot - 1) == slot
            at = slot
        assert found == expected, expression


ZONES = ["UTC", "Asia/Kolkata", "America/New_York", "Europe/Berlin"]


@pytest.mark.parametrize("seed", range(4))
def test_croniter_agrees_if_the_dialects_do(seed: int) -> None:
    """Plain fields, far from DST changes: here croniter is an independent implementation of Unix cron."""
    pick = random.Random(4000 + seed)
    compared = 0
    while compared < 60:
        fields = random_expression(pick, seconds=False).upper().split()
        if len(fields) != 5 or any(sign in " ".join(fields[2:]) for sign in "LW#"):
            continue
        ranges = re.findall(r"([0-9A-Z]+)-([0-9A-Z]+)", " ".join(fields))
        if any(not (first + last).isdigit() or int(first) >= int(last) for first, last in ranges):
            continue  # croniter reads 3-3 as *, and ignores the step of 57-24/20 where it wraps
        if "/" in fields[4] or "*/" in fields[2] or "*" in fields[2][1:]:
            continue  # in croniter, a/n ends on Saturday, and */n of days has another meaning
        expression, zone = " ".join(fields), zone_info(pick.choice(ZONES))
        after = datetime(2026, 5, 1, tzinfo=zone) + timedelta(seconds=pick.randint(0, 86_400 * 120))
        try:
            cron = Cron(expression, zone.key)
        except CronError:
            continue
        theirs = croniter(expression, after).get_next(datetime)
        if theirs.utcoffset() != after.utcoffset():
            continue
        assert cron.next(after) == theirs.astimezone(UTC), expression
        compared += 1


LOS_ANGELES = "America/Los_Angeles"


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 30 2 * * ?", "2026-03-08T00:00:00-08:00", "2026-03-08T10:00:00Z"),
        ("0 30 2 * * ?", "2026-03-08T10:00:00Z", "2026-03-09T09:30:00Z"),
        ("0 0,10,50 2 * * ?", "2026-03-08T00:00:00-08:00", "2026-03-08T10:00:00Z"),
        ("0 0,10,50 2-3 * * ?", "2026-03-08T10:00:00Z", "2026-03-08T10:10:00Z"),
        ("0 30 1 * * ?", "2026-11-01T00:00:00-07:00", "2026-11-01T08:30:00Z"),
        ("0 30 1 * * ?", "2026-11-01T08:30:00Z", "2026-11-02T09:30:00Z"),
        ("0 30 * * * ?", "2026-11-01T08:30:00Z", "2026-11-01T09:30:00Z"),
        ("0 */30 1 * * ?", "2026-11-01T08:30:00Z", "2026-11-01T09:00:00Z"),
        ("*/30 2 * * *", "2026-03-08T00:00:00-08:00", "2026-03-09T09:00:00Z"),
    ],
)
def test_the_examples_of_dst(expression: str, after: str, expected: str) -> None:
    cron = Cron(expression, LOS_ANGELES)
    assert cron.next(moment(after)) == moment(expected)
    assert cron.previous(moment(expected)) == moment(expected)


@pytest.mark.parametrize(("day", "slots"), [("2026-03-08", 23), ("2026-11-01", 25), ("2026-07-01", 24)])
def test_an_hourly_schedule_fires_at_every_real_hour(day: str, slots: int) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=zone_info(LOS_ANGELES))
    end = begin + timedelta(days=1)
    assert Cron("0 0 * * * ?", LOS_ANGELES).count(to_instant(begin) - 1, to_instant(end) - 1) == slots


def test_the_times_of_a_skipped_day_share_a_slot_at_its_end() -> None:
    cron = Cron("0 30 2,14 * * ?", "Pacific/Apia")
    slots = [moment("2011-12-29T12:30:00Z")]  # 29 December, 2:30
    for _ in range(4):
        slots.append(cron.next(slots[-1]) or EPOCH)
    assert [slot.isoformat() for slot in slots[1:]] == [
        "2011-12-30T00:30:00+00:00",  # 29 December, 14:30
        "2011-12-30T10:00:00+00:00",  # 31 December, 0:00, for 30 December
        "2011-12-30T12:30:00+00:00",
        "2011-12-31T00:30:00+00:00",
    ]
    for slot in slots[1:]:
        assert cron.previous(slot) == slot
        assert cron.next(slot - timedelta(microseconds=1)) == slot


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01", "2028-02-29"),
        ("0 0 29 2 *", "2096-03-01", "2104-02-29"),
        ("0 0 29 2 */3", "2026-01-01", "2032-02-29"),  # a Sunday: */3 is Sunday, Wednesday, Saturday
        ("0 0 13 * 5", "2026-11-01", "2026-11-06"),  # either
        ("0 0 */2 * 5", "2026-11-02", "2026-11-13"),  # both: an odd day and a Friday
        ("0 0 L * *", "2026-02-01", "2026-02-28"),
        ("0 0 L-3 * *", "2026-02-01", "2026-02-25"),
        ("0 0 LW * *", "2026-05-01", "2026-05-29"),
        ("0 0 1W * *", "2026-08-01", "2026-08-03"),  # the 1st is a Saturday; never into July
        ("0 0 31W * *", "2026-05-01", "2026-05-29"),  # the 31st is a Sunday; never into June
        ("0 0 31W * *", "2026-06-01", "2026-07-31"),  # none in June
        ("0 0 15W * *", "2026-11-01", "2026-11-16"),  # the 15th is a Sunday
        ("0 0 ? * FRI#3", "2026-11-01", "2026-11-20"),
        ("0 0 ? * 5#5", "2026-11-01", "2027-01-29"),
        ("0 0 ? * FRIL", "2026-11-01", "2026-11-27"),
        ("0 0 ? * 7L", "2026-11-01", "2026-11-29"),
        ("0 0 * * fri-sun", "2026-11-09", "2026-11-13"),
        ("0 0 * * 7", "2026-11-09", "2026-11-15"),
        ("0 0 * nov-feb *", "2026-03-01", "2026-11-01"),
        ("0 0 28-2 * *", "2026-11-03", "2026-11-28"),
        ("0 0 10/15 * *", "2026-11-11", "2026-11-25"),
        ("@yearly", "2026-11-03", "2027-01-01"),
        ("@Annually", "2026-11-03", "2027-01-01"),
        ("@monthly", "2026-11-03", "2026-12-01"),
        ("@weekly", "2026-11-03", "2026-11-08"),
        ("@daily", "2026-11-03", "2026-11-04"),
        ("@midnight", "2026-11-03", "2026-11-04"),
        ("0 0 0 ? * * 2027-2028", "2026-11-03", "2027-01-01"),
    ],
)
def test_each_form_of_the_dialect(expression: str, after: str, expected: str) -> None:
    cron = Cron(expression)
    slot = moment(expected + "T00:00:00Z")
    assert (
        cron.next(moment(after + "T12:00:00Z") - timedelta(days=1)) == slot
        or cron.next(moment(after + "T00:00:00Z")) == slot
    )
    assert cron.previous(slot) == slot


def test_hours_wrap_and_step() -> None:
    cron = Cron("0 22-3/2 * * *")
    at, hours = moment("2026-11-03T12:00:00Z"), []
    for _ in range(4):
        at = cron.next(at) or EPOCH
        hours.append(at.hour)
    assert hours == [22, 0, 2, 22]
    assert Cron("@hourly").next(at) == at + timedelta(hours=1)


def test_an_expression_without_future_slots_ends() -> None:
    cron = Cron("0 0 0 1 1 ? 2026", "Europe/Lisbon")
    assert cron.next(moment("2025-12-31T00:00:00Z")) == moment("2026-01-01T00:00:00Z")
    assert cron.next(moment("2026-01-01T00:00:00Z")) is None
    assert cron.previous(moment("2025-12-31T00:00:00Z")) is None
    assert cron.previous(moment("2096-12-31T00:00:00Z")) == moment("2026-01-01T00:00:00Z")


def test_the_last_hour_of_a_year_that_clocks_repeat_is_found() -> None:
    """There may be no later local time, but the clocks are about to go back to an earlier one."""
    cron = Cron("0 */15 1 1 11 ? 2026", LOS_ANGELES)
    assert cron.next(moment("2026-11-01T08:45:00Z")) == moment("2026-11-01T09:00:00Z")
    assert cron.next(moment("2026-11-01T09:45:00Z")) is None
    assert cron.previous(moment("2027-06-01T00:00:00Z")) == moment("2026-11-01T09:45:00Z")
    assert cron.previous(moment("2026-11-01T09:44:59Z")) == moment("2026-11-01T09:30:00Z")
    assert cron.previous(moment("2026-11-01T08:59:59Z")) == moment("2026-11-01T08:45:00Z")
    assert cron.count(0, to_instant(moment("2027-01-01T00:00:00Z"))) == 8


def test_the_first_and_last_dates_are_no_error() -> None:
    for zone in ("UTC", LOS_ANGELES, "Pacific/Apia"):
        for expression in ("* * * * * ?", "0 0 1 1 *", "0 30 2 * * ?"):
            cron = Cron(expression, zone)
            assert cron.next(datetime.max.replace(tzinfo=UTC)) is None
            assert cron.previous(datetime.min.replace(tzinfo=UTC)) is None
            assert cron.previous(datetime.max.replace(tzinfo=UTC)) is not None
            assert cron.next(datetime.min.replace(tzinfo=UTC)) is not None
