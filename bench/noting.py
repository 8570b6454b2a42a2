"""Replicas that record each start and its lateness, with the clock of this machine, taken inside the job.

Postgres runs on the same machine, so the slot and the start come from one clock, and the difference is the true
lateness, independent of the engine's own notion of time.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.common import settle_garbage, spread
from scheduledjob import Cron, Scheduler, Task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.common import Line

TEN_SECONDS = "*/10 * * * * ?"

Start = tuple[str, int, float]
"""The slug, its slot (microseconds since 1970) and the start of the job (seconds since 1970)."""


async def noting_replica(line: Line, dsn: str, options: dict[str, Any]) -> None:
    """Run a replica with the kinds ``note`` and ``ten``. Answer each message with the starts since the last one."""
    starts: list[Start] = []
    scheduler = scheduler_with(dsn, starts, **options)
    settle_garbage()
    async with scheduler:
        line.send()
        while True:
            await line.receive()
            line.send(starts[:])
            starts.clear()


def scheduler_with(dsn: str, starts: list[Start], **options: Any) -> Scheduler:
    """Return a scheduler with the kind ``note``, and ``ten``, which is due every ten seconds."""
    scheduler = Scheduler(dsn, **options)

    async def note(task: Task) -> Task:
        starts.append((task.slug, task.slot_instant, time.time()))
        return task

    scheduler.job("note")(note)
    scheduler.job("ten", trigger=Cron(TEN_SECONDS))(note)
    return scheduler


@dataclass(slots=True)
class Lateness:
    """The lateness of some starts."""

    late: dict[str, float]
    """p50, p95, p99 and max, in milliseconds."""
    early: int
    missed: int
    doubled: int

    @property
    def whole(self) -> bool:
        return not (self.early or self.missed or self.doubled)

    def __str__(self) -> str:
        wrong = "" if self.whole else f"; {self.early} early, {self.missed} missed, {self.doubled} doubled"
        return f"p50 {self.late['p50']:.2f}, p99 {self.late['p99']:.2f}, max {self.late['max']:.1f} ms{wrong}"

    def details(self) -> dict[str, Any]:
        wrong = {"early": self.early, "missed": self.missed, "doubled": self.doubled}
        return {"lateness ms": self.late} | wrong


def lateness(starts: Iterable[Start], expected: set[tuple[str, int]]) -> Lateness:
    """Compare starts with the expected (slug, slot) pairs. Other starts are ignored."""
    counted = [start for start in starts if (start[0], start[1]) in expected]
    times = Counter((slug, slot) for slug, slot, _ in counted)
    late = [1000 * (began - slot / 1e6) for _, slot, began in counted] or [0.0]
    doubled = sum(count - 1 for count in times.values())
    return Lateness(spread(late), sum(lateness < 0 for lateness in late), len(expected) - len(times), doubled)
