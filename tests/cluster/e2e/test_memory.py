"""The operator whose store is its memory: its Lease, its restarts, and the move to Postgres, in the middle of work."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.cluster.e2e.operators import OperatorProcess, curl, manifest, recent, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.e2e.operators import Call, Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

MANY = 100
EVERY = timedelta(seconds=2)
ALL = "  misfire: {catchUp: All, maxCatchUp: 50}\n  concurrencyPolicy: Queue\n  queueDepth: 50"
"""So that each slot runs, however late."""


def operator_of(kubeconfig: Path, namespace: str, store: str = "memory:") -> OperatorProcess:
    flags = [f"--namespaces={namespace}", f"--store={store}", "--inline-http-allow=127.0.0.1", "--status-budget=200"]
    return OperatorProcess(kubeconfig, namespace, *flags)


def lease_path(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/scheduledjob"


async def apply_many(cluster: Cluster, namespace: str, sink: Sink) -> None:
    text = "\n".join(manifest(f"n{number}", "every: 2s", curl(sink.url), ALL) for number in range(MANY))
    await cluster.apply(text, "-n", namespace)


async def all_ran(sink: Sink, slots: int, since: datetime | None = None) -> None:
    """Wait until each has run that many slots after some instant."""
    after = "" if since is None else since.isoformat()

    def enough(calls: list[Call]) -> bool:
        if len(calls) < slots * MANY:
            return False
        seen: defaultdict[str, set[str]] = defaultdict(set)
        for call in calls:
            if call.slot > after:
                seen[call.name].add(call.slot)
        return len(seen) == MANY and all(len(each) >= slots for each in seen.values())

    await sink.reached(enough, "two slots of each")


def by_name(sink: Sink) -> dict[str, dict[datetime, list[int]]]:
    """The attempts that were made of each slot, in the order in which they came."""
    found: defaultdict[str, defaultdict[datetime, list[int]]] = defaultdict(lambda: defaultdict(list))
    for call in sink.calls:
        found[call.name][datetime.fromisoformat(call.slot)].append(call.attempt)
    return {name: dict(slots) for name, slots in found.items()}


def assert_no_gap(ran: dict[str, dict[datetime, list[int]]]) -> None:
    assert len(ran) == MANY
    for name, slots in ran.items():
        first, last = min(slots), max(slots)
        wanted = {first + number * EVERY for number in range((last - first) // EVERY + 1)}
        assert slots.keys() == wanted, f"{name} missed {sorted(wanted - slots.keys())}"


def is_shown_as_started(body: dict[str, Any]) -> bool:
    return any("started" in run for run in body["status"].get("active", ()))


def twice(ran: dict[str, dict[datetime, list[int]]]) -> dict[tuple[str, datetime], list[int]]:
    """The slots of which more than one attempt was made, or one that was not the first."""
    return {(name, slot): made for name, slots in ran.items() for slot, made in slots.items() if made != [1]}


@pytest.mark.slow
async def test_a_restart_in_order_loses_nothing_and_runs_nothing_twice(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink
) -> None:
    async with operator_of(kubeconfig, namespace) as operator:
        await apply_many(sjobs, namespace, sink)
        await all_ran(sink, 1)
        assert await operator.stop() == 0
        assert (await api.get(lease_path(namespace)))["spec"].get("holderIdentity", "") == ""
        restarted = datetime.now(UTC)
        await operator.start()
        await operator.ready()
        await all_ran(sink, 2, restarted)
        ran = by_name(sink)
    assert_no_gap(ran)
    assert twice(ran) == {}


@pytest.mark.slow
async def test_a_restart_after_a_crash_loses_nothing_and_says_what_ran_twice(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink
) -> None:
    async with operator_of(kubeconfig, namespace) as operator:
        await apply_many(sjobs, namespace, sink)
        await all_ran(sink, 1)
        sink.gate.clear()  # so that all run when it dies
        for name in by_name(sink):
            await until(api, namespace, name, is_shown_as_started, "that its run is in status")
        await operator.kill()
        sink.gate.set()
        restarted = datetime.now(UTC)
        await operator.start()
        await operator.ready()
        await all_ran(sink, 2, restarted)
        ran = by_name(sink)
        again = twice(ran)
        body = await until(api, namespace, next(iter(again))[0], recent)
    assert_no_gap(ran)
    assert len(again) >= MANY
    for made in again.values():
        assert made in ([1, 2], [2]), "a second attempt says that it is one, a doubtful one too"
    assert body["status"]["counters"]["failed"] == 0


@pytest.mark.slow
async def test_the_move_to_postgres_loses_nothing_and_runs_nothing_twice(
    sjobs: Cluster, kubeconfig: Path, namespace: str, sink: Sink, postgres_dsn: str
) -> None:
    async with operator_of(kubeconfig, namespace) as before:
        await apply_many(sjobs, namespace, sink)
        await all_ran(sink, 1)
        after = operator_of(kubeconfig, namespace, postgres_dsn)
        await after.start()
        try:
            await after.said("waiting for another operator with a store in memory")
            async with aiohttp.ClientSession() as session:
                status, why = await after.readiness(session)
            assert status == 503
            assert f"{before.pid}" in why
            moved = datetime.now(UTC)
            assert await before.stop() == 0
            await after.ready()
            await all_ran(sink, 2, moved)
            ran = by_name(sink)
        finally:
            await after.stop()
    assert_no_gap(ran)
    assert twice(ran) == {}


@pytest.mark.slow
async def test_one_that_ended_before_the_move_is_believed_once(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink, postgres_dsn: str
) -> None:
    """As a Deployment with the strategy Recreate moves: the old one has ended before the new one begins."""
    async with operator_of(kubeconfig, namespace) as before:
        await apply_many(sjobs, namespace, sink)
        await all_ran(sink, 1)
        assert await before.stop() == 0
        after = operator_of(kubeconfig, namespace, postgres_dsn)
        await after.start()
        try:
            await after.ready()
            await all_ran(sink, 2, datetime.now(UTC))
            ran = by_name(sink)
            async with asyncio.timeout(30):
                while "holderIdentity" in (await api.get(lease_path(namespace)))["spec"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # only a watch would report it
        finally:
            await after.stop()
    assert_no_gap(ran)
    assert twice(ran) == {}


@pytest.mark.slow
async def test_a_second_one_waits_and_one_that_loses_its_lease_ends(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink
) -> None:
    async with operator_of(kubeconfig, namespace) as first:
        second = operator_of(kubeconfig, namespace)
        await second.start()
        await second.said("waiting for another operator with a store in memory")
        await sjobs.apply(manifest("one", "every: 1s", curl(sink.url)), "-n", namespace)
        await sink.reached(lambda calls: len(calls) >= 3)
        assert len({call.slot for call in sink.calls}) == len(sink.calls)
        assert (await second.fetch("/healthz"))[0] == 200
        # The name of a process that is there no more is no reason to wait.
        await first.kill()
        await second.ready()
        before = len(sink.calls)
        await sink.reached(lambda calls: len(calls) >= before + 2)
    lease = await api.get(lease_path(namespace))
    assert f"/{second.pid}." in lease["spec"]["holderIdentity"]
    sink.gate.clear()
    before = len(sink.calls)
    await sink.reached(lambda calls: len(calls) > before)
    await api.patch(lease_path(namespace), {"spec": {"holderIdentity": "somebody-else"}})
    assert await second.ended() == 3
    assert "taken by somebody else" in second.tail(3)
    async with asyncio.timeout(30):
        await sink.reached(lambda _: len(sink.dropped) >= 1, "the end of what it ran")
