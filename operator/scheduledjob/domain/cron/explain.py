"""Explains a cron expression in words: ``at 02:30, Monday to Friday, Europe/Lisbon time``.

The sentence has three parts: the times of day, the days, and the time zone. Common patterns have a short form
(``at 02:30``, ``every 5 minutes``). All others are described literally, so every expression has a correct description.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Final

from .parse import CronFields, Field, Kind, Term

if TYPE_CHECKING:
    from collections.abc import Iterable

_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_WEEKDAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_COUNTED: Final = ("", "first", "second", "third", "fourth", "fifth")
_MOST_TIMES: Final = 6  # up to this many times of day are listed


def explain(fields: CronFields, time_zone: str) -> str:
    """Return the expression in one line of English."""
    fields = _without_repetitions(fields)
    clock, days = _clock(fields), _days(fields)
    times = clock.startswith("at ") and not any(word in clock for word in ("every", "minute", "second"))
    if times and not days:
        days = "every day"
    joined = (
        " ".join((clock, days))
        if times and days.startswith(("on ", "every "))
        else ", ".join(filter(None, (clock, days)))
    )
    hashed = any(term.hashed for field in (fields.second, fields.minute, fields.hour) for term in field)
    hashed = hashed or any(term.hashed for field in (fields.day, fields.month, fields.weekday) for term in field)
    zone = "UTC" if time_zone == "UTC" else f"{time_zone} time"
    return f"{joined}, {zone}" + (" (H spreads it by the job's name)" if hashed else "")


# ---------------------------------------------------------------- times of day


def _clock(fields: CronFields) -> str:
    seconds, minutes, hours = _singles(fields.second), _singles(fields.minute), _singles(fields.hour)
    if seconds and minutes and hours and len(seconds) * len(minutes) * len(hours) <= _MOST_TIMES:
        return "at " + _and(_time(*at) for at in sorted(product(hours, minutes, seconds)))
    if len(seconds) == 1 and len(minutes) == 1:
        return _and(_hourly(term, minutes[0], seconds[0]) for term in fields.hour)
    within = _within_hours(fields.hour)
    if seconds == [0]:
        spoken = _repeated(Field.MINUTE, fields.minute, "each hour")
        if spoken.startswith("at ") and not within:
            spoken += " of every hour"
        return f"{spoken}, {within}" if within else spoken
    spoken = _repeated(Field.SECOND, fields.second, "each minute")
    inside = "" if _is_any(fields.minute) else "in " + _and(_inside(term) for term in fields.minute)
    if spoken.startswith("at ") and not inside:
        spoken += " of every minute"
    return ", ".join(part for part in (spoken, inside, within) if part)


def _hourly(term: Term, minute: int, second: int) -> str:
    """Explain one time in each hour of a term."""
    numbers = list(term.numbers(Field.HOUR))
    if len(numbers) == 1:
        return f"at {_time(numbers[0], minute, second)}"
    every = "every hour" if term.step == 1 else f"every {term.step} hours"
    if term.kind is Kind.ANY and 24 % term.step == 0:
        if not minute and not second:
            return every
        past = f"minute {minute}" + (f" and second {second}" if second else "")
        return f"{every} at {past}" if term.step == 1 else f"{every} from {_time(0, minute, second)}"
    return f"{every} from {_time(numbers[0], minute, second)} to {_time(numbers[-1], minute, second)}"


def _repeated(field: Field, terms: tuple[Term, ...], whole: str) -> str:
    """Explain several seconds of a minute, or several minutes of an hour."""
    unit = field.label
    if values := _singles(terms):
        return f"at {unit}{'s' if len(values) > 1 else ''} {_and(map(str, values))}"
    return _and(_span(field, term, unit, whole) for term in terms)


def _span(field: Field, term: Term, unit: str, whole: str) -> str:
    numbers = list(term.numbers(field))
    if len(numbers) == 1:
        return f"at {unit} {numbers[0]}"
    every = f"every {unit}" if term.step == 1 else f"every {term.step} {unit}s"
    if term.kind is Kind.ANY:
        return every if 60 % term.step == 0 else f"{every} from {unit} 0 of {whole}"
    return f"{every} from {unit} {numbers[0]} to {numbers[-1]} of {whole}"


def _inside(term: Term) -> str:
    """Explain minutes that each have several times."""
    numbers = list(term.numbers(Field.MINUTE))
    if len(numbers) == 1:
        return f"minute {numbers[0]}"
    if term.step == 1:
        return f"minutes {numbers[0]} to {numbers[-1]}"
    return f"every {_ordinal(term.step)} minute from {numbers[0]} to {numbers[-1]}"


def _within_hours(terms: tuple[Term, ...]) -> str:
    """Explain hours that each have several times. Empty if that is every hour."""
    if _is_any(terms):
        return ""
    spoken = []
    for term in terms:
        numbers = list(term.numbers(Field.HOUR))
        if term.step == 1 or len(numbers) == 1:
            spoken.append(f"from {numbers[0]:02}:00 to {numbers[-1]:02}:59")
        else:
            spoken.append(f"in every {_ordinal(term.step)} hour from {numbers[0]:02}:00 to {numbers[-1]:02}:59")
    return _and(spoken)


def _time(hour: int, minute: int, second: int) -> str:
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "")


# ---------------------------------------------------------------- days


def _days(fields: CronFields) -> str:
    by_date, by_name = "", ""
    if not _is_any(fields.day):
        by_date = _by_date(fields.day)
    if not _is_any(fields.weekday):
        by_name = _by_name(fields.weekday)
    months = "" if _is_any(fields.month) else _by_month(fields.month)
    if by_date and by_name:
        spoken = f"{by_date} or {by_name}" if fields.either_day else f"{by_date}, but only {by_name}"
    else:
        spoken = by_date or by_name
    if months.startswith("in ") and " of the month" in spoken and "every" not in months:
        spoken, months = spoken.replace(" of the month", f" of {months.removeprefix('in ')}"), ""
    elif months and not spoken:
        spoken = "every day"
    spoken = " ".join((spoken, months)) if spoken == "every day" else ", ".join(filter(None, (spoken, months)))
    years = "" if _is_any(fields.year) else _by_year(fields.year)
    return ", ".join(part for part in (spoken, years) if part)


def _by_date(terms: tuple[Term, ...]) -> str:
    """Return ``on the 1st and the last day of the month``."""
    return "on " + _and(_date(term) for term in terms) + " of the month"


def _date(term: Term) -> str:
    match term.kind:
        case Kind.LAST_DAY:
            return f"the {_ordinal(term.first)} day before the last day" if term.first else "the last day"
        case Kind.NEAREST_WEEKDAY:
            return f"the weekday nearest to the {_ordinal(term.first)}"
        case Kind.LAST_WEEKDAY:
            return "the last weekday"
    numbers = list(term.numbers(Field.DAY))
    if len(numbers) == 1:
        return f"the {_ordinal(numbers[0])}"
    if term.step == 1:
        return f"the {_ordinal(numbers[0])} to the {_ordinal(numbers[-1])}"
    return f"every {_ordinal(term.step)} day from the {_ordinal(numbers[0])} to the {_ordinal(numbers[-1])}"


def _by_name(terms: tuple[Term, ...]) -> str:
    """Return ``Monday to Friday``, or ``on Monday and the last Friday of the month``."""
    spoken = _and(_weekday(term) for term in terms)
    month = " of the month" if terms[-1].kind in {Kind.NTH, Kind.LAST_NTH} else ""
    plain = len(terms) == 1 and terms[0].step == 1 and terms[0].kind is Kind.SPAN and " to " in spoken
    return spoken if plain else f"on {spoken}{month}"


def _weekday(term: Term) -> str:
    if term.kind is Kind.NTH:
        return f"the {_COUNTED[term.last]} {_WEEKDAYS[term.first]}"
    if term.kind is Kind.LAST_NTH:
        return f"the last {_WEEKDAYS[term.first]}"
    numbers = list(term.numbers(Field.WEEKDAY))
    if len(numbers) == 1:
        return _WEEKDAYS[numbers[0]]
    if len(set(numbers)) == 7:
        return "every day of the week"
    if term.step == 1:
        return f"{_WEEKDAYS[numbers[0]]} to {_WEEKDAYS[numbers[-1]]}"
    return _and(_WEEKDAYS[number] for number in dict.fromkeys(numbers))


def _by_month(terms: tuple[Term, ...]) -> str:
    """Return ``in March and June``, or ``from November to February``."""
    if values := _singles(terms):
        return "in " + _and(_MONTHS[number - 1] for number in values)
    spoken = []
    for term in terms:
        numbers = list(term.numbers(Field.MONTH))
        if len(numbers) == 1:
            spoken.append(f"in {_MONTHS[numbers[0] - 1]}")
        elif term.step == 1:
            spoken.append(f"from {_MONTHS[numbers[0] - 1]} to {_MONTHS[numbers[-1] - 1]}")
        else:
            spoken.append("in " + _and(_MONTHS[number - 1] for number in numbers))
    return _and(spoken)


def _by_year(terms: tuple[Term, ...]) -> str:
    """Return ``in 2027``, or ``from 2027 to 2030``."""
    spoken = []
    for term in terms:
        numbers = list(term.numbers(Field.YEAR))
        if len(numbers) == 1:
            spoken.append(f"in {numbers[0]}")
        elif term.step == 1:
            spoken.append(f"from {numbers[0]} to {numbers[-1]}")
        else:
            spoken.append(f"in every {_ordinal(term.step)} year from {numbers[0]} to {numbers[-1]}")
    return _and(spoken)


# ---------------------------------------------------------------- words


def _without_repetitions(fields: CronFields) -> CronFields:
    """Leave out terms whose values others of their field have, as ``0`` in ``FRI-SUN,0``."""
    return replace(
        fields,
        second=_needed(Field.SECOND, fields.second),
        minute=_needed(Field.MINUTE, fields.minute),
        hour=_needed(Field.HOUR, fields.hour),
        day=_needed(Field.DAY, fields.day),
        month=_needed(Field.MONTH, fields.month),
        weekday=_needed(Field.WEEKDAY, fields.weekday),
        year=_needed(Field.YEAR, fields.year),
    )


def _needed(field: Field, terms: tuple[Term, ...]) -> tuple[Term, ...]:
    values = {place: set(term.numbers(field)) for place, term in enumerate(terms) if term.kind in {Kind.ANY, Kind.SPAN}}
    for place in sorted(values, key=lambda place: len(values[place])):
        others = [numbers for other, numbers in values.items() if other != place]
        if values[place] <= set().union(*others):
            del values[place]
    special = {place for place, term in enumerate(terms) if term.kind not in {Kind.ANY, Kind.SPAN}}
    return tuple(term for place, term in enumerate(terms) if place in values or place in special)


def _is_any(terms: tuple[Term, ...]) -> bool:
    return any(term.kind is Kind.ANY and term.step == 1 for term in terms)


def _singles(terms: tuple[Term, ...]) -> list[int]:
    """Return the values of terms that are all single values, in order. Empty if any term is something else."""
    if any(term.kind is not Kind.SPAN or term.first != term.last for term in terms):
        return []
    return sorted({term.first for term in terms})


def _and(parts: Iterable[str]) -> str:
    *most, last = dict.fromkeys(parts)  # 0 and 7 are both Sunday
    return f"{', '.join(most)} and {last}" if most else last


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
