"""A converted schedule fires at the times at which Kubernetes would run the CronJob."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.cli.shared.convert.cron_dialect import trigger_of
from scheduledjob.domain.triggers.cron import Cron, CronError

BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NAMES: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {name: number for number, name in enumerate(MONTHS, 1)},
    {name: number for number, name in enumerate(WEEKDAYS)},
)


def _values(field: str, place: int) -> tuple[set[int], bool]:
    """Return the values of a field, and whether it has a star, as Kubernetes' parser (robfig/cron 3.0.1) reads it."""
    first, last = BOUNDS[place]
    found: set[int] = set()
    star = False
    for term in filter(None, field.split(",")):
        body, slash, step_text = term.partition("/")
        low, dash, high = body.partition("-")
        step = int(step_text) if slash else 1
        if low in ("*", "?"):
            start, end = first, last
            star = star or step <= 1
        else:
            start = NAMES[place].get(low.lower(), -1) if not low.isdigit() else int(low)
            end = start
            if dash:
                end = NAMES[place].get(high.lower(), -1) if not high.isdigit() else int(high)
            elif slash:
                end = last
        found |= set(range(start, end + 1, step))
    return found, star


def kubernetes_fires(expression: str, moment: datetime) -> bool:
    (minutes, _), (hours, _), (days, day_star), (months, _), (weekdays, weekday_star) = (
        _values(field, place) for place, field in enumerate(expression.split())
    )
    by_date, by_name = moment.day in days, moment.isoweekday() % 7 in weekdays
    day = by_date and by_name if day_star or weekday_star else by_date or by_name
    return moment.minute in minutes and moment.hour in hours and moment.month in months and day


def _fields(place: int) -> st.SearchStrategy[str]:
    first, last = BOUNDS[place]
    number = st.integers(first, last).map(str)
    if NAMES[place]:
        number |= st.sampled_from([name.upper() for name in NAMES[place]] + list(NAMES[place]))

    def ordered(pair: tuple[int, int]) -> str:
        return f"{min(pair)}-{max(pair)}"

    span = st.tuples(st.integers(first, last), st.integers(first, last)).map(ordered)
    step = st.integers(1, 12).map(str)
    stepped = st.tuples(st.sampled_from(["*", "?"]) | number | span, step).map("/".join)
    term = st.sampled_from(["*", "?"]) | number | span | stepped
    return st.lists(term, min_size=1, max_size=3).map(",".join)


days = st.integers(0, 1500).map(lambda days: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days))


@given(st.tuples(*(_fields(place) for place in (2, 3, 4))), days)
def test_days_match_those_of_kubernetes(fields: tuple[str, str, str], day: datetime) -> None:
    expression = " ".join(("0", "0", *fields))
    trigger = trigger_of(expression, None, None)
    try:
        cron = Cron(trigger["cron"])
    except CronError as error:
        assert "never" in str(error)  # noqa: PT017  # such a CronJob is taken, and never runs
        return
    fires = cron.next(day - timedelta(seconds=1)) == day
    assert fires == kubernetes_fires(expression, day), trigger


@given(st.tuples(_fields(0), _fields(1)), st.integers(0, 1439))
def test_times_match_those_of_kubernetes(fields: tuple[str, str], minute: int) -> None:
    expression = " ".join((*fields, "* * *"))
    moment = datetime(2026, 3, 4, tzinfo=UTC) + timedelta(minutes=minute)
    cron = Cron(trigger_of(expression, None, None)["cron"])
    fires = cron.next(moment - timedelta(seconds=1)) == moment
    assert fires == kubernetes_fires(expression, moment)


@pytest.mark.parametrize(
    ("schedule", "cron"),
    [
        ("*/5 * * * *", "*/5 * * * *"),
        ("0 0 * * MON-FRI", "0 0 * * MON-FRI"),
        ("0 0 * * mon/2", "0 0 * * mon-SAT/2"),
        ("0 0 1 * ?", "0 0 1 * *"),
        ("0 0 */2 * *", "0 0 */2 * *"),
        ("0 0 */2 * 1", "0 0 1-31/2 * 1"),
        ("0 0 13 * */2", "0 0 13 * 0-6/2"),
        ("0 0 13 * 5,*", "0 0 13 * *"),
        ("? ? * * *", "* * * * *"),
        ("1,,2 0 * * *", "1,2 0 * * *"),
        (" 0  0 * * * ", "0 0 * * *"),
        ("@weekly", "@weekly"),
    ],
)
def test_expressions_with_the_same_meaning_are_unchanged(schedule: str, cron: str) -> None:
    assert trigger_of(schedule, None, None) == {"cron": cron}


@pytest.mark.parametrize(
    ("duration", "every"),
    [("30s", "30s"), ("1.5h", "1h30m"), ("90m", "1h30m"), ("1h1s", "1h1s"), ("100ms", "1s"), ("2.9s", "2s")],
)
def test_intervals_are_converted(duration: str, every: str) -> None:
    assert trigger_of(f"@every {duration}", None, None) == {"every": every}
    anchored = trigger_of(f"@every {duration}", None, "2026-11-20T08:00:00Z")
    assert anchored == {"every": every, "anchor": "2026-11-20T08:00:00Z"}


def test_time_zones_are_converted() -> None:
    assert trigger_of("0 1 * * *", "Europe/Lisbon", None) == {"cron": "0 1 * * *", "timeZone": "Europe/Lisbon"}
    assert trigger_of("TZ=Europe/Lisbon 0 1 * * *", None, None) == {"cron": "0 1 * * *", "timeZone": "Europe/Lisbon"}
    assert trigger_of("0 1 * * *", "Etc/UTC", None) == {"cron": "0 1 * * *"}
