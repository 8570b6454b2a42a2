"""Calendar: every so many weeks or days at a local time, compared with a walk over all days."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduledjob import Calendar as PublicCalendar
from scheduledjob.domain.time.instants import DAY, to_datetime, to_instant
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.domain.triggers.calendar_days import MAX_DAYS, MAX_WEEKS, WEEKDAYS, Calendar, CalendarTrigger
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.domain.triggers.every import Every, EveryTrigger
from scheduledjob.domain.triggers.registry import spec_of
from scheduledjob.domain.triggers.timetable import Timetable, Window

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

ZONES = (
    "UTC",
    "Europe/Lisbon",
    "America/Los_Angeles",
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # had no 2011-12-30
    "Africa/Casablanca",  # summer time is interrupted by Ramadan
    "America/Sao_Paulo",  # changed at midnight
    "Asia/Kathmandu",
)


def instant_of(day: date, at: time, info: ZoneInfo) -> datetime:
    """The first occurrence of a local time, or the first instant after the gap that skips it."""
    wall = datetime.combine(day, at)
    found = wall.replace(tzinfo=info).astimezone(UTC)
    if found.astimezone(info).replace(tzinfo=None) == wall:
        return found
    low, high = wall.replace(tzinfo=info, fold=1).astimezone(UTC), found
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(info).replace(tzinfo=None) < wall:
            low = middle
        else:
            high = middle
    return high


def walk(calendar: Calendar, until: datetime) -> list[datetime]:
    """All slots until a moment, found by visiting each day from that of the anchor."""
    assert calendar.anchor is not None
    info = zone_info(calendar.time_zone)
    local = calendar.anchor.astimezone(info)
    at = local.time() if calendar.at is None else time.fromisoformat(calendar.at)
    at = at.replace(tzinfo=None, fold=0)
    monday = local.date() - timedelta(days=local.weekday())
    names = calendar.on or (WEEKDAYS[local.weekday()],)
    found = set()
    day = local.date()
    while day <= until.astimezone(info).date() + timedelta(days=2):
        if calendar.weeks:
            matches = (day - monday).days // 7 % calendar.weeks == 0 and WEEKDAYS[day.weekday()] in names
        else:
            matches = (day - local.date()).days % calendar.days == 0
        slot = instant_of(day, at, info) if matches else None
        if slot is not None and calendar.anchor <= slot <= until:
            found.add(slot)
        day += timedelta(days=1)
    return sorted(found)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@st.composite
def calendars(draw: st.DrawFn) -> Calendar:
    zone = draw(st.sampled_from(ZONES))
    around = draw(st.sampled_from(("1990-01-01", "2011-12-20", "2012-04-01", "2026-02-20", "2026-10-15", "2035-12-20")))
    anchor = utc(around) + timedelta(seconds=draw(st.integers(0, 50 * 86_400)))
    at = draw(
        st.one_of(
            st.none(),
            st.sampled_from(["00:00", "00:30", "01:30", "02:00", "02:15", "02:30", "03:00", "23:59:59"]),
            st.times().map(lambda at: at.strftime("%H:%M:%S")),
        )
    )
    if draw(st.booleans()):
        return Calendar(days=draw(st.integers(1, 40)), at=at, time_zone=zone, anchor=anchor)
    on = draw(st.lists(st.sampled_from(WEEKDAYS), max_size=7))
    return Calendar(draw(st.integers(1, 9)), on=on, at=at, time_zone=zone, anchor=anchor)


@given(calendars(), st.integers(-2 * 86_400, 700 * 86_400), st.integers(0, 400 * 86_400))
@example(Calendar(days=1, at="00:00", time_zone="Pacific/Apia", anchor=datetime(2011, 12, 25, tzinfo=UTC)), 0, 864_000)
@example(Calendar(days=1, at="09:00", time_zone="Pacific/Apia", anchor=datetime(2011, 12, 30, 10, tzinfo=UTC)), 0, 9)
@example(
    Calendar(1, on=("FRI", "SAT"), time_zone="Pacific/Apia", anchor=datetime(2011, 12, 25, tzinfo=UTC)), 0, 864_000
)
def test_the_slots_are_those_of_a_walk(calendar: Calendar, lead: int, length: int) -> None:
    assert calendar.anchor is not None
    start = calendar.anchor + timedelta(seconds=lead)
    stop = start + timedelta(seconds=length)
    slots = walk(calendar, stop)
    inside = [slot for slot in slots if slot > start]
    assert calendar.count(to_instant(start), to_instant(stop)) == len(inside)
    stepped, moment = [], start
    while (following := calendar.next(moment)) is not None and following <= stop:
        stepped.append(following)
        moment = following
    assert stepped == inside
    assert calendar.previous(stop) == (slots[-1] if slots else None)
    for slot, later in pairwise(slots[-5:]):
        assert calendar.previous(later) == later
        assert calendar.previous(later - timedelta(microseconds=1)) == slot


@given(calendars(), st.lists(calendars(), max_size=2), st.integers(0, 300 * 86_400))
def test_a_timetable_puts_it_together_with_others(calendar: Calendar, others: list[Calendar], length: int) -> None:
    """Unions and exclusions go through the days as bits."""
    start = max(other.anchor for other in (calendar, *others) if other.anchor) - timedelta(days=3)
    stop = start + timedelta(seconds=length)
    table = Timetable(
        [calendar, *others],
        [Cron("* 2 * * *", calendar.time_zone), Window(to_instant(start) + 9 * DAY, to_instant(start) + 20 * DAY)],
    )
    info = zone_info(calendar.time_zone)

    def excluded(slot: datetime) -> bool:
        local = slot.astimezone(info)
        return table.is_excluded(to_instant(slot)) or (
            9 * DAY <= to_instant(slot) - to_instant(start) < 20 * DAY and local.hour != 2
        )

    slots = sorted({slot for other in (calendar, *others) for slot in walk(other, stop) if slot > start})
    kept = [slot for slot in slots if not excluded(slot)]
    assert table.count(to_instant(start), to_instant(stop)) == (len(kept), len(slots) - len(kept))
    found, moment = [], to_instant(start)
    while (following := table.next(moment)) is not None and to_datetime(following) <= stop:
        found.append(to_datetime(following))
        moment = following
    assert found == kept
    if kept:
        assert table.previous(to_instant(stop)) == to_instant(kept[-1])


def slots(calendar: Calendar, after: datetime, count: int) -> list[str]:
    found = []
    for _ in range(count):
        following = calendar.next(after)
        assert following is not None
        after = following
        found.append(following.strftime("%m-%d %H:%M"))
    return found


def test_weeks_begin_on_the_monday_of_the_anchors_week() -> None:
    """The anchor is a Wednesday: its week has a Thursday left, and its Monday is over."""
    calendar = Calendar(2, on=["THU", "mon"], at="09:00", time_zone="Europe/Lisbon", anchor=utc("2026-12-02T12:00"))
    assert slots(calendar, utc("2026-01-01"), 4) == ["12-03 09:00", "12-14 09:00", "12-17 09:00", "12-28 09:00"]


def test_the_week_is_that_of_the_time_zone() -> None:
    """The anchor is on a Sunday in UTC and on a Monday in Tokyo."""
    anchor = utc("2026-12-06T20:00")
    assert slots(Calendar(2, on=["FRI"], at="12:00", anchor=anchor), anchor, 1) == ["12-18 12:00"]
    tokyo = Calendar(2, on=["FRI"], at="12:00", time_zone="Asia/Tokyo", anchor=anchor)
    assert slots(tokyo, anchor, 1) == ["12-11 03:00"]


def test_the_anchor_gives_what_is_left_out() -> None:
    anchor = utc("2026-12-02T11:30:15")
    calendar = Calendar(1, time_zone="Asia/Tokyo", anchor=anchor)
    assert calendar.next(anchor - timedelta(seconds=1)) == anchor
    assert calendar.next(anchor) == anchor + timedelta(days=7)
    assert calendar.previous(anchor - timedelta(seconds=1)) is None


def test_the_time_of_day_stays_when_clocks_change() -> None:
    calendar = Calendar(2, on=["SUN"], at="02:30", time_zone="America/Los_Angeles", anchor=utc("2026-02-22T00:00"))
    # The week of 2026-02-16 is the first. The change on 03-08 is in another week, so move on by days.
    assert slots(calendar, utc("2026-02-22T00:00"), 3) == ["02-22 10:30", "03-08 10:00", "03-22 09:30"]
    autumn = Calendar(days=1, at="01:30", time_zone="America/Los_Angeles", anchor=utc("2026-10-30T12:00"))
    assert slots(autumn, utc("2026-10-30T12:00"), 3) == ["10-31 08:30", "11-01 08:30", "11-02 09:30"]


def test_without_an_anchor_the_creation_is_the_anchor() -> None:
    trigger = CalendarTrigger(2, on=("MON",), at="09:00")
    created = to_instant(utc("2026-12-02T12:00:00.7"))
    bound = trigger.bind("", created)
    assert bound.anchor == utc("2026-12-02T12:00:00")
    assert bound.next_instant(created) == to_instant(utc("2026-12-14T09:00"))
    assert trigger.counts_from_creation
    assert trigger.depends_on_row
    assert Calendar(days=1).next(utc("2026-12-02T12:00")) == utc("2026-12-03T12:00")
    assert Calendar(days=1).previous(utc("2026-12-02T12:00")) is None
    with pytest.raises(ValueError, match="has no anchor"):
        Calendar(days=1).next_instant(0)


def test_a_slot_is_strictly_after_the_creation() -> None:
    created = to_instant(utc("2026-12-07T09:00"))
    bound = CalendarTrigger(1, on=("MON",), at="09:00").bind("", created)
    assert bound.next_instant(created) == created + 7 * DAY


def test_a_timetable_knows_that_it_depends_on_a_zone() -> None:
    anchor = utc("2026-12-02T12:00")
    assert Timetable([Calendar(1, time_zone="Europe/Lisbon", anchor=anchor)]).zoned
    assert not Timetable([Calendar(1, anchor=anchor)]).zoned


def test_the_ends_of_time() -> None:
    far = Calendar(MAX_WEEKS, anchor=utc("9990-01-01"))
    assert far.next(utc("9990-01-01")) is None
    assert far.previous(utc("9998-12-31")) == utc("9990-01-01")
    assert far.count(0, to_instant(utc("9998-12-31"))) == 1
    assert Calendar(days=MAX_DAYS, anchor=utc("1970-01-01")).next(utc("1970-01-01")) == utc("2069-12-07")
    early = Calendar(days=1, time_zone="Asia/Tokyo", anchor=datetime(1, 1, 1, tzinfo=UTC))
    assert early.next(datetime(1, 6, 1, tzinfo=UTC)) is not None


def test_years_cost_no_walk() -> None:
    calendar = Calendar(days=1, at="12:00", anchor=utc("1970-01-01"))
    assert calendar.count(-1, to_instant(utc("9000-01-01"))) == (date(9000, 1, 1) - date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("trigger", "short", "words"),
    [
        (
            CalendarTrigger(2, on=("MON", "THU"), at="09:00", time_zone="Europe/Lisbon"),
            "every 2w MON,THU 09:00 Europe/Lisbon",
            "every 2 weeks on Monday and Thursday at 09:00, Europe/Lisbon time",
        ),
        (
            CalendarTrigger(1, on=("MON", "TUE", "SUN"), at="09:00:30"),
            "every 1w MON,TUE,SUN 09:00:30",
            "every week on Monday, Tuesday and Sunday at 09:00:30, UTC",
        ),
        (CalendarTrigger(days=1, at="06:00"), "every 1d 06:00", "every day at 06:00, UTC"),
        (CalendarTrigger(days=3, time_zone="Asia/Tokyo"), "every 3d Asia/Tokyo", "every 3 days, Asia/Tokyo time"),
        (CalendarTrigger(1, on=("FRI",)), "every 1w FRI", "every week on Friday, UTC"),
    ],
)
def test_words(trigger: CalendarTrigger, short: str, words: str) -> None:
    assert trigger.short() == short
    assert trigger.long("") == f"{words}, counted from the object's creation"
    anchored = msgspec.structs.replace(trigger, anchor=to_instant(utc("2026-12-01T10:00")))
    assert anchored.long("") == f"{words}, counted from 2026-12-01T10:00:00Z"
    assert anchored.bind("", 0).explain() == anchored.long("")
    assert anchored.zone == trigger.time_zone


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either weeks or days: write weeks=2 or days=14"),
        ({"weeks": 1, "days": 1}, "either weeks or days"),
        ({"weeks": -1}, "weeks of -1 is not allowed: write a whole number from 1 to 5214"),
        ({"weeks": 1.5}, "weeks of 1.5 is not allowed"),
        ({"days": 36_501}, "days of 36501 is not allowed: write a whole number from 1 to 36500"),
        ({"days": float("nan")}, "days of nan is not allowed"),
        ({"days": 7, "on": ["MON"]}, "allowed only with weeks: write weeks=1, on="),
        ({"weeks": 1, "on": ["MONDAY"]}, "'MONDAY' is not a day of the week: write MON, TUE"),
        ({"weeks": 1, "on": "MO"}, "'MO' is not a day of the week"),
        ({"weeks": 1, "on": [1]}, "1 is not a day of the week"),
        ({"weeks": 1, "at": "9:00"}, "'9:00' is not a time of day: write HH:MM or HH:MM:SS"),
        ({"weeks": 1, "at": "24:00"}, "'24:00' is not a time of day"),
        ({"weeks": 1, "at": "09:00\n"}, "is not a time of day"),
        ({"weeks": 1, "time_zone": "Lisbon"}, "time zone 'Lisbon' is unknown"),
        ({"weeks": 1, "anchor": utc("2026-12-01T10:00:00.5")}, "leave out the fraction of the second"),
        ({"weeks": 1, "anchor": datetime.fromisoformat("2026-12-01")}, "has no time zone"),
    ],
)
def test_what_is_not_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calendar(**given)


def test_a_type_that_is_not_allowed() -> None:
    for weeks in ("2w", True):
        with pytest.raises(TypeError, match="give a whole number, as in 2"):
            Calendar(weeks)  # type: ignore[arg-type]


def test_the_library_has_it() -> None:
    calendar = PublicCalendar(weeks=2, on=["THU", "MON"], at="09:00", time_zone="Europe/Lisbon")
    assert calendar.on == ("MON", "THU")
    assert spec_of(calendar) == CalendarTrigger(2, on=("MON", "THU"), at="09:00", time_zone="Europe/Lisbon")
    same = PublicCalendar(weeks=2, on=["MON", "THU", "MON"], at="09:00", time_zone="Europe/Lisbon")
    assert calendar == same
    assert hash(calendar) == hash(same)
    anchored = calendar.bind(0)
    again = pickle.loads(pickle.dumps(anchored))
    assert again == anchored
    assert again.next_instant(0) == anchored.next_instant(0)
    with pytest.raises(FrozenInstanceError):
        calendar.weeks = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"Calendar\(\.\.\.\)"):
        spec_of("2w")  # type: ignore[arg-type]
    assert spec_of(Every(14 * 86_400.0)) == EveryTrigger(14 * DAY)
