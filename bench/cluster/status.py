"""A thousand jobs that run every second: the requests to the API server, and how long status lags behind."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from bench.cluster.world import rfc3339, settled, sleep_until, world
from bench.report import Row
from scheduledjob.domain.schedule.state import State

if TYPE_CHECKING:
    from bench.cluster.world import World
    from bench.common import Options
    from tests.cluster.e2e.operators import OperatorProcess

JOBS = 1000
BUDGET = 20
PATIENCE = 180.0
POLL_SECONDS = 1.0
"""Seconds between two reads of all statuses after the storm."""


async def storm(options: Options) -> list[Row]:
    seconds = 15 if options.quick else 60
    async with world() as some, some.operator() as process:
        begin = math.ceil(time.time()) + 20 + (0 if options.quick else JOBS // BUDGET)
        end = begin + seconds
        spec = {
            "triggers": [{"every": "1s", "anchor": rfc3339(begin)}],
            "startAt": rfc3339(begin),
            "endAt": rfc3339(end),
            "job": {"custom": {"kind": "print", "params": {"text": "x"}}},
        }
        await some.create({f"job-{n}": spec for n in range(JOBS)})
        if not options.quick:
            await settled(process, JOBS)
        await sleep_until(begin + 2)
        before, sent, at = await some.requests("scheduledjobs", "events"), await _requests(process), time.monotonic()
        await sleep_until(end - 1)
        took = time.monotonic() - at
        heard = (await some.requests("scheduledjobs", "events") - before).total() / took
        rate = (await _requests(process) - sent) / took
        states = await _final(some, end)
        true_after = await _all_true(some, states, end)
    runs = sum(state.succeeded for state in states.values())
    expected = JOBS * (seconds + 1)
    return [
        Row(
            f"{JOBS:,} jobs every second for {seconds} s, status budget {BUDGET}/s: requests to the API server",
            "< 25/s",
            f"{rate:.1f}/s",
            rate < 25,
            details={
                "all requests of the operator /s": round(rate, 2),
                "by the API server's count /s": round(heard, 2),
            },
        ),
        Row(
            f"the same {JOBS:,} objects: every status true after the storm",
            "< 60 s",
            f"{true_after:.0f} s; {runs:,} of {expected:,} runs",
            true_after < 60 and runs >= expected * 0.999,
            details={"runs": runs},
        ),
    ]


async def _requests(process: OperatorProcess) -> float:
    return await process.metric("scheduledjob_api_requests_total")


async def _final(some: World, end: float) -> dict[str, State]:
    """Return the state of each row when the last run has ended, by name."""
    slugs = [f"{some.namespace}/job-{n}" for n in range(JOBS)]
    async with some.store() as store, asyncio.timeout(PATIENCE):
        await sleep_until(end + 1)
        while True:
            found = {
                slug.partition("/")[2]: State.decode(row.state)
                for slug, row in zip(slugs, await store.get(slugs), strict=True)
                if row is not None
            }
            if all(state.completed is not None and not state.runs for state in found.values()):
                return found
            await asyncio.sleep(0.5)


async def _all_true(some: World, states: dict[str, State], end: float) -> float:
    """Return the seconds from the end of the storm until every status agrees with the store."""
    async with asyncio.timeout(PATIENCE):
        while True:
            looked = time.time()
            items = await some.api.list(some.scheduled_jobs, limit=500)
            if all(_in_status(item["status"]) == _in_store(states[item["metadata"]["name"]]) for item in items):
                return looked - end
            await asyncio.sleep(POLL_SECONDS)


def _in_status(status: dict[str, object]) -> tuple[object, ...]:
    counters = status.get("counters")
    assert isinstance(counters, dict)
    return counters["started"], counters["succeeded"], counters["failed"], status["nextRun"], status["activeCount"]


def _in_store(state: State) -> tuple[object, ...]:
    return state.started, state.succeeded, state.failed, "completed", 0
