"""One of several replicas on one Postgres. Start it in as many terminals and on as many machines as you like.

    python examples/library/replicas.py postgresql://user@localhost/database

Exactly one replica claims each due slot. Stop a replica, with Ctrl-C or with `kill -9`, and the others take over its
work. Run `client.py` to schedule some work.
"""

import asyncio
import os
import sys
from contextlib import suppress

from scheduledjob import Every, Scheduler, Task


def scheduler_for(url: str) -> Scheduler:
    scheduler = Scheduler(url, heartbeat=60.0, jitter=5.0)

    @scheduler.job("invoice")
    async def invoice(task: Task) -> Task:
        print(f"{os.getpid()} writes {task.slug}", flush=True)
        return task

    @scheduler.job("tidy-up", trigger=Every(5.0))
    async def tidy_up(task: Task) -> Task:
        print(f"{os.getpid()} tidies up for {task.slot:%H:%M:%S}", flush=True)
        return task

    return scheduler


async def main(url: str) -> None:
    async with scheduler_for(url) as scheduler:
        # Every replica does this, but the job is scheduled once: with replace=True, an equal schedule stays unchanged.
        await scheduler.schedule("tidy-up", "tidy-up", replace=True)
        print(f"{os.getpid()} is ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the store: python examples/library/replicas.py postgresql://user@localhost/database")
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
