"""Lengths of time as people write them: ``1h30m``.

Manifests and the command line share this one notation: days, hours, minutes and seconds, the largest first,
each at most once. A bare number is refused on purpose: in one product 30 means seconds and in the next
minutes, and a schedule that is wrong by a factor of sixty looks right until it runs.
"""

from __future__ import annotations

import re
from typing import Final

from scheduledjob.domain.instants import DAY, HOUR, MINUTE, SECOND, Micros

MAX_DURATION: Final[Micros] = 36_500 * DAY
"""A century: longer is a typing error, and would leave the range of dates that can be computed with."""

_UNITS: Final[tuple[tuple[str, Micros], ...]] = (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND))
_FORM = re.compile("".join(f"(?:([0-9]{{1,10}}){unit})?" for unit, _ in _UNITS))
_ALLOWED = "write whole days, hours, minutes and seconds, the largest first, as in 1h30m, 45s or 7d"


def parse_duration(text: str) -> Micros:
    """The microseconds of a duration such as ``1h30m``; ``0s`` is one too. Anything else is a ``ValueError``."""
    found = _FORM.fullmatch(text)
    if not text or found is None:
        shown = repr(text if len(text) <= 40 else text[:40] + "…")
        if re.fullmatch("[0-9]+", text):
            raise ValueError(f"{shown} has no unit: write {text[:10]}s for seconds, {text[:10]}m for minutes")
        raise ValueError(f"{shown} is not a duration: {_ALLOWED}")
    length = sum(int(count or 0) * unit for count, (_, unit) in zip(found.groups(), _UNITS, strict=True))
    if length > MAX_DURATION:
        raise ValueError(f"{text!r} is longer than a century: write at most {MAX_DURATION // DAY}d")
    return length


def format_duration(length: Micros) -> str:
    """``1h30m`` of 5,400,000,000; what is below a second is shown as a fraction, for people only."""
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
