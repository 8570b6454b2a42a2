"""The parser of cron expressions.

The dialect is Unix cron with five fields and Quartz with six or seven. Both have the same grammar (``L``, ``W``, ``#``,
names, wrapping ranges, ``H``), so nobody has to know which tool an expression came from. A parsed field is a tuple of
``Term``: ``local_times`` turns terms into bit masks, ``explain`` turns them into English.

Every error is a ``CronError`` that names the field, the value and what is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.domain.time.instants import SECOND, Micros

if TYPE_CHECKING:
    from collections.abc import Iterator

MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MACROS: Final = {
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
    "@MONTHLY": "0 0 1 * *",
    "@WEEKLY": "0 0 * * 0",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@HOURLY": "0 * * * *",
}
_MAX_LENGTH: Final = 1024


class CronError(ValueError):
    """The expression is invalid, or never fires. The message says where, why and what to write instead."""


class Field(Enum):
    """A field of an expression: its label, first and last value, names of values, and what error messages allow."""

    SECOND = ("second", 0, 59, (), "0 to 59, or H")
    MINUTE = ("minute", 0, 59, (), "0 to 59, or H")
    HOUR = ("hour", 0, 23, (), "0 to 23, or H")
    DAY = ("day-of-month", 1, 31, (), "1 to 31, L, L-n, nW, LW, ? or H")
    MONTH = ("month", 1, 12, MONTHS, "1 to 12, JAN to DEC, or H")
    WEEKDAY = ("day-of-week", 0, 7, WEEKDAYS, "0 to 7 (Sunday is 0 and 7), SUN to SAT, n#k, nL, ? or H")
    YEAR = ("year", 1970, 2099, (), "1970 to 2099")

    def __init__(self, label: str, first: int, last: int, names: tuple[str, ...], values: str) -> None:
        self.label = label
        self.first = first
        self.last = last
        self.names = names
        self.values = values

    def error(self, value: str, wrong: str, allowed: str = "") -> CronError:
        """Return an error that names the field and the value."""
        shown = value if len(value) <= 40 else value[:40] + "…"
        return CronError(f"{self.label} {shown!r}: {wrong}; {allowed or 'allowed are * and ' + self.values}")


class Kind(Enum):
    """The kinds of terms."""

    ANY = "*"  # * and */n
    SPAN = "a-b"  # a, a-b, a-b/n, a/n; with hashed, H in its forms
    LAST_DAY = "L-n"  # the last day of the month, or the n-th before it
    NEAREST_WEEKDAY = "nW"
    LAST_WEEKDAY = "LW"
    NTH = "n#k"
    LAST_NTH = "nL"  # the last such day of the week in the month


class Term(NamedTuple):
    """One comma-separated part of a field. ``first`` and ``last`` are its range, or the n and k of its kind."""

    kind: Kind
    first: int = 0
    last: int = 0
    step: int = 1
    hashed: bool = False

    def numbers(self, field: Field) -> Iterator[int]:
        """Yield the values of ``ANY`` and ``SPAN``. A range whose end is before its start wraps. Sunday is 0."""
        size = 7 if field is Field.WEEKDAY else field.last - field.first + 1
        last = self.last if self.first <= self.last else self.last + size
        for number in range(self.first, last + 1, self.step):
            yield (number - field.first) % size + field.first


@dataclass(frozen=True, slots=True)
class CronFields:
    """A parsed expression. A field without a restriction (``*``, ``?``, no year) has one term of the kind ``ANY``."""

    second: tuple[Term, ...]
    minute: tuple[Term, ...]
    hour: tuple[Term, ...]
    day: tuple[Term, ...]
    month: tuple[Term, ...]
    weekday: tuple[Term, ...]
    year: tuple[Term, ...]
    either_day: bool
    """A day matches if either day field does: both are set, in an expression of five fields."""
    wall_clock: bool
    """The DST rule for times of day applies: neither the hour nor the minute starts with ``*``."""
    with_seconds: bool
    """The expression has a field for seconds, so it has six or seven fields."""


@lru_cache(maxsize=4096)
def parse(expression: str, seed: str) -> CronFields | Micros:
    """Return the fields of an expression, or the interval of ``@every 30s`` in microseconds. Raises ``CronError``."""
    if len(expression) > _MAX_LENGTH:
        raise CronError(f"the expression has {len(expression)} characters; at most {_MAX_LENGTH} are allowed")
    if not expression.isascii():
        raise CronError(f"the expression {expression!r} has characters that cron does not know; only ASCII is allowed")
    texts = expression.split()
    if texts and texts[0].startswith("@"):
        if texts[0].upper() == "@EVERY":
            return _parse_every(texts[1:])
        texts = _macro(expression).split()
    if texts and texts[0].upper().startswith(("TZ=", "CRON_TZ=")):
        raise CronError(f"the expression contains a time zone ({texts[0]}); write it beside the expression, not in it")
    if len(texts) not in {5, 6, 7}:
        count = "1 field" if len(texts) == 1 else f"{len(texts)} fields"
        raise CronError(
            f"the expression {expression!r} has {count}; allowed are 5 (minute hour day-of-month month "
            "day-of-week), 6 (second first) or 7 (year last)"
        )
    unix = len(texts) == 5
    if unix:
        texts = ["0", *texts]
    if len(texts) == 6:
        texts.append("*")
    day, weekday = texts[3], texts[5]
    if day == weekday == "?" and not unix:
        raise Field.WEEKDAY.error("?", "both day fields are ?", "write * in one of them")
    both_set = not (day.startswith(("*", "?")) or weekday.startswith(("*", "?")))
    if both_set and not unix:
        raise Field.WEEKDAY.error(
            weekday, f"day-of-month is set too ({day})", "with six or seven fields write ? or * in one of the two"
        )
    second, minute, hour, days, month, weekdays, year = (
        _parse_field(field, text, seed) for field, text in zip(Field, texts, strict=True)
    )
    return CronFields(
        second,
        minute,
        hour,
        days,
        month,
        weekdays,
        year,
        either_day=both_set,
        wall_clock=not (texts[1].startswith("*") or texts[2].startswith("*")),
        with_seconds=not unix,
    )


def _macro(expression: str) -> str:
    found = MACROS.get(expression.strip().upper())
    if found is None:
        allowed = " ".join(MACROS).lower()
        shown = expression if len(expression) <= 40 else expression[:40] + "…"
        raise CronError(f"the expression {shown!r} is unknown; allowed are {allowed} and @every 30s")
    return found


def _parse_every(rest: list[str]) -> Micros:
    if len(rest) != 1:
        raise CronError("@every needs one duration; write, for example, @every 30s or @every 1h30m")
    try:
        every = parse_duration(rest[0].lower())
    except ValueError as error:
        raise CronError(f"@every: {error}") from None
    if every < SECOND:
        raise CronError(f"@every {rest[0]!r} is too short; write 1s or longer")
    return every


def _parse_field(field: Field, text: str, seed: str) -> tuple[Term, ...]:
    if text == "?":
        if field not in {Field.DAY, Field.WEEKDAY}:
            raise field.error(text, "? is for the day fields only")
        return (Term(Kind.ANY, field.first, field.last),)
    return tuple(_parse_term(field, part, seed) for part in text.split(","))


def _parse_term(field: Field, written: str, seed: str) -> Term:
    if not written:
        raise field.error(written, "there is an empty value in the list")
    text = written.upper()
    special = _parse_special(field, text, written)
    if special is not None:
        return special
    body, slash, step_text = text.partition("/")
    step = 1
    if slash:
        if not re.fullmatch("[0-9]{1,4}", step_text) or int(step_text) == 0:
            raise field.error(written, "the step is not valid", "write a whole number of 1 or more, as in */5")
        step = int(step_text)
    if body == "*":
        return Term(Kind.ANY, field.first, field.last, step)
    if body.startswith("H"):
        return _parse_hash(field, written, body, step if slash else 0, seed)
    first_text, dash, last_text = body.partition("-")
    first = _number(field, first_text, written)
    if dash:
        last = _number(field, last_text, written)
        if field is Field.YEAR and last < first:
            raise field.error(written, "the range ends before it begins", f"write {last}-{first}")
    else:
        last = field.last if slash else first
    return Term(Kind.SPAN, first, last, step)


def _parse_special(field: Field, text: str, written: str) -> Term | None:
    """Parse the forms with ``L``, ``W`` and ``#``. Returns None if the text has another form."""
    if field is Field.DAY:
        if text == "LW":
            return Term(Kind.LAST_WEEKDAY)
        if found := re.fullmatch("L(?:-([0-9]{1,4}))?", text):
            before = int(found[1] or 0)
            if before > 30:
                wrong = f"no month has a day {before} days before its last"
                raise field.error(written, wrong, "allowed are L-1 to L-30")
            return Term(Kind.LAST_DAY, before)
        if found := re.fullmatch("([0-9]{1,4})W", text):
            return Term(Kind.NEAREST_WEEKDAY, _number(field, found[1], written))
    if field is Field.WEEKDAY:
        if text == "L":
            raise field.error(written, "L needs a day here", "write 6 for Saturday, or FRIL for the last Friday")
        if found := re.fullmatch("([0-9]{1,4}|[A-Z]{3})#([0-9]{1,4})", text):
            if not 1 <= int(found[2]) <= 5:
                raise field.error(written, "the number after # is out of range", "allowed are n#1 to n#5")
            return Term(Kind.NTH, _number(field, found[1], written) % 7, int(found[2]))
        if found := re.fullmatch("([0-9]{1,4}|[A-Z]{3})L", text):
            return Term(Kind.LAST_NTH, _number(field, found[1], written) % 7)
    return None


