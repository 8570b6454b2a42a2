"""A job of the library that a test can wait for."""

from __future__ import annotations

import asyncio
from typing import Any

from scheduledjob import Scheduler, Task


class Ran:
    """A job that continues its schedule, and lets a test wait for its runs."""

    def __init__(self) -> None:
        self.tasks: asyncio.Queue[Task] = asyncio.Queue()

    async def run(self, task: Task) -> Task | None:
        self.tasks.put_nowait(task)
        return task


def with_job(**registered: Any) -> tuple[Scheduler, Ran]:
    scheduler, job = Scheduler("memory:"), Ran()
    scheduler.register(job, name="job", **registered)
    return scheduler, job
