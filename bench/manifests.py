"""``scheduledjob run -f``, as a user starts it: shell, HTTP and print jobs from manifests.

The command of a shell job writes its name and slot to a named pipe, and this process records when that arrives. The
server records when a request arrives. The start of a ``print`` job is taken from its record; the time at which the
program printed the record is an upper bound. All clocks are those of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from bench.common import Cpu, Options, Worker, median, postgres
from bench.noting import Start, lateness
from bench.punctual import cores, instant
from bench.report import Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from bench.common import Line
    from tests.support.postgres import PostgresServer

BURST = 1000
RATE = 300
TRIGGERS = 15
"""One-shots per job, out of the 16 triggers that a job may have."""
IN_ONE_FILE = 200
END = 15.0
"""Seconds in which the program must exit after SIGTERM."""


def manifest(name: str, triggers: list[dict[str, Any]], job: dict[str, Any]) -> str:
    document = {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": name},
        "spec": {"triggers": triggers, "job": job},
    }
    return json.dumps(document)  # JSON is YAML


def at(moment: float) -> list[dict[str, Any]]:
    return [{"at": instant(moment).isoformat()}]


class Program:
    """``scheduledjob run -f`` with some manifests; collects its lines of JSON. Use it with ``async with``."""

    def __init__(self, documents: Iterable[str], store: str, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="scheduledjob-bench-")
        some = list(documents)
        for first in range(0, len(some), IN_ONE_FILE):
            file = Path(self._directory.name, f"jobs-{first}.yaml")
            file.write_text("\n---\n".join(some[first : first + IN_ONE_FILE]))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the program
        self._command = [
            sys.executable,
            "-m",
            "scheduledjob.cli.scheduledjob.main",
            "run",
            "-f",
            self._directory.name,
            *options,
        ]
        self._environment = os.environ | {"SJOB_STORE": store}
        self.lines: list[tuple[float, bytes]] = []
        """Each line of standard output, with its time of arrival."""

    async def __aenter__(self) -> Program:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._errors,
            limit=1 << 24,
        )
        self.pid = self._process.pid
        self._reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.lines.append((time.time(), line))

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
        await self._reading
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        self._errors.close()
        self._directory.cleanup()
        if code:
            raise RuntimeError(f"scheduledjob run exited with {code}: {said[-2000:]}")


@contextlib.asynccontextmanager
async def named_pipe() -> AsyncIterator[tuple[str, list[Start]]]:
    """A pipe to which jobs write lines "name slot", and the starts read from it."""
    starts: list[Start] = []
    with tempfile.TemporaryDirectory(prefix="scheduledjob-bench-") as directory:
        path = os.path.join(directory, "starts")
        os.mkfifo(path)
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        rest = b""

        def read() -> None:
            nonlocal rest
            with contextlib.suppress(BlockingIOError):
                *lines, rest = (rest + os.read(descriptor, 1 << 16)).split(b"\n")
                now = time.time()  # after reading, or lines that arrive meanwhile would seem early
                for line in lines:
                    name, slot = line.decode().split()
                    starts.append((name, micros(slot), now))

        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, read)
        try:
            yield path, starts
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def micros(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def tell(pipe: str) -> dict[str, Any]:
    return {"shell": {"command": f'echo "$SCHEDULEDJOB_NAME $SCHEDULEDJOB_SLOT" > {pipe}'}}


async def shell_rate(options: Options) -> list[Row]:
    """300 shell starts a second on Postgres: one-shots spread evenly, then 300 jobs due in the same instant."""
    seconds = 10 if options.quick else 60
    begin = math.ceil(time.time()) + 30
    jobs = RATE * seconds // TRIGGERS
    evenly = {f"job-{n}": [begin + (n + number * jobs) / RATE for number in range(TRIGGERS)] for n in range(jobs)}
    with postgres() as server:
        rows = [
            await _shell_rate(
                server,
                f"run -f, {RATE} shell starts/s, spread evenly, {seconds} s",
                {name: [{"at": instant(slot).isoformat()} for slot in slots] for name, slots in evenly.items()},
                {(name, round(slot * 1e6)) for name, slots in evenly.items() for slot in slots},
                begin,
                seconds,
                100.0,
            )
        ]
    begin = math.ceil(time.time()) + 15
    every = {"every": "1s", "anchor": instant(begin).isoformat()}
    with postgres() as server:
        rows.append(
            await _shell_rate(
                server,
                f"run -f, {RATE} shell jobs due each second at once, {seconds} s",
                {f"job-{n}": [every] for n in range(RATE)},
                {(f"job-{n}", (begin + second) * 1_000_000) for n in range(RATE) for second in range(seconds)},
                begin,
                seconds,
                None,
            )
        )
    return rows


async def _shell_rate(
    server: PostgresServer,
    what: str,
    triggers: dict[str, list[dict[str, Any]]],
    expected: set[tuple[str, int]],
    begin: float,
    seconds: int,
    bar: float | None,
) -> Row:
    async with named_pipe() as (pipe, starts):
        documents = [manifest(name, some, tell(pipe)) for name, some in triggers.items()]
        async with Program(documents, server.new_database()) as program:
            await asyncio.sleep(begin - time.time())
            cpu = Cpu([program.pid], server)
            await asyncio.sleep(seconds)
            used, server_used = cpu.used()
            await asyncio.sleep(2.0)
        judged = lateness(starts, expected)
    return Row(
        what,
        "none missed or doubled" + ("" if bar is None else f", p99 < {bar:g} ms"),
        str(judged),
        judged.whole and (bar is None or judged.late["p99"] < bar),
        details=judged.details() | cores(used, server_used, seconds),
    )


async def shell_burst(options: Options) -> list[Row]:
    """A thousand shell jobs due in the same second."""
    last, judged = [], []
    with postgres() as server:
        for _ in range(options.runs(3)):
            async with named_pipe() as (pipe, starts):
                due = math.ceil(time.time()) + 10.0
                documents = [manifest(f"job-{n}", at(due), tell(pipe)) for n in range(BURST)]
                async with Program(documents, server.new_database()):
                    await asyncio.sleep(due - time.time() + 5.0)
                one = lateness(starts, {(f"job-{n}", round(due * 1e6)) for n in range(BURST)})
                last.append(one.late["max"])
                judged.append(one)
    return [
        Row(
            f"run -f, {BURST:,} shell jobs due at once: last start",
            "< 1.5 s",
            f"{median(last) / 1000:.2f} s",
            median(last) < 1500 and all(result.whole for result in judged),
            details={"runs": [result.details() for result in judged]},
        )
    ]


async def curl_burst(options: Options) -> list[Row]:
    """A thousand HTTP jobs due in the same second, to a server on this machine."""
    last, arrived = [], []
    with postgres() as server:
        async with Worker(http_server) as web_server:
            port = await web_server.answer()
            for _ in range(options.runs(3)):
                due = math.ceil(time.time()) + 10.0
                documents = [
                    manifest(f"job-{n}", at(due), {"curl": {"url": f"http://127.0.0.1:{port}/job-{n}"}})
                    for n in range(BURST)
                ]
                async with Program(documents, server.new_database()):
                    await asyncio.sleep(due - time.time() + 4.0)
                web_server.tell()
                arrivals: list[tuple[str, float]] = await web_server.answer()
                arrived.append(len({path for path, _ in arrivals}) if len(arrivals) == BURST else -1)
                last.append(max((moment for _, moment in arrivals), default=math.inf) - due)
    return [
        Row(
            f"run -f, {BURST:,} curl jobs due at once: last request",
            "< 0.8 s",
            f"{median(last):.2f} s",
            median(last) < 0.8 and all(count == BURST for count in arrived),
            details={"last s": last, "requests": arrived},
        )
    ]


async def http_server(line: Line) -> None:
    """Serve 200 for every request. Answer each message with the requests since the last one and their times."""
    arrivals: list[tuple[str, float]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        arrivals.append((request.path, time.time()))
        return web.Response(text="ok")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    line.send(runner.addresses[0][1])
    try:
        while True:
            await line.receive()
            line.send(arrivals[:])
            arrivals.clear()
    finally:
        await runner.cleanup()


async def memory_print(options: Options) -> list[Row]:
    """A thousand print jobs, all due in the same instant of each second, with the memory store."""
    jobs, seconds = 1000, 10 if options.quick else 30
    every = [{"every": "1s", "anchor": instant(math.floor(time.time()) - 60).isoformat()}]
    documents = [
        manifest(f"job-{n}", every, {"custom": {"kind": "print", "params": {"text": "x"}}}) for n in range(jobs)
    ]
    async with Program(documents, "memory:") as program:
        async with asyncio.timeout(60):
            while len(program.lines) < 2 * jobs:  # noqa: ASYNC110  # another process brings it about
                await asyncio.sleep(0.1)
        begin = math.ceil(time.time()) + 1
        await asyncio.sleep(begin - time.time())
        cpu = Cpu([program.pid])
        await asyncio.sleep(seconds)
        used, _ = cpu.used()
        await asyncio.sleep(1.0)
    starts: list[Start] = []
    written: list[Start] = []
    for came, line in program.lines:
        run = json.loads(line)
        slot = micros(run["slot"])
        starts.append((run["name"], slot, micros(run["started"]) / 1e6))
        written.append((run["name"], slot, came))
    expected = {(f"job-{n}", (begin + second) * 1_000_000) for n in range(jobs) for second in range(seconds)}
    judged, ended = lateness(starts, expected), lateness(written, expected)
    share = 100 * used / seconds
    return [
        Row(
            f"run -f, memory store, {jobs:,} print jobs every 1 s",
            "p99 < 50 ms, < 1 core",
            f"{judged}, {share:.0f} % of a core; its line is out after p99 {ended.late['p99']:.0f} ms",
            judged.late["p99"] < 50 and share < 100 and judged.whole,
            details=judged.details() | {"out after ms": ended.late, "CPU %": round(share, 1)},
        )
    ]
