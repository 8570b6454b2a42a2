"""The library as authors of programs see it: types, signals, and the files that are shipped."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SNIPPET = """
import asyncio
from datetime import UTC, datetime

from scheduledjob import At, Cron, CurlJob, Every, Exponential, Fixed, Job, PrintJob, Scheduler, ShellJob, Task

scheduler = Scheduler("postgresql://localhost/jobs", heartbeat=60.0, jitter=0.0)

@scheduler.job("report", trigger=Cron("0 30 2 * * ?", "Europe/Lisbon"), backoff=Exponential())
async def report(task: Task) -> Task | None:
    task.result = b"..."
    reveal_type(task.slot)
    reveal_type(task.payload)
    return task

reveal_type(report)
scheduler.register(ShellJob(), trigger=Every(30.0), backoff=Fixed([10.0, 60.0]))
scheduler.register(CurlJob(method="POST", headers={"X": "y"}), trigger=At(datetime.now(UTC)))
scheduler.register(PrintJob())

class Mine:
    async def run(self, task: Task) -> Task | None:
        return None

mine: Job = Mine()
scheduler.register(mine, name="mine")

async def main() -> None:
    async with scheduler:
        await scheduler.schedule("nightly", "report", payload=b"...", delay=5.0)
        await scheduler.schedule_many([{"slug": "a", "kind": "report", "delay": 1.0}])
        reveal_type(await scheduler.get("nightly"))
        reveal_type(await scheduler.slugs())
        reveal_type(await scheduler.delete("nightly"))
        await scheduler.clear()
    async with Scheduler("postgresql://localhost/jobs", execute=False) as client:
        await client.schedule("b", "report", at=datetime.now(UTC), replace=True)
    reveal_type(Cron("0 0 12 ? * MON-FRI", "Europe/Lisbon").next(datetime.now(UTC)))
    reveal_type(Cron("@daily", seed="").explain())

asyncio.run(main())
"""
REVEALED = [
    "datetime.datetime",
    "bytes | None",
    "def (task: scheduledjob.engine.task.Task) -> typing.Coroutine[Any, Any, scheduledjob.engine.task.Task | None]",
    "scheduledjob.engine.task.Task | None",
    "list[str]",
    "bool",
    "datetime.datetime | None",
    "str",
]


def test_the_first_page_type_checks_strictly(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={ROOT}/.mypy_cache/user"]
    checked = subprocess.run([*command, "snippet.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    notes = [line.partition('Revealed type is "')[2].rstrip('"') for line in checked.stdout.splitlines()]
    revealed = [note.replace("builtins.", "") for note in notes if note]
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [text.replace("Union[bytes, None]", "bytes | None") for text in revealed] == REVEALED


def test_the_package_says_that_it_is_typed() -> None:
    assert files("scheduledjob").joinpath("py.typed").is_file()


PROGRAM = """
import asyncio
from scheduledjob import Scheduler, Task

scheduler = Scheduler("memory:", grace=30.0)

@scheduler.job("short")
async def short(task: Task) -> Task:
    print("begun", flush=True)
    await asyncio.sleep(0.3)
    print("finished", flush=True)
    return task

async def main() -> None:
    async with scheduler:
        try:
            await scheduler.schedule("a", "short", delay=0.0)
            await asyncio.Event().wait()
        finally:
            print("leaving", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_shuts_a_program_down_cleanly(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        program.send_signal(number)
        output, errors = program.communicate(timeout=30)
    assert output == "leaving\nfinished\n"
    if number is signal.SIGTERM:
        assert (program.returncode, errors) == (0, "")
    else:  # like any asyncio program that is interrupted
        assert "KeyboardInterrupt" in errors


def test_importing_the_library_loads_no_heavy_modules() -> None:
    program = (
        "import sys, scheduledjob; print(*[m for m in ('asyncpg', 'aiohttp', 'google.cloud') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"
