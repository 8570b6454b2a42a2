"""The smallest program that schedules something: a job with a trigger and a backoff.

    python examples/library/report.py

It runs until Ctrl-C. A job returns its task to continue its schedule, returns None to complete it, and raises an
exception to be retried.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from scheduledjob import Cron, Exponential, Scheduler, Task

scheduler = Scheduler("memory:")
work_days = Cron("0 30 2 ? * MON-FRI", "Europe/Lisbon")


@scheduler.job("report", trigger=Cron("*/2 * * * * ?", "Europe/Lisbon"), backoff=Exponential(initial=1.0, max=60.0))
async def report(task: Task) -> Task | None:
    if task.attempt == 1 and task.slot.second % 4 == 0:
        print(f"{task.slug} for {task.slot:%H:%M:%S}: the database is down", flush=True)
        raise ConnectionError("the database is down")  # retried after one second, then two, four ...
    print(f"{task.slug} for {task.slot:%H:%M:%S}: written in attempt {task.attempt}", flush=True)
    return task


async def main() -> None:
    print("every two seconds; another trigger:", work_days.explain(), "- next:", work_days.next(datetime.now(UTC)))
    async with scheduler:
        await scheduler.schedule("sales", "report")  # its first slot is the next one of the trigger
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
