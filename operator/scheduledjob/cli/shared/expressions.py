"""``next`` and ``explain`` for a cron expression. They do not load the engine, so that they answer quickly."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import Instant, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.domain.triggers.cron import Cron, CronError

from .command_errors import CommandError
from .formats import print_rows, print_value

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLE = "write an instant with its offset from UTC, as in 2026-12-01T10:00:00Z"


def only_expression(words: Sequence[str] | None, command: str) -> str:
    """Return the one expression among the arguments. Raises CommandError for none or several."""
    if not words:
        raise CommandError(
            f"{command}: give an expression, as in scheduledjob {command} '0 12 * * MON-FRI', or manifests with -f",
            2,
        )
    if len(words) > 1:
        message = f"{command}: the expression was split into {len(words)} arguments: quote it, as in '0 12 * * *'"
        raise CommandError(f"{message}, or name manifests with -f", 2)
    return words[0]


def print_next(expression: str, time_zone: str, start: str | None, count: int, seed: str, output: str) -> None:
    """Print the first ``count`` slots at or after ``start``. An interval is counted from ``start``."""
    cron = _cron(expression, time_zone, seed)
    begin = to_instant(datetime.now(UTC)) if start is None else _instant(start)
    bound = cron.bind(begin)
    zone = zone_info(time_zone)
    # A slot exactly at the start is listed. An interval has none there: it would be its creation, which never fires.
    slot = bound.next_instant(begin - 1 if bound is cron else begin)
    rows: list[dict[str, str]] = []
    while slot is not None and len(rows) < count:
        rows.append({"slot": rfc3339(slot), "local": _local(slot, zone)})
        slot = bound.next_instant(slot)
    print_rows(rows, output, empty=f"no slots: {expression!r} never fires again")


def print_explanation(expression: str, time_zone: str, output: str) -> None:
    words = _cron(expression, time_zone, "").explain()
    if output == "table":
        print(words)  # noqa: T201  # a command prints
    else:
        print_value({"expression": expression, "timeZone": time_zone, "explanation": words}, output)


def _cron(expression: str, time_zone: str, seed: str) -> Cron:
    try:
        return Cron(expression, time_zone, seed=seed)
    except CronError as error:
        raise CommandError(str(error), 2) from None


def _instant(text: str) -> Instant:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"--from: {text!r} is not a point in time: {_EXAMPLE}", 2) from None
    if moment.tzinfo is None:
        raise CommandError(f"--from: {text!r} has no offset from UTC: {_EXAMPLE}", 2)
    return to_instant(moment)


def _local(slot: Instant, zone: tzinfo) -> str:
    return to_datetime(slot).astimezone(zone).strftime("%a %Y-%m-%d %H:%M:%S %z")
