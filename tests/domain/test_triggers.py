"""Intervals, moments, delays, hashes, jitter and durations: every trigger but the fields of cron."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.time.durations import MAX_DURATION, format_duration, parse_duration, parse_interval
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND, to_datetime, to_instant
from scheduledjob.domain.time.zones import midnight
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.domain.triggers.every import Every
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.once import AfterTrigger, At
from scheduledjob.domain.triggers.registry import Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30s", 30 * SECOND),
        ("1h30m", 90 * MINUTE),
        ("7d", 7 * DAY),
        ("1d2h3m4s", DAY + 2 * HOUR + 3 * MINUTE + 4 * SECOND),
        ("0s", 0),
        ("90m", 90 * MINUTE),
        ("36500d", MAX_DURATION),
    ],
)
def test_durations_are_parsed(text: str, length: int) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize(
    ("text", "meant"),
    [("2W", "did you mean 2w? "), ("2 weeks", "did you mean 2w? "), ("1w2d", "did you mean 9d? "), ("1.5w", "")],
)
def test_an_error_about_an_interval_suggests_weeks(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as error:
        parse_interval(text)
    assert f"is not a duration: {meant}write whole weeks, as in 2w, or whole days" in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "'' is not a duration"),
        ("30", "'30' has no unit: write 30s"),
        ("30m1h", "the largest first"),
        ("1h1h", "is not a duration"),
        ("1.5h", "is not a duration"),
        ("-5m", "is not a duration"),
        ("5 m", "is not a duration"),
        ("5M", "is not a duration"),
        ("1w", "did you mean 7d?"),
        ("5 minutes", "did you mean 5m?"),
        ("1 hour 30min", "did you mean 1h30m?"),
        ("1 Day, 12 Hours", "did you mean 1d12h?"),
        ("90 seconds ago", "'90 seconds ago' is not a duration: write"),
        ("5ms ", "'5ms ' is not a duration: write"),
        ("1 month", "'1 month' is not a duration: write"),
        ("5ms", "is not a duration"),
        ("h", "is not a duration"),
        ("30s\n", "is not a duration"),
        ("٣s", "is not a duration"),
        ("36501d", "longer than a century"),
        ("9" * 5000 + "s", "is not a duration"),
    ],
)
def test_other_durations_are_refused(text: str, named: str) -> None:
    with pytest.raises(ValueError, match="write") as raised:
        parse_duration(text)
    assert named in str(raised.value)
    assert len(str(raised.value)) < 200


@given(st.integers(0, MAX_DURATION // SECOND))
def test_formatted_durations_are_parsed_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds * SECOND)) == seconds * SECOND


def test_durations_are_formatted_for_people() -> None:
    assert [format_duration(length) for length in (0, 90 * SECOND, 1_500_000, -MINUTE, DAY + SECOND)] == [
        "0s",
        "1m30s",
        "1.5s",
        "-1m",
        "1d1s",
    ]


@given(st.integers(1, 200_000), st.integers(-(10**15), 10**16), st.integers(-(10**15), 10**16), st.integers(0, 10**14))
def test_an_interval_follows_its_formula(seconds: int, anchor: int, at: int, span: int) -> None:
    every = Every(seconds).bind(anchor)
    anchor -= anchor % SECOND
    following, newest = every.next_instant(at), every.previous_instant(at)
    assert following is not None
    assert following > at
    assert (following - anchor) % (seconds * SECOND) == 0
    assert following >= anchor
    assert following - seconds * SECOND <= at or following == anchor
    assert newest == (None if at < anchor else following - seconds * SECOND)
    if span // (seconds * SECOND) < 500:
        slots, slot = 0, every.next_instant(at)
        while slot is not None and slot <= at + span:
            slots, slot = slots + 1, every.next_instant(slot)
        assert every.count(at, at + span) == slots


def test_an_interval_without_anchor_counts_from_the_given_moment() -> None:
    assert Every(30.0).next(NOON) == NOON + timedelta(seconds=30)
    assert Every(30.0).previous(NOON) is None
    assert Cron("@every 1h30m").next(NOON) == NOON + timedelta(minutes=90)
    with pytest.raises(ValueError, match="bind it"):
        Every(30.0).next_instant(0)


def test_an_interval_ignores_dst() -> None:
    anchor = datetime(2026, 3, 7, 10, tzinfo=UTC)
    assert Every(86_400, anchor).next(anchor) == anchor + timedelta(days=1)
    assert Every(86_400, anchor).bind(0) == Every(86_400, anchor)


def test_every_in_a_cron_expression_is_bound_like_an_interval() -> None:
    created = to_instant(NOON) + 123_456
    bound = Cron("@every 30s", "Europe/Lisbon").bind(created)
    assert isinstance(bound, Every)
    assert bound.next_instant(created) == to_instant(NOON) + 30 * SECOND
    assert Cron("@EVERY 30S").bind(created) == bound
    plain = Cron("* * * * *")
    assert plain.bind(created) is plain


@pytest.mark.parametrize("seconds", [0, 0.5, 1.5, -30, float("nan"), float("inf"), 4e9])
def test_other_intervals_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="write a whole number of seconds from 1"):
        Every(seconds)


def test_the_anchor_of_an_interval_is_a_whole_second_with_a_zone() -> None:
    with pytest.raises(ValueError, match="leave out the fraction"):
        Every(30, NOON.replace(microsecond=1))
    with pytest.raises(ValueError, match="has no time zone"):
        Every(30, datetime(2026, 1, 1))  # noqa: DTZ001 - a naive datetime is what is refused


@pytest.mark.parametrize(
    "text",
    ["2026-12-01T10:00:00Z", "2026-12-01T11:00:00+01:00", "2026-12-01t10:00:00z", "2026-12-01 10:00:00.000000Z"],
)
def test_moments_are_parsed(text: str) -> None:
    assert At(text) == At(datetime(2026, 12, 1, 10, tzinfo=UTC))
    assert hash(At(text)) == hash(At(datetime(2026, 12, 1, 11, tzinfo=timezone(timedelta(hours=1)))))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("2026-12-01T10:00:00", "has no offset"),
        ("2026-12-01", "is not an instant: write it as in"),
        ("2026-02-30T10:00:00Z", "is not an instant: "),
        ("2026-12-01T24:00:01Z", "is not an instant: "),
        ("2026-12-01T10:00:60Z", "is not an instant: "),
        ("tomorrow", "write it as in"),
        ("2026-12-01T10:00:00+25:00", "is not an instant: "),
        ("9999-12-31T23:59:59-01:00", "is not an instant: "),
        ("0001-01-01T00:00:00Z", "write a year from 2 to 9998"),
        ("2026-12-01T10:00:00.1234567Z", "write it as in"),
        ("x" * 5000, "is not an instant"),
    ],
)
def test_other_moments_are_refused(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"write|is not an instant") as raised:
        At(text)
    assert named in str(raised.value)
    assert len(str(raised.value)) < 250


def test_a_naive_moment_is_refused() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - a naive datetime is what is refused
    for refusing in (
        lambda: At(naive),
        lambda: Cron("* * * * *").next(naive),
        lambda: Cron("* * * * *").previous(naive),
    ):
        with pytest.raises(ValueError, match="has no time zone"):
            refusing()


def test_a_moment_fires_once_to_the_microsecond() -> None:
    at = At("2026-12-01T10:00:00.000001Z")
    moment = datetime(2026, 12, 1, 10, 0, 0, 1, tzinfo=UTC)
    just_before = moment - timedelta(microseconds=1)
    assert (at.next(just_before), at.next(moment)) == (moment, None)
    assert (at.previous(just_before), at.previous(moment)) == (None, moment)
    assert (at.count(at.instant - 1, at.instant), at.count(at.instant, at.instant + 1)) == (1, 0)


def test_a_delay_becomes_a_moment_after_the_creation() -> None:
    assert AfterTrigger(5 * MINUTE).bind("", to_instant(NOON)) == At(NOON + timedelta(minutes=5))
    assert AfterTrigger(0).bind("", to_instant(NOON)) == At(NOON + timedelta(microseconds=1))
    with pytest.raises(ValueError, match="write 0s to 36500d"):
        AfterTrigger(-1).bind("", 0)


def test_following_checks_its_outcome() -> None:
    assert FollowingTrigger("extract").outcome == "Succeeded"
    with pytest.raises(ValueError, match="'Done' is unknown: write Succeeded, Failed or Cancelled"):
        FollowingTrigger("extract", "Done").bind("", 0)


STORED = {
    '{"trigger":"cron","expression":"H 2 * * *","time_zone":"Europe/Lisbon","seed":"a/b"}': "H 2 * * * Europe/Lisbon",
    '{"trigger":"cron","expression":"@daily"}': "@daily",
    '{"trigger":"every","every":30000000,"anchor":1790000000000000}': "every 30s",
    '{"trigger":"every","every":30000000}': "every 30s",
    '{"trigger":"calendar","weeks":2,"on":["MON","THU"],"at":"09:00","anchor":5}': "every 2w MON,THU 09:00",
    '{"trigger":"calendar","days":3}': "every 3d",
    '{"trigger":"at","at":1790000000000000}': "at 2026-09-21T14:13:20Z",
    '{"trigger":"after","after":300000000}': "after 5m",
    '{"trigger":"following","name":"extract","outcome":"Failed"}': "following extract",
    '{"trigger":"manual"}': "manual",
}


@pytest.mark.parametrize(("text", "short"), STORED.items())
def test_stored_triggers_are_decoded_and_encoded_unchanged(text: str, short: str) -> None:
    trigger = msgspec.json.decode(text, type=Trigger)
    assert msgspec.json.encode(trigger).decode() == text
    assert trigger.short() == short
    assert trigger.long("seed")
    assert trigger.unlisted == "" or isinstance(trigger, FollowingTrigger)


def test_triggers_are_immutable_values() -> None:
    triggers: list[Callable[[], Cron | Every | At]] = [
        lambda: Cron("0 30 2 * * ?", "Europe/Lisbon", seed="a/b"),
        lambda: Every(30.0),
        lambda: At("2026-12-01T10:00:00Z"),
    ]
    for make in triggers:
        trigger, same = make(), make()
        assert trigger == same
        assert hash(trigger) == hash(same)
        assert pickle.loads(pickle.dumps(trigger)) == trigger
        with pytest.raises(FrozenInstanceError):
            setattr(trigger, fields(trigger)[0].name, "other")
    assert Cron("* * * * *") != Cron("* * * * *", "Europe/Lisbon")
    assert Cron("H * * * *", seed="a") != Cron("H * * * *", seed="b")


def test_a_cron_returns_its_slots_in_utc() -> None:
    lisbon = Cron("0 0 12 ? * MON-FRI", "Europe/Lisbon")
    slot = lisbon.next(datetime(2026, 7, 3, 13, tzinfo=timezone(timedelta(hours=1))))
    assert slot == datetime(2026, 7, 6, 11, tzinfo=UTC)
    assert slot is not None
    assert slot.tzinfo is UTC
    assert lisbon.previous(slot) == slot


# ---------------------------------------------------------------- H and jitter


def test_h_never_changes() -> None:
    """A changed hash would move every such schedule at the next upgrade."""
    assert Cron("H H * * *", seed="team-a/nightly").explain().startswith("at 20:14 ")
    assert Cron("H H * * *", seed="team-a/hourly").explain() != Cron("H H * * *", seed="team-a/nightly").explain()


@pytest.mark.parametrize(
    ("expression", "low", "high"),
    [("H * * * *", 0, 59), ("H(0-29) * * * *", 0, 29), ("H(10-20) * * * *", 10, 20)],
)
def test_h_spreads_over_its_range(expression: str, low: int, high: int) -> None:
    minutes = set()
    for number in range(1500):
        slot = Cron(expression, seed=f"team/{number}").next(NOON)
        assert slot is not None
        minutes.add(slot.minute)
    assert minutes == set(range(low, high + 1))


def test_h_with_a_step_may_begin_anywhere_in_the_step() -> None:
    begins = set()
    for number in range(300):
        cron = Cron("H/15 * * * *", seed=str(number))
        assert cron.count(to_instant(NOON) - 1, to_instant(NOON) + HOUR - 1) == 4
        slot = cron.next(NOON - timedelta(microseconds=1))
        assert slot is not None
        begins.add(slot.minute)
    assert begins == set(range(15))


def test_h_picks_days_that_every_month_has() -> None:
    days, names = set(), set()
    for number in range(600):
        day = Cron("0 0 H * *", seed=str(number)).next(NOON)
        name = Cron("0 0 * * H", seed=str(number)).next(NOON)
        assert day is not None
        assert name is not None
        days.add(day.day)
        names.add(name.weekday())
    assert days == set(range(1, 29))
    assert names == set(range(7))


def test_h_in_the_minute_uses_the_wall_clock_rule() -> None:
    cron = Cron("H(30-30) 2 * * *", "America/Los_Angeles")
    assert cron.next(datetime(2026, 3, 8, 8, tzinfo=UTC)) == datetime(2026, 3, 8, 10, tzinfo=UTC)


def test_jitter_is_stable_uniform_and_within_its_bounds() -> None:
    jitter = 30 * SECOND
    found = [jitter_of("uid-1", number * MINUTE, jitter) for number in range(4000)]
    assert min(found) >= 0
    assert max(found) <= jitter
    tenths = [
        sum(number * jitter // 10 <= offset < (number + 1) * jitter // 10 for offset in found) for number in range(10)
    ]
    assert all(300 < tenth < 500 for tenth in tenths)
    assert jitter_of("uid-1", 0, 0) == 0
    assert {jitter_of("uid-1", number, 1) for number in range(100)} == {0, 1}
    assert jitter_of("uid-1", 60, jitter) == found_before()
    assert jitter_of("uid-1", 60, jitter) != jitter_of("uid-2", 60, jitter)


def found_before() -> int:
    """Return what another process computes, with another seed of ``hash()``."""
    code = "from scheduledjob.domain.schedule.misfire import jitter_of; print(jitter_of('uid-1', 60, 30_000_000))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("day", "zone", "expected"),
    [
        (date(2026, 12, 24), "Europe/Lisbon", "2026-12-24T00:00:00Z"),
        (date(2026, 7, 1), "America/Los_Angeles", "2026-07-01T07:00:00Z"),
        (date(2018, 11, 4), "America/Sao_Paulo", "2018-11-04T03:00:00Z"),  # begins at 1:00
        (date(2011, 12, 30), "Pacific/Apia", "2011-12-30T10:00:00Z"),  # was skipped
        (date(2011, 12, 31), "Pacific/Apia", "2011-12-30T10:00:00Z"),
        (date(2026, 10, 25), "Asia/Beirut", "2026-10-24T22:00:00Z"),
    ],
)
def test_midnight_is_the_first_instant_of_a_date(day: date, zone: str, expected: str) -> None:
    assert to_datetime(midnight(day, zone)) == datetime.fromisoformat(expected)
