"""How fast shell jobs start: a thousand in one instant, and three hundred a second.

Each job reports its own start (the shell reads the kernel's uptime, in hundredths of a second), so the measurement ends
when the command runs, and not when a message about it arrives. Prints a table. The machine should be otherwise idle.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.jobs.shell.shell_spec import ShellSpec

AT_ONCE = 1000
RATE = 300
SECONDS = 10
_BEGAN = "read began rest < /proc/uptime; echo $began; "


def attempt_of(number: int, command: str, payload: bytes = b"") -> Attempt:
    """Return an attempt with a lease that outlasts the measurement."""
    return Attempt(
        run_id=f"bench-{number}",
        uid="bench",
        namespace="",
        name="bench",
        slot=0,
        attempt=1,
        version=number,
        deadline=time.monotonic() + 60,
        params=ShellSpec(_BEGAN + command),
        payload=payload,
    )


def uptime() -> float:
    """Return the time of the clock that the jobs read, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def began(result: Result) -> float:
    """Return the start that the job reports."""
    assert result.ok, result
    return float(result.output.split()[0])


async def all_at_once(executor: ShellExecutor, label: str, command: str, payload: bytes = b"") -> None:
    """Start a thousand jobs in one instant."""
    start = uptime()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(executor.run(attempt_of(n, command, payload))) for n in range(AT_ONCE)]
    end = uptime()
    last = max(began(task.result()) for task in tasks) - start
    print(f"{label:<34} {AT_ONCE / last:>8.0f}/s   last start {last:6.2f} s   all ended {end - start:6.2f} s")


async def steady(executor: ShellExecutor) -> None:
    """Spread starts evenly, and measure the time from the call to the job's first line and to its result."""
    starts: list[float] = []
    ends: list[float] = []

    async def one(number: int) -> None:
        called = uptime()
        result = await executor.run(attempt_of(number, "true"))
        starts.append(began(result) - called)
        ends.append(uptime() - called)

    first = uptime()
    async with asyncio.TaskGroup() as group:
        for number in range(RATE * SECONDS):
            await asyncio.sleep(max(0.0, first + number / RATE - uptime()))
            group.create_task(one(number))
    for label, values in (("start", starts), ("result", ends)):
        values.sort()
        p50, p99, most = (1000 * max(0.0, values[int(share * (len(values) - 1))]) for share in (0.5, 0.99, 1.0))
        print(f"{RATE}/s for {SECONDS} s, {label:<21} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   max {most:6.1f} ms")


async def main() -> None:
    """Run all measurements."""
    executor = ShellExecutor()
    await executor.start()
    try:
        await all_at_once(executor, f"{AT_ONCE} true", "true")
        await all_at_once(executor, f"{AT_ONCE} sleep 0.2", "exec sleep 0.2")
        await all_at_once(executor, f"{AT_ONCE} sleep 0.2 in a subprocess", "sleep 0.2; true")
        await all_at_once(executor, f"{AT_ONCE} with 64 KiB of payload", "exec cat > /dev/null", b"x" * 65536)
        await steady(executor)
    finally:
        await executor.stop()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
