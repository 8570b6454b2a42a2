"""The duration of ``next``, ``previous`` and ``count`` for typical expressions, parsed once, in microseconds.

``python bench/next_slot.py [--json FILE]`` prints a table that compares the next slot with croniter's. Each number is
the best of several rounds over instants of a whole year, which include both DST changes.
"""

from __future__ import annotations

import argparse
import json
import platform
import timeit
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from croniter import croniter
from rich.console import Console
from rich.table import Table

from scheduledjob.domain.time.instants import DAY, HOUR, to_datetime, to_instant
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.domain.triggers.every import Every
from scheduledjob.domain.triggers.timetable import Timetable, Window

if TYPE_CHECKING:
    from collections.abc import Callable
    from zoneinfo import ZoneInfo

    from scheduledjob.domain.triggers.stored_trigger import BoundTrigger

CASES = [
    # our expression, the same for croniter, time zone
    ("* * * * *", "* * * * *", "UTC"),
    ("*/5 * * * *", "*/5 * * * *", "Europe/Lisbon"),
    ("0 * * * *", "0 * * * *", "America/Los_Angeles"),
    ("0 30 2 * * ?", "30 2 * * *", "Europe/Lisbon"),
    ("0 0 12 ? * MON-FRI", "0 12 * * MON-FRI", "Europe/Lisbon"),
    ("*/15 9-17 * * 1-5", "*/15 9-17 * * 1-5", "America/New_York"),
    ("0 9 1 * *", "0 9 1 * *", "Australia/Lord_Howe"),
    ("0 0 L * *", "0 0 L * *", "America/Sao_Paulo"),
    ("0 8 * * MON#1", "0 8 * * MON#1", "Europe/Berlin"),
    ("0 9 LW * *", None, "Europe/Berlin"),
    ("0 0 29 2 *", "0 0 29 2 *", "Europe/Lisbon"),
    ("*/10 * * * * ?", "* * * * * */10", "Asia/Tokyo"),
]
BAR = 25.0
ROUNDS, STEPS = 5, 2000


def microseconds(work: Callable[[int], object], steps: int = STEPS) -> float:
    """Return the best of several rounds over the instants of a year."""
    start = to_instant(datetime(2026, 1, 1, tzinfo=UTC))
    moments = [start + number * (365 * DAY // steps) + number * 1234 for number in range(steps)]

    def walk() -> None:
        for moment in moments:
            work(moment)

    walk()
    return min(timeit.repeat(walk, number=1, repeat=ROUNDS)) / steps * 1e6


def count_year(cron: Cron, after: int) -> int:
    return cron.count(after, after + 365 * DAY)


def slots() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for ours, theirs, zone in CASES:
        cron, info = Cron(ours, zone), zone_info(zone)
        row: dict[str, object] = {
            "expression": ours,
            "zone": zone,
            "next_us": microseconds(cron.next_instant),
            "previous_us": microseconds(cron.previous_instant),
            "count_year_us": microseconds(partial(count_year, cron), 200),
            "croniter_us": None,
        }
        if theirs is not None:
            peer = croniter(theirs, datetime(2026, 1, 1, tzinfo=info))

            def ask(moment: int, peer: croniter = peer, info: ZoneInfo = info) -> object:
                return peer.get_next(datetime, start_time=to_datetime(moment).astimezone(info))

            row["croniter_us"] = microseconds(ask, 300)
        rows.append(row)
    return rows


def timetables() -> list[dict[str, object]]:
    """Return the milliseconds for counting missed slots and for skipping excluded ones."""
    end = to_instant(datetime(2026, 1, 1, tzinfo=UTC))
    year, decade = end - 365 * DAY, end - 3652 * DAY
    lisbon: BoundTrigger = Cron("*/5 * * * *", "Europe/Lisbon")
    second: BoundTrigger = Every(1).bind(0)
    nights = Cron("* 22-6 * * *", "Europe/Lisbon")
    freeze = Window(year + 30 * DAY, year + 30 * DAY + 72 * HOUR)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("count, every 1s, a year", lambda: Timetable([second]).count(year, end)),
        ("count, */5 in Lisbon, ten years", lambda: Timetable([lisbon]).count(decade, end)),
        (
            "count, both without nights and a freeze, a year",
            lambda: Timetable([second, lisbon], [nights, freeze]).count(year, end),
        ),
        ("count, */5 without nights, ten years", lambda: Timetable([lisbon], [nights]).count(decade, end)),
        ("next, a night of excluded seconds", lambda: Timetable([second], [nights]).next(end)),
        ("next, everything excluded", lambda: Timetable([second], [Cron("* * * * *")]).next(end)),
    ]
    return [{"question": name, "ms": min(timeit.repeat(work, number=1, repeat=ROUNDS)) * 1e3} for name, work in cases]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    arguments = parser.parse_args()
    console = Console()
    by_slot, by_question = slots(), timetables()
    table = Table(title=f"Microseconds for a slot (bar: {BAR:g} for next; croniter {version('croniter')})")
    for heading in ("expression", "zone", "next", "previous", "count a year", "croniter next"):
        table.add_column(heading, justify="left" if heading in {"expression", "zone"} else "right")
    for row in by_slot:
        numbers = [row[name] for name in ("next_us", "previous_us", "count_year_us", "croniter_us")]
        shown = [f"{number:.1f}" if isinstance(number, float) else "none" for number in numbers]
        table.add_row(str(row["expression"]), str(row["zone"]), *shown)
    console.print(table)
    table = Table("question to a timetable", "milliseconds")
    for row in by_question:
        table.add_row(str(row["question"]), f"{row['ms']:.2f}")
    console.print(table)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(
                {"python": platform.python_version(), "slots": by_slot, "timetables": by_question}, file, indent=1
            )


if __name__ == "__main__":
    main()