def _parse_hash(field: Field, written: str, body: str, step: int, seed: str) -> Term:
    """Parse ``H``, ``H/n``, ``H(a-b)`` or ``H(a-b)/n``: a value that the seed picks, equal on all replicas."""
    if field is Field.YEAR:
        raise field.error(written, "H can't pick a year")
    # H alone picks no day that some months lack, and not the second number of Sunday.
    first, last = field.first, {Field.DAY: 28, Field.WEEKDAY: 6}.get(field, field.last)
    if body != "H":
        found = re.fullmatch(r"H\(([0-9A-Z]{1,4})-([0-9A-Z]{1,4})\)", body)
        if found is None:
            raise field.error(written, "this form of H is unknown", "allowed are H, H/n, H(a-b) and H(a-b)/n")
        first, last = _number(field, found[1], written), _number(field, found[2], written)
        if last < first:
            raise field.error(written, "the range of H ends before it begins", f"write H({last}-{first})")
    size = last - first + 1
    digest = blake2b(f"{field.label}\0{seed}".encode(), digest_size=8).digest()
    picked = int.from_bytes(digest) % (min(step, size) if step else size)
    if not step:
        return Term(Kind.SPAN, first + picked, first + picked, 1, hashed=True)
    return Term(Kind.SPAN, first + picked, last, step, hashed=True)


def _number(field: Field, text: str, written: str) -> int:
    if text in field.names:
        return field.names.index(text) + (1 if field is Field.MONTH else 0)
    if not re.fullmatch("[0-9]{1,4}", text):
        shown = text if len(text) <= 40 else text[:40] + "…"
        raise field.error(written, f"{shown!r} is not a value" if text else "a value is missing")
    number = int(text)
    if not field.first <= number <= field.last:
        raise field.error(written, f"{number} is out of range")
    return number
