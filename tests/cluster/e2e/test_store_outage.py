"""The store goes away while the API server stays: nothing runs twice, and what is missed follows the misfire rule."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import pytest

from scheduledjob.domain.time.instants import SECOND, rfc3339
from tests.cluster.e2e.operators import PATIENCE, OperatorProcess, Sink, curl, manifest, until
from tests.cluster.e2e.records import Records, anchored, bounded, came_at, create, seconds_from_now, slot_of, slots

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import ApiClient
    from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.cluster, pytest.mark.postgres, pytest.mark.slow]

OUTAGE = 20.0
"""Seconds: longer than a lease, so that what ran when it began may not be believed."""
COUNT = 38
"""Slots of each job, a second apart."""
LATE = 9
"""Seconds after the first slot: the only slot of some jobs, in the outage and more than 10 s before its end."""
RULES = {"skip": ("Skip", 1), "last": ("Last", 1), "all": ("All, maxCatchUp: 5", 5)}
"""And how many of the slots that were missed are run."""


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_slots_of_an_outage_follow_the_misfire_rule(
    how: str, kubeconfig: Path, api: ApiClient, namespace: str, own_postgres: PostgresServer, sink: Sink
) -> None:
    dsn = own_postgres.new_database()
    names = [f"{rule}-{number}" for rule in RULES for number in range(3)]
    late = [f"{rule}-late" for rule in RULES]
    flags = [f"--namespaces={namespace}", f"--store={dsn}", "--inline-http-allow=127.0.0.1"]
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        begin = seconds_from_now(5)
        jobs = [_job(name, anchored(begin, 1), sink, bounded(begin, 1, COUNT)) for name in names]
        instant = rfc3339(slots(begin, 1, COUNT)[LATE])
        await create(api, namespace, [*jobs, *(_job(name, f'at: "{instant}"', sink) for name in late)])
        await sink.reached(lambda calls: len(calls) >= 4 * len(names))
        if how == "killed":
            own_postgres.kill()
            await _outage(operator)
            await asyncio.to_thread(own_postgres.start)
        else:
            with own_postgres.pause():
                await _outage(operator)
        await operator.ready()
        async with Records(dsn, namespace) as records:
            states = await records.complete(names + late)
            runs = await records.ended()
        for name in names:
            body = await until(api, namespace, name, lambda one: "nextRunTime" not in one["status"])
            assert body["status"]["counters"]["succeeded"] == states[name].succeeded

    # Each run is recorded once; what was called twice was another attempt, and what was recorded was the last one.
    calls = Counter((call.run_id, call.attempt) for call in sink.calls)
    assert set(calls.values()) == {1}
    last = {run.run_id: run.attempt for run in runs}
    assert all(call.attempt <= last[call.run_id] for call in sink.calls)
    # What ended while the store was away is written before it could be begun again. But where slots run side by side it
    # may be the beginning of a run that was being written then, and a paused server carries out a claim when it goes on
    # that it was sent before.
    again = {run.name.partition("-")[0] for run in runs if run.attempt > 1}
    assert again <= {"all"} or how == "paused"
    assert {run.outcome for run in runs} == {"Succeeded"}
    grid = slots(begin, 1, COUNT)
    for name in names:
        state, caught_up = states[name], RULES[name.partition("-")[0]][1]
        ran = [run.slot for run in runs if run.name == name]
        assert state.succeeded == len(ran) == len(set(ran))
        shown = [((run.slot - grid[0]) // SECOND, run.attempt) for run in runs if run.name == name]
        assert len(ran) + state.missed + state.skipped == COUNT, f"{name} ran {shown}, {state}"
        first = max(itertools.pairwise(ran), key=lambda two: two[1] - two[0])[1]
        back = came_at(next(call for call in sink.of(name) if slot_of(call) == first))
        caught = [slot for slot in ran if first <= slot <= back]
        assert caught_up <= len(caught) <= caught_up + 2, f"{name} ran {shown}"  # and those due meanwhile
    assert [states[name].missed for name in late] == [1, 0, 0]


def _job(name: str, trigger: str, sink: Sink, more: str = "") -> str:
    rule, _ = RULES[name.partition("-")[0]]
    # Under Forbid a run whose fate was not known, and that is begun again, would stand in the way of what is caught up.
    policy = "Allow" if rule.startswith("All") else "Forbid"
    more = f"  concurrencyPolicy: {policy}\n  misfire: {{catchUp: {rule}}}\n{more}"
    return manifest(name, trigger, curl(sink.url), more)


async def _outage(operator: OperatorProcess) -> None:
    """Look at the operator for as long as the store is away."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session, asyncio.TaskGroup() as poll_in_flight:
        passing = poll_in_flight.create_task(asyncio.sleep(OUTAGE))  # the length of the outage is the point
        while True:
            status, why = await operator.readiness(session)
            if status == 503:
                break
            await asyncio.sleep(0.1)  # it can only be asked
        assert "store:" in why
        while not passing.done():
            assert (await operator.readiness(session))[0] == 503
            assert (await operator.fetch("/healthz"))[0] == 200
            await asyncio.wait([passing], timeout=1.0)
