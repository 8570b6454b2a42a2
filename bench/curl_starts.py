"""How fast HTTP attempts that are due in one instant reach a server.

A small server in a separate process records the arrival of each request. The executor gets all attempts at the same
time, as from the engine. Prints one JSON object: milliseconds from the instant to the arrival of the last request and
to the end of the last attempt, and the executor's CPU time per attempt in microseconds.

    python -m bench.curl_starts [ATTEMPTS] [--uvloop]
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from typing import TYPE_CHECKING

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.curl.curl_spec import CurlSpec

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Server(asyncio.Protocol):
    def __init__(self, arrivals: list[float]) -> None:
        self._arrivals = arrivals

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._arrivals.append(time.monotonic())
        self._transport.write(_ANSWER)


def _serve(pipe: Connection) -> None:
    async def serve() -> None:
        arrivals: list[float] = []
        server = await asyncio.get_running_loop().create_server(lambda: _Server(arrivals), "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            pipe.send(arrivals[:])
            arrivals.clear()

    asyncio.run(serve())


async def _burst(executor: CurlExecutor, url: str, count: int) -> tuple[float, float, float, list[Result]]:
    spec = CurlSpec(url)
    attempts = [
        Attempt(f"run-{i}", f"uid-{i}", "team", f"job-{i}", 1_800_000_000_000_000, 1, 1, 0.0, 60.0, spec)
        for i in range(count)
    ]
    cpu = time.process_time()
    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(executor.run(attempt)) for attempt in attempts]
    return begin, time.monotonic() - begin, time.process_time() - cpu, [task.result() for task in tasks]


async def _measure(count: int) -> dict[str, float]:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port = await asyncio.to_thread(ours.recv)
    executor = CurlExecutor()
    await executor.start()
    begin, took, cpu, results = await _burst(executor, f"http://127.0.0.1:{port}/", count)
    await executor.stop()
    ours.send(True)
    arrivals: list[float] = ours.recv()
    ours.send(False)
    server.join()
    failed = [result.reason for result in results if not result.ok]
    if failed or len(arrivals) != count:
        sys.exit(f"{len(failed)} attempts failed, {len(arrivals)} of {count} requests arrived: {failed[:3]}")
    return {
        "attempts": count,
        "last_start_ms": round((max(arrivals) - begin) * 1000, 1),
        "last_end_ms": round(took * 1000, 1),
        "cpu_us_each": round(cpu / count * 1e6, 1),
    }


def main() -> None:
    count = next((int(argument) for argument in sys.argv[1:] if argument.isdigit()), 1000)
    if "--uvloop" in sys.argv:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(_measure(count))))
    else:
        print(json.dumps(asyncio.run(_measure(count))))


if __name__ == "__main__":
    main()
