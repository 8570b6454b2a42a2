"""One replica of the chaos run: ``chaos_replica.py DSN LOG NAME``. It runs until it is killed.

Each attempt of a Python job writes a line when it starts and when it ends. Shell jobs write a line every fifth of a
second, so that the driver sees until when they were alive, whatever happened to their replica.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

import uvloop

from scheduledjob import Every, Exponential, Fixed, Scheduler, ShellJob, Task
from scheduledjob.engine.observer import Observer

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt

LEASE = 8.0
"""Seconds."""
BEATING = """
n=0; while [ $n -lt 25 ]; do
  printf 'beat %s %s %s %s %s\\n' "$REPLICA" "$SCHEDULEDJOB_NAME" "$SCHEDULEDJOB_SLOT" "$SCHEDULEDJOB_ATTEMPT" \\
    "$(date +%s%6N)" >> "$LOG"; sleep 0.2; n=$((n+1)); done
"""


class Lines(Observer):
    """Writes what happens to the log that all replicas share; a line is one write."""

    def __init__(self, path: str, name: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._name = name

    def say(self, what: str, slug: str = "-", slot: str = "-", attempt: int = 0) -> None:
        os.write(self._file, f"{what} {self._name} {slug} {slot} {attempt} {time.time_ns() // 1000}\n".encode())

    def fenced(self, slug: str, why: str) -> None:
        self.say("fenced", slug)

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        self.say("late", attempt.name, str(late), attempt.attempt)


async def main(dsn: str, log: str, name: str) -> None:
    lines = Lines(log, name)
    os.environ |= {"LOG": log, "REPLICA": name}
    scheduler = Scheduler(dsn, lease=LEASE, heartbeat=5.0, observer=lines)
    retry = Exponential(initial=0.5, max=5.0, max_retries=-1)

    @scheduler.job("tick", trigger=Every(1.0), backoff=retry)
    async def tick(task: Task) -> Task:
        lines.say("start", task.slug, str(task.slot.timestamp()), task.attempt)
        lines.say("end", task.slug, str(task.slot.timestamp()), task.attempt)
        return task

    @scheduler.job("long", trigger=Every(10.0), backoff=retry)
    async def long(task: Task) -> Task:
        slot = str(task.slot.timestamp())
        lines.say("start", task.slug, slot, task.attempt)
        await asyncio.sleep(4.0)
        lines.say("end", task.slug, slot, task.attempt)
        return task

    @scheduler.job("once", backoff=retry)
    async def once(task: Task) -> None:
        lines.say("start", task.slug, str(task.slot.timestamp()), task.attempt)
        lines.say("end", task.slug, str(task.slot.timestamp()), task.attempt)

    scheduler.register(ShellJob(), name="beating", trigger=Every(15.0), backoff=Fixed([0.5], max_retries=-1))
    async with scheduler:
        lines.say("ready")
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
