"""Converts the schedule of a CronJob to a trigger with the same slots.

Kubernetes parses schedules with ``robfig/cron``, whose dialect differs from ours in three rules:

- ``a/n`` ends with the field. There, days of the week end with Saturday; here they end with 7, a second Sunday.
- ``?`` means ``*`` in any field.
- A day field counts as set unless it has a star without a step. Here, its first character decides. So ``*/2`` counts as
  set there but not here, and whether a day must match both day fields or either of them would change.

Such an expression is rewritten to keep its meaning. All others stay as their author wrote them.
"""

from __future__ import annotations

import re
from typing import Any

from scheduledjob.domain.cron.parse import MACROS
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND

_LAST = (59, 23, 31, 12, 6)
"""The last values of a CronJob's minute, hour, day of the month, month and day of the week."""
_DAY, _WEEKDAY = 2, 4
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_GO_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)")


def trigger_of(schedule: str, time_zone: str | None, anchor: str | None) -> dict[str, Any]:
    """Return the trigger with the slots of a CronJob's schedule. ``anchor`` is the instant that ``@every`` counts from.

    Raises ``ValueError`` for a schedule that no CronJob can have.
    """
    zone_in_it, text = without_zone(schedule)
    if zone_in_it and time_zone:
        raise ValueError(
            f'spec.schedule: "{schedule}" names a time zone, and so does spec.timeZone: remove one of them'
        )
    time_zone = time_zone or zone_in_it
    if text.startswith("@every "):
        trigger = {"every": format_duration(_seconds(text.removeprefix("@every ").strip()) * SECOND)}
        return trigger | ({"anchor": anchor} if anchor else {})
    if text.startswith("@"):
        if text.upper() not in MACROS:
            raise ValueError(f'spec.schedule: "{schedule}" is unknown to CronJobs: write five fields')
        expression = text
    else:
        expression = _expression(text, schedule)
    zone = {} if time_zone in (None, "", "UTC", "Etc/UTC") else {"timeZone": time_zone}
    return {"cron": expression, **zone}


def without_zone(schedule: str) -> tuple[str, str]:
    """Return the time zone of a schedule such as ``TZ=Asia/Tokyo 0 9 * * *`` (or "") and the rest of the schedule."""
    found = re.match(r"(?:CRON_)?TZ=(\S+)\s+", text := schedule.strip())
    return (found[1], text[found.end() :].strip()) if found else ("", text)


def _expression(text: str, schedule: str) -> str:
    fields = text.split()
    if len(fields) != len(_LAST):
        raise ValueError(f'spec.schedule: "{schedule}" must have five fields, not {len(fields)}')
    stars = [any(_is_star(term) for term in field.split(",")) for field in fields]
    written = []
    for place, field in enumerate(fields):
        if stars[place]:
            written.append(field if field in ("*", "*/1") else "*")
            continue
        terms = [_term(term, place) for term in field.split(",") if term]
        if place in (_DAY, _WEEKDAY) and not stars[_DAY] and not stars[_WEEKDAY]:
            first = 1 if place == _DAY else 0
            terms = [re.sub(r"^\*", f"{first}-{_LAST[place]}", term) for term in terms]
        written.append(",".join(terms))
    return " ".join(written)


def _is_star(term: str) -> bool:
    """Whether a term is a star (or a question mark) without a step, so that it matches every value."""
    body, slash, step = term.partition("/")
    return body.partition("-")[0] in ("*", "?") and (not slash or (step.isdigit() and int(step) == 1))


def _term(term: str, place: int) -> str:
    body, slash, step = term.partition("/")
    if body.partition("-")[0] in ("*", "?"):
        return f"*{slash}{step}"
    if slash and "-" not in body and place == _WEEKDAY:
        return f"{body}-{_name_of_last(body)}/{step}"
    return term


def _name_of_last(body: str) -> str:
    """Return Saturday in the notation of a term: as a number or as a name."""
    return "6" if body.isdigit() else "SAT"


def _seconds(duration: str) -> int:
    """Return the seconds of a Go duration, rounded as ``@every`` does: down, but to at least one."""
    parts = _GO_PART.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f'spec.schedule: "{duration}" is not a duration: write, for example, @every 1h30m')
    return max(1, int(sum(float(number) * _GO_UNITS[unit] for number, unit in parts) + 1e-9))
