"""A thousand inline jobs due in the same second: requests, shell commands, and no-op jobs.

The server records when a request arrives. A shell job is confined to a directory of its own, so it can report its start
only in its output, which history keeps: the time, printed by ``date``, which replaces the shell. The start of a no-op
job is taken from its record; the line in the operator's log is an upper bound.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

from bench.cluster.world import World, rfc3339, settled, sleep_until, world
from bench.common import Options, Worker, median, percentile
from bench.manifests import http_server
from bench.report import Row
from scheduledjob.domain.schedule.state import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.e2e.operators import OperatorProcess

JOBS = 1000
APART = 15
"""Seconds between two slots."""
CREATED = 20.0
"""Seconds from the creation of the first object to the first slot."""
HISTORY = 16
"""Records per read."""


async def burst(options: Options) -> list[Row]:
    slots = 1 if options.quick else 3
    rows = []
    for measure in (_curl, _shell, _no_op):
        flags = ["--inline-http-allow=127.0.0.1", "--inline-shell-namespaces=*", "--accept-unconfined-shell"]
        async with world() as some, some.operator(*flags) as process:
            rows.append(await measure(some, process, options, slots))
    return rows


async def _prepare(
    some: World, process: OperatorProcess, options: Options, slots: int, job: dict[str, Any], why: str
) -> list[float]:
    """Create a thousand objects and return the slots that they share."""
    rest = CREATED if options.quick else CREATED + JOBS / 16
    first = float(math.ceil(time.time() + rest))
    spec = {
        "triggers": [{"every": f"{APART}s", "anchor": rfc3339(first)}],
        "startAt": rfc3339(first),
        "endAt": rfc3339(first + (slots - 1) * APART + 1),
        "job": job,
    }
    await some.create({f"{why}-{n}": spec for n in range(JOBS)})
    if not options.quick:
        await settled(process, JOBS)
    if time.time() > first - 3:
        raise RuntimeError(f"the objects were not ready {time.time() - first:.0f} s before their first slot")
    return [first + n * APART for n in range(slots)]


async def _curl(some: World, process: OperatorProcess, options: Options, slots: int) -> Row:
    async with Worker(http_server) as sink:
        port = await sink.answer()
        job = {"curl": {"url": f"http://127.0.0.1:{port}/"}}
        last, counts = [], []
        for slot in await _prepare(some, process, options, slots, job, "curl"):
            await sleep_until(slot + APART - 4)
            sink.tell()
            arrivals: list[tuple[str, float]] = await sink.answer()
            counts.append(len(arrivals))
            last.append(max((at - slot for _, at in arrivals), default=math.inf))
    return _row("curl jobs due in the same second: last request", "< 0.8 s", last, counts, 0.8)


async def _shell(some: World, process: OperatorProcess, options: Options, slots: int) -> Row:
    job = {"shell": {"command": "exec date +%s.%N"}}
    due = await _prepare(some, process, options, slots, job, "shell")
    await sleep_until(due[-1] + APART - 4)
    late: dict[float, list[float]] = {slot: [] for slot in due}
    for record in await _history(some, "shell"):
        if record.outcome is Outcome.SUCCEEDED:
            late[record.slot / 1e6].append(float(record.output) - record.slot / 1e6)
    return _row(
        "shell jobs due in the same second: last start",
        "< 2 s",
        [max(seconds, default=math.inf) for seconds in late.values()],
        [len(seconds) for seconds in late.values()],
        2.0,
    )


async def _no_op(some: World, process: OperatorProcess, options: Options, slots: int) -> Row:
    job = {"custom": {"kind": "print", "params": {"text": "x"}}}
    due = await _prepare(some, process, options, slots, job, "print")
    await sleep_until(due[-1] + APART - 4)
    late: dict[float, list[float]] = {slot: [] for slot in due}
    for record in await _history(some, "print"):
        assert record.started is not None
        late[record.slot / 1e6].append((record.started - record.slot) / 1e6)
    p99 = [percentile(seconds, 0.99) if seconds else math.inf for seconds in late.values()]
    return _row(
        "jobs that do nothing, due in the same second: start, p99",
        "< 50 ms",
        p99,
        [len(seconds) for seconds in late.values()],
        0.05,
    )


async def _history(some: World, why: str) -> list[Any]:
    found: list[Any] = []
    names = iter([f"{some.namespace}/{why}-{n}" for n in range(JOBS)])

    async with some.store() as store:

        async def read() -> None:
            for slug in names:
                found.extend(await store.history(slug, limit=10))

        async with asyncio.TaskGroup() as group:
            for _ in range(HISTORY):
                group.create_task(read())
    return found


def _row(what: str, bar: str, seconds: Sequence[float], counts: Sequence[int], limit: float) -> Row:
    return Row(
        f"{JOBS:,} inline {what}",
        bar,
        f"median {median(seconds):.3f}, worst {max(seconds):.3f} s"
        + ("" if all(count == JOBS for count in counts) else f"; only {list(counts)} ran"),
        median(seconds) < limit and all(count == JOBS for count in counts),
        details={"late s": [round(lateness, 4) for lateness in seconds], "runs": list(counts)},
    )
