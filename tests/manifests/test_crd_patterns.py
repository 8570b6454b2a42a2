"""The patterns of the CRD never refuse what the loader accepts, and refuse most of the rest."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import available_timezones

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from scheduledjob.domain.time.zones import zone_of
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.manifests import checks
from scheduledjob.manifests.cron_rules import CRON_CHECKS
from scheduledjob.manifests.rules import DATE_PATTERN, INSTANT_PATTERN, TIME_ZONE_PATTERN
from tests.domain.test_cron_errors import WRONG
from tests.manifests.cron_support import expressions, spoilt

MANY = settings(max_examples=1_000)
_COMPILED = [(re2.compile(check.pattern), check) for check in CRON_CHECKS]


def refusals(expression: str) -> list[str]:
    """The messages of the API server for an expression."""
    return [
        check.message for pattern, check in _COMPILED if (pattern.search(expression) is not None) == check.forbidden
    ]


def is_valid(expression: str) -> bool:
    try:
        Cron(expression)
    except ValueError:
        return False
    return True


@MANY
@given(st.one_of(expressions(), spoilt()))
def test_no_valid_expression_is_refused(expression: str) -> None:
    if is_valid(expression):
        assert refusals(expression) == []


@MANY
@given(st.from_regex(r"\A[@*?HL0-9a-zA-Z#,/()W \t\x1e-]{0,40}\Z"))
def test_no_valid_expression_of_any_characters_is_refused(expression: str) -> None:
    if is_valid(expression):
        assert refusals(expression) == []


LEFT_BY_PATTERNS = {
    # A pattern can't compare two numbers; other rules do.
    "0 0 0 1 1 ? 2030-2027": "a range of years that runs backwards",
    "H(30-10) * * * *": "a range of H that runs backwards",
    # Nor does it know the calendar of a year, or count days from the end of a month.
    "0 0 L-30 4 *": "a day that the month never has",
    "0 0 0 29 2 ? 2027": "a day that the year does not have",
    "0 0 0 ? 2 MON#5 2027": "a day that the year does not have",
}


@pytest.mark.parametrize("expression", [expression for expression, _ in WRONG])
def test_wrong_expressions_are_refused(expression: str) -> None:
    assert bool(refusals(expression)) == (expression not in LEFT_BY_PATTERNS)


def test_a_mistake_has_a_single_message() -> None:
    answers = {expression: refusals(expression) for expression, _ in WRONG}
    assert {expression: said for expression, said in answers.items() if len(said) > 1} == {}
    assert answers["60 * * * *"] == [
        "minute: allowed are * and 0 to 59, or H, lists (1,2), ranges (1-5) and steps (*/5)"
    ]


def test_at_least_nine_of_ten_slips_are_refused() -> None:
    wrong, caught = 0, 0

    @settings(max_examples=1_000, derandomize=True, database=None)
    @given(spoilt())
    def count(expression: str) -> None:
        nonlocal wrong, caught
        if not is_valid(expression):
            wrong += 1
            caught += bool(refusals(expression))

    count()
    assert wrong > 300
    assert caught / wrong > 0.9, f"{caught} of {wrong}"


def test_every_zone_is_allowed() -> None:
    refused = set()
    for name in sorted(available_timezones()):
        try:
            zone_of(name)
        except ValueError:
            continue
        if not re2.search(TIME_ZONE_PATTERN, name):
            refused.add(name)
    assert refused == set()


@pytest.mark.parametrize("name", ["Lisbon", "+01:00", "UTC+1", "../../etc/passwd", "Europe/", "europe/lisbon", "PST"])
def test_what_is_not_a_zone_is_refused(name: str) -> None:
    assert not re2.search(TIME_ZONE_PATTERN, name)


instants = st.builds(
    lambda moment, gap, seconds, digits, offset: (
        f"{moment:%Y-%m-%d}{gap}{moment:%H:%M}"
        + (f"{moment:%S}".join([":", ""]) + (f".{moment.microsecond:06d}"[: digits + 1] if digits else ""))
        * bool(seconds)
        + offset
    ),
    st.datetimes(datetime(1969, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001 - only its digits are used
    st.sampled_from("Tt "),
    st.booleans(),
    st.integers(0, 6),
    st.one_of(
        st.sampled_from(["Z", "z", "", "+00:00", "-00:00", "+14:00", "-12:00", "+23:59"]),
        st.builds("{}{:02d}:{:02d}".format, st.sampled_from("+-"), st.integers(0, 30), st.integers(0, 70)),
    ),
)


def readable(text: str) -> bool:
    try:
        checks.parse_instant(text)
    except PydanticCustomError:
        return False
    return True


@MANY
@given(instants)
def test_the_pattern_of_an_instant_agrees_with_the_loader(text: str) -> None:
    assert bool(re2.search(INSTANT_PATTERN, text)) == readable(text)


def test_the_pattern_of_a_date_knows_the_calendar() -> None:
    day = datetime(1970, 1, 1, tzinfo=UTC)
    while day.year < 2105:
        assert re2.search(DATE_PATTERN, f"{day:%Y-%m-%d}")
        day += timedelta(days=1)
    for year in (*range(1970, 2105), 2200, 2300, 2400, 9996, 9998):
        for month in range(1, 14):
            for number in range(28, 33):
                text = f"{year}-{month:02d}-{number:02d}"
                try:
                    datetime.fromisoformat(text)
                except ValueError:
                    assert not re2.search(DATE_PATTERN, text)
                else:
                    assert re2.search(DATE_PATTERN, text)
    assert not re2.search(DATE_PATTERN, "1969-12-31")
    assert not re2.search(DATE_PATTERN, "9999-01-01")


hosts = st.one_of(
    st.from_regex(r"\A[a-zA-Z0-9.-]{1,20}\Z"),
    st.sampled_from(["[::1]", "[fe80::1]", "127.0.0.1", "münchen.example", "a_b", "[", "a[b]", "", "[v1.x]"]),
)
urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "http:/", "//", ""]),
    st.sampled_from(["", "", "", "user@", "u:p@"]),
    hosts,
    st.one_of(st.just(""), st.integers(-1, 70_000).map(":{}".format), st.sampled_from([":", ":0", ":00080", ":x"])),
    st.one_of(st.just(""), st.from_regex(r"\A[/?#][!-~]{0,20}\Z")),
)


@MANY
@given(urls)
def test_no_valid_url_is_refused(text: str) -> None:
    try:
        checks.url(text)
    except PydanticCustomError:
        return
    assert re2.search(checks.URL_PATTERN, text)


def test_the_patterns_are_valid_re2_and_short() -> None:
    """The API server's estimate of a rule's cost grows with the pattern."""
    for check in CRON_CHECKS:
        assert len(check.pattern) < 2_000
        assert re.compile(check.pattern)
