"""One-shots with a payload and a result, and a job that decides by itself when its schedule is complete.

    python examples/library/one_shots.py

It exits by itself.
"""

import asyncio

from scheduledjob import Every, Scheduler, Task

scheduler = Scheduler("memory:")
resized = asyncio.Event()
counted = asyncio.Event()


@scheduler.job("resize")
async def resize(task: Task) -> Task:
    """A schedule without a trigger has one slot, given by `delay` or `at`. After it, the schedule is completed."""
    image = task.json()
    print(f"{task.slug}: {image['name']} resized to {image['width']} pixels", flush=True)
    if task.slug == "image-3":
        resized.set()
    return task


@scheduler.job("countdown", trigger=Every(1.0))
async def countdown(task: Task) -> Task | None:
    """The next run and `get` see the payload and the result that a run sets."""
    left = task.json() - 1
    print(f"{task.slug}: {left} to go", flush=True)
    if left == 0:
        counted.set()
        return None  # the schedule is completed, and its slug can be used again
    task.set_json(left)
    task.set_result_json({"left": left})
    return task


async def main() -> None:
    async with scheduler:
        await scheduler.schedule_many(
            {
                "slug": f"image-{number}",
                "kind": "resize",
                "payload": b'{"name": "photo-%d.png", "width": 640}' % number,
                "delay": number / 10,
            }
            for number in (1, 2, 3)
        )
        await scheduler.schedule("rocket", "countdown", payload=b"3", delay=0.5)
        print("scheduled:", ", ".join(await scheduler.slugs()), flush=True)
        await resized.wait()
        rocket = await scheduler.get("rocket")
        assert rocket is not None
        print(f"the rocket's next slot is {rocket.slot:%H:%M:%S}", flush=True)
        await counted.wait()
    print("all done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
