"""A program that uses the library, for tests that kill or suspend it: ``replica_program.py DSN LOG SETTINGS``.

Its job writes a line to LOG when an attempt starts and when it ends. SETTINGS is JSON: ``lease`` and ``takes`` in
seconds, ``clock`` is the error of its wall clock in seconds, ``schedule`` maps slugs to schedule to their delays.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from scheduledjob import Fixed, Scheduler, ShellJob, Task
from scheduledjob.engine.observer import Observer


class Log(Observer):
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(self, what: str, slug: str = "-", attempt: int = 0) -> None:
        at = time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000  # the true time, even if time.time is wrong
        os.write(self._file, f"{what} {os.getpid()} {slug} {attempt} {at}\n".encode())

    def fenced(self, slug: str, why: str) -> None:
        self.say("fenced", slug)


def mislead(offset: float) -> None:
    """Make this process's wall clock wrong."""
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + offset
    time.time_ns = lambda: true_time_ns() + round(offset * 1e9)


async def main(dsn: str, log: Log, settings: dict[str, Any]) -> None:
    mislead(settings.get("clock", 0.0))
    lease, takes = settings.get("lease", 15.0), settings.get("takes", 0.0)
    scheduler = Scheduler(dsn, lease=lease, heartbeat=0.3, capacity=settings.get("capacity", 4096), observer=log)
    scheduler.register(ShellJob(), backoff=Fixed([0.1]))

    @scheduler.job("job", backoff=Fixed([0.1]))
    async def job(task: Task) -> Task:
        log.say("start", task.slug, task.attempt)
        await asyncio.sleep(takes)
        log.say("end", task.slug, task.attempt)
        return task

    async with scheduler:
        for slug, delay in settings.get("schedule", {}).items():
            await scheduler.schedule(slug, "job", delay=delay)
        log.say("ready")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Log(Path(sys.argv[2])), json.loads(sys.argv[3])))
