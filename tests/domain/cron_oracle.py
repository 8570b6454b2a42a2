"""A slow and literal implementation of cron expressions, to check the real search against.

It uses no code of the product. A ``Sky`` is a period in a time zone, as a list of its seconds or minutes. The oracle
checks for each of them whether every field of an expression matches. This module also has periods in which clocks
change (``SKIES``), and a generator of random expressions.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from scheduledjob.domain.time.zone_data import zone_info

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "weekday": (0, 7),
    "year": (1970, 2099),
}


class Oracle:
    """Decides whether a local moment matches an expression."""

    def __init__(self, expression: str) -> None:
        texts = expression.upper().split()
        self.unix = len(texts) == 5
        texts = ["0"] * self.unix + texts
        texts += ["*"] * (7 - len(texts))
        self.texts = dict(zip(BOUNDS, texts, strict=True))
        self.wall_clock = self.texts["hour"][0] != "*" and self.texts["minute"][0] != "*"
        clock = {name: _values(name, self.texts[name]) for name in ("second", "minute", "hour")}
        self._seconds, self._minutes, self._hours = clock["second"], clock["minute"], clock["hour"]
        self._dates: dict[date, bool] = {}

    def matches(self, local: datetime) -> bool:
        if local.minute not in self._minutes or local.hour not in self._hours or local.second not in self._seconds:
            return False
        return self.matches_date(local.date())

    def matches_date(self, day: date) -> bool:
        if day not in self._dates:
            self._dates[day] = self._compute(day)
        return self._dates[day]

    def _compute(self, day: date) -> bool:
        if day.month not in _values("month", self.texts["month"]):
            return False
        if self.texts["year"] != "*" and day.year not in _values("year", self.texts["year"]):
            return False
        by_date, by_name = self.texts["day"], self.texts["weekday"]
        date_matches = any(_date_matches(part, day) for part in by_date.split(","))
        name_matches = any(_name_matches(part, day) for part in by_name.split(","))
        if self.unix and by_date[0] not in "*?" and by_name[0] not in "*?":
            return date_matches or name_matches
        return date_matches and name_matches


def _date_matches(part: str, day: date) -> bool:
    days = _days_of_month(day)
    if part == "?":
        return True
    if part == "L":
        return day == days[-1]
    if part.startswith("L-"):
        return day + timedelta(int(part[2:])) == days[-1]
    if part.endswith("W"):
        target = len(days) if part == "LW" else int(part[:-1])
        working = [date for date in days if date.isoweekday() <= 5]
        return target <= len(days) and day == min(working, key=lambda date: abs(date.day - target))
    return day.day in _values("day", part)


def _name_matches(part: str, day: date) -> bool:
    if part == "?":
        return True
    if "#" in part or part.endswith("L"):
        name, _, nth = part.rstrip("L").partition("#")
        same = [date for date in _days_of_month(day) if date.isoweekday() % 7 == _number("weekday", name) % 7]
        return same[-1:] == [day] if not nth else same[int(nth) - 1 : int(nth)] == [day]
    return day.isoweekday() % 7 in {value % 7 for value in _values("weekday", part)}


def _days_of_month(day: date) -> list[date]:
    days = [day.replace(day=1)]
    while (days[-1] + timedelta(1)).month == day.month:
        days.append(days[-1] + timedelta(1))
    return days


def _number(field: str, text: str) -> int:
    if text in WEEKDAYS and field == "weekday":
        return WEEKDAYS.index(text)
    if text in MONTHS and field == "month":
        return MONTHS.index(text) + 1
    return int(text)


@cache
def _values(field: str, text: str) -> frozenset[int]:
    """Return the values that a list of plain terms allows, by walking from the first to the last value."""
    low, high = BOUNDS[field]
    found: set[int] = set()
    for part in text.split(","):
        body, _, step = part.partition("/")
        if body == "*":
            first, last = low, high
        elif "-" in body:
            first, last = (_number(field, end) for end in body.split("-"))
        else:
            first = _number(field, body)
            last = high if step else first
        value, walked = first, 0
        while True:
            if walked % int(step or 1) == 0:
                found.add(value)
            if value == last or (field == "weekday" and last < first and value % 7 == last % 7):
                break
            value, walked = value + 1, walked + 1
            if value > high:
                value = 1 if field == "weekday" else low  # 7 was Sunday already
    return frozenset(found)


class Sky:
    """The moments of a period with at most one change of the clocks, in its middle."""

    def __init__(self, zone: str, around: str, *, half: timedelta, step: int) -> None:
        self.zone = zone
        middle = int((datetime.fromisoformat(around + "+00:00") - EPOCH).total_seconds())
        margin = int(half.total_seconds())
        self.start, self.stop, self.step = middle - margin, middle + margin, step
        info = zone_info(zone)
        self.real = [
            (second, (EPOCH + timedelta(seconds=second)).astimezone(info).replace(tzinfo=None))
            for second in range(self.start, self.stop, step)
        ]
        first_shown: dict[datetime, int] = {}
        for second, local in self.real:
            first_shown.setdefault(local, second)
        self.wall: list[tuple[int, datetime]] = []
        local, end = self.real[0][1], max(local for _, local in self.real)
        after_gap: int | None = None
        while local <= end:
            if local in first_shown:
                self.wall.append((first_shown[local], local))
                after_gap = None
            else:
                if after_gap is None:
                    after_gap = next(second for second, shown in self.real if shown > local)
                self.wall.append((after_gap, local))
            local += timedelta(seconds=step)

    def slots(self, oracle: Oracle) -> list[int]:
        """Return the seconds of this period at which an expression fires."""
        moments = self.wall if oracle.wall_clock else self.real
        return sorted({second for second, local in moments if oracle.matches(local)})


# Zone, and the minute (UTC) at which its clocks change, or any minute of a period in which they do not.
CHANGES = [
    ("America/Los_Angeles", "2026-03-08T10:00"),
    ("America/Los_Angeles", "2026-11-01T09:00"),
    ("Europe/Lisbon", "2026-03-29T01:00"),
    ("Europe/Lisbon", "2026-10-25T01:00"),
    ("Europe/Dublin", "2026-10-25T01:00"),  # its winter time is the one that tzdata calls DST
    ("Australia/Lord_Howe", "2026-04-04T15:00"),  # half an hour back
    ("Australia/Lord_Howe", "2026-10-03T15:30"),  # half an hour ahead
    ("America/Sao_Paulo", "2018-11-04T03:00"),  # no midnight
    ("America/Sao_Paulo", "2018-02-18T02:00"),  # 23 o'clock twice
    ("Asia/Beirut", "2026-03-28T22:00"),  # no midnight
    ("Asia/Beirut", "2026-10-24T21:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # no 30 December
    ("Pacific/Kwajalein", "1993-08-21T12:00"),  # no 21 August
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Africa/Casablanca", "2026-03-22T02:00"),
    ("Antarctica/Troll", "2026-03-29T01:00"),  # two hours ahead
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("America/Caracas", "2007-12-09T07:00"),
    ("America/Caracas", "2016-05-01T07:00"),
    ("Asia/Pyongyang", "2018-05-04T15:00"),  # 23:30 becomes 0:00
    ("America/St_Johns", "2010-03-14T03:31"),  # at one minute past midnight
    ("America/St_Johns", "2010-11-07T02:31"),
    ("Asia/Kathmandu", "2026-01-01T00:00"),
    ("UTC", "2028-02-29T12:00"),
]


@cache
def minute_skies() -> list[Sky]:
    return [Sky(zone, around, half=timedelta(hours=50), step=60) for zone, around in CHANGES]


@cache
def second_skies() -> list[Sky]:
    odd = ("Africa/Monrovia", "1972-01-07T00:44:30")  # an offset of -0:44:30 until then
    return [Sky(zone, around, half=timedelta(minutes=100), step=1) for zone, around in [*CHANGES[:12], odd]]


@cache
def repeated_day() -> Sky:
    """Alaska crosses the date line: a day, and 66 seconds more, twice; offsets in seconds."""
    return Sky("America/Juneau", "1867-10-19T15:33:32", half=timedelta(hours=50), step=1)


def random_expression(pick: random.Random, *, seconds: bool) -> str:
    """Return an expression of any form. It is valid, but may never fire."""
    number = pick.choice((6, 6, 7)) if seconds else pick.choice((5, 5, 5, 6, 7))
    minute, hour = _plain(pick, "minute"), _plain(pick, "hour", busy=True)
    month = _plain(pick, "month", star=0.7)
    by_date = _by_date(pick) if pick.random() < 0.7 else "*"
    by_name = _by_name(pick) if pick.random() < 0.7 else "*"
    if number == 5:
        return f"{minute} {hour} {by_date} {month} {by_name}"
    if by_date[0] != "*" and by_name[0] != "*":
        if pick.random() < 0.5:
            by_date = "?"
        else:
            by_name = "?"
    second = _plain(pick, "second") if seconds else "0"
    year = f" {_plain(pick, 'year', star=0.6)}" if number == 7 else ""
    return f"{second} {minute} {hour} {by_date} {month} {by_name}{year}"


def _plain(pick: random.Random, field: str, *, star: float = 0.3, busy: bool = False) -> str:
    if pick.random() < star:
        return "*"
    return ",".join(_part(pick, field, busy=busy) for _ in range(pick.choice((1, 1, 1, 2, 3))))


def _part(pick: random.Random, field: str, *, busy: bool = False) -> str:
    low, high = BOUNDS[field]
    # Early hours and round minutes, because that is where clocks change.
    values: list[int] = list(range(low, high + 1))
    if field in {"minute", "second"}:
        values += [0, 0, 0, 30, 30, 59, 1] * 10
    if field == "hour":
        values += [0, 1, 2, 3, 23] * 6
    if field == "year":
        values = [2007, 2010, 2011, 2016, 2018, 2026, 2026, 2028]
    first, last = pick.choice(values), pick.choice(values)
    if field == "year":
        first, last = min(first, last), max(first, last)
    names = {"month": ["", *MONTHS], "weekday": [*WEEKDAYS, "SUN"]}.get(field)

    def shown(value: int) -> str:
        return names[value] if names and pick.random() < 0.4 else str(value)

    step = pick.choice((1, 2, 3, 5, 7, 15, 20, 40))
    forms: list[Callable[[], str]] = [
        lambda: shown(first),
        lambda: shown(first),
        lambda: f"{shown(first)}-{shown(last)}",
        lambda: f"{shown(first)}-{shown(last)}/{step}",
        lambda: f"{shown(first)}/{step}",
        lambda: f"*/{step}",
    ]
    text = pick.choice(forms[2:] if busy and pick.random() < 0.5 else forms)()
    return text if pick.random() < 0.9 else text.lower()


def _by_date(pick: random.Random) -> str:
    special: list[Callable[[], str]] = [
        lambda: "L",
        lambda: f"L-{pick.randint(1, 30)}",
        lambda: "LW",
        lambda: f"{pick.randint(1, 31)}W",
        lambda: _part(pick, "day"),
        lambda: _part(pick, "day"),
        lambda: _part(pick, "day"),
    ]
    return ",".join(pick.choice(special)() for _ in range(pick.choice((1, 1, 2, 3))))


def _by_name(pick: random.Random) -> str:
    def day() -> str:
        return pick.choice([str(pick.randint(0, 7)), pick.choice(WEEKDAYS)])

    special: list[Callable[[], str]] = [
        lambda: f"{day()}#{pick.randint(1, 5)}",
        lambda: f"{day()}L",
        lambda: _part(pick, "weekday"),
        lambda: _part(pick, "weekday"),
        lambda: _part(pick, "weekday"),
    ]
    return ",".join(pick.choice(special)() for _ in range(pick.choice((1, 1, 2))))
