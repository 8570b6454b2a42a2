"""Durations as people write them: ``1h30m``.

Manifests and the command line share this notation: days, hours, minutes and seconds, the largest unit first, each at
most once. A number without a unit is refused on purpose: in some products 30 means seconds and in others minutes, and
a schedule that is wrong by a factor of sixty looks right until it runs.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from typing import Final

from .instants import DAY, HOUR, MINUTE, SECOND, Micros

MAX_DURATION: Final[Micros] = 36_500 * DAY
"""A century. A longer duration is a typing error, and would leave the range of dates that Python can compute."""

_UNITS: Final[tuple[tuple[str, Micros], ...]] = (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND))
_FORM = re.compile("".join(f"(?:([0-9]{{1,10}}){unit})?" for unit, _ in _UNITS))
_WEEKS = re.compile("([0-9]{1,9})w")
_LOOSE = re.compile(
    "([0-9]{1,9}) ?(w|weeks?|d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)(?:,? |$|(?=[0-9]))", re.IGNORECASE
)
"""A number and its unit in the notations of other products."""
_ALLOWED = "whole days, hours, minutes and seconds, the largest first, as in 1h30m, 45s or 7d"


def parse_duration(text: str) -> Micros:
    """Return the microseconds of a duration such as ``1h30m`` or ``0s``. Raises ``ValueError`` for other text."""
    return _parse(text, weeks=False)


def _parse(text: str, *, weeks: bool) -> Micros:
    found = _FORM.fullmatch(text)
    if not text or found is None:
        shown = repr(text if len(text) <= 40 else text[:40] + "…")
        if re.fullmatch("[0-9]+", text):
            raise ValueError(f"{shown} has no unit: write {text[:10]}s for seconds, {text[:10]}m for minutes")
        also = "whole weeks, as in 2w, or " if weeks else ""
        raise ValueError(f"{shown} is not a duration: {_likely(text, weeks)}write {also}{_ALLOWED}")
    length = sum(int(count or 0) * unit for count, (_, unit) in zip(found.groups(), _UNITS, strict=True))
    if length > MAX_DURATION:
        raise ValueError(f"{text!r} is longer than a century: write at most {MAX_DURATION // DAY}d")
    return length


def parse_interval(text: str) -> Micros:
    """Return the microseconds of an interval: a duration, or whole weeks such as ``2w``. Raises ``ValueError``."""
    weeks = _WEEKS.fullmatch(text)
    if weeks is None:
        return _parse(text, weeks=True)
    if (length := int(weeks[1]) * 7 * DAY) > MAX_DURATION:
        raise ValueError(f"{text!r} is longer than a century: write at most {MAX_DURATION // (7 * DAY)}w")
    return length


def is_number(value: object) -> bool:
    """Whether a value is an int or a float. A bool is not accepted, although Python treats it as an int."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_seconds(what: str, seconds: object) -> None:
    """Raise ``TypeError`` for a value that is not a number. The message suggests one: 300 for ``"5m"``."""
    if not is_number(seconds):
        raise TypeError(f"{what} of {seconds!r:.60} is not allowed: give a number of seconds{in_seconds(seconds)}")


def in_seconds(length: object) -> str:
    """Return a hint: the seconds of a duration that was given in another form, or an example if it is none."""
    found: float | None = None
    if isinstance(length, timedelta):
        found = length.total_seconds()
    elif isinstance(length, str):
        with suppress(ValueError):
            found = parse_duration(length + ("s" if length.isascii() and length.isdigit() else "")) / SECOND
    if found is None:
        return ", as in 30"
    return f", {int(found) if found == int(found) else found} for this"


def _likely(text: str, weeks: bool) -> str:
    """Return a question that suggests what ``5 minutes`` or ``1w`` probably means; empty if nothing is likely.

    ``weeks``: whole weeks are allowed, and are suggested for text that has only weeks.
    """
    units = {"w": 7 * DAY, **dict(_UNITS)}
    parts = _LOOSE.findall(text)
    length = sum(int(count) * units[unit[0].lower()] for count, unit in parts)
    is_likely = not _LOOSE.sub("", text) and 0 < length <= MAX_DURATION
    if not is_likely:
        return ""
    only_weeks = weeks and all(unit[0] in "wW" for _, unit in parts)
    meant = f"{length // units['w']}w" if only_weeks else format_duration(length)
    return f"did you mean {meant}? "


def format_duration(length: Micros) -> str:
    """Return ``1h30m`` for 5,400,000,000. A fraction of a second is shown for people; ``parse_duration`` refuses it."""
    if length < 0:
        return "-" + format_duration(-length)
    parts = []
    for name, unit in _UNITS[:-1]:
        count, length = divmod(length, unit)
        if count:
            parts.append(f"{count}{name}")
    if length or not parts:
        seconds, fraction = divmod(length, SECOND)
        digits = f".{fraction:06d}".rstrip("0") if fraction else ""
        parts.append(f"{seconds}{digits}s")
    return "".join(parts)
