"""A job with a trigger and a backoff: the smallest program that schedules something.

    python examples/library/report.py

It runs until Ctrl-C. `task: go on; None: done for good; raise: retry` is all that a job has to know.
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
        print(f"{task.slug} for {task.slot:%H:%M:%S}: the database is away", flush=True)
        raise ConnectionError("the database is away")  # tried again after a second, then two, four ...
    print(f"{task.slug} for {task.slot:%H:%M:%S}: written in attempt {task.attempt}", flush=True)
    return task


async def main() -> None:
    print(
        "every two seconds; on work days it would be", work_days.explain(), "- next", work_days.next(datetime.now(UTC))
    )
    async with scheduler:
        await scheduler.schedule("sales", "report")  # its first slot is the trigger's next
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
