"""The life of a release while jobs run: memory, Postgres, three replicas, a deleted Pod, a rollback, the uninstall.

It spans some thousand slots. Each job has a start and an end, so all slots are known beforehand, and each run calls an
HTTP server on this machine.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.e2e.operators import Sink, curl, manifest, read, status_of, until
from tests.cluster.e2e.records import Records, anchored, bounded, create, seconds_from_now, slot_of, slots
from tests.cluster.harness import BUSYBOX_IMAGE
from tests.e2e.release import HOME, NAME, PODS, TEAM
from tests.support.absent import or_do_without
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.e2e.operators import Call
    from tests.cluster.harness import ApiClient
    from tests.e2e.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.node, pytest.mark.postgres]

JOBS = [f"counted-{number}" for number in range(20)]
EVERY = 2
SLOTS = int(os.environ.get("E2E_SLOTS", "55"))
"""Slots per job, enough for the whole test."""
CATCH_UP = "  concurrencyPolicy: Allow\n  misfire: {catchUp: All, maxCatchUp: 1000}\n"
CONFINED = f"{{container: {{image: {BUSYBOX_IMAGE}, command: [sh, -c, 'id -u']}}}}"
NOT_ROOT = "  execution: {pod: {template: {spec: {securityContext: {runAsUser: 65534}}}}}\n"


@contextmanager
def postgres_for_pods() -> Iterator[PostgresServer]:
    """A Postgres on loopback that also accepts connections from the node's Pods."""
    with or_do_without(PostgresServer(durable=False), "a Postgres") as server:
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.0.0.0/8 password\n")
        os.kill(server.pid, signal.SIGHUP)
        yield server


async def give_password(api: ApiClient, dsn: str) -> None:
    secret = {"metadata": {"name": "postgres"}, "stringData": {"password": urlsplit(dsn).password}}
    await api.post(f"/api/v1/namespaces/{HOME}/secrets", secret)


def on_postgres(dsn: str, host: str, replicas: int) -> str:
    """Return the chart's values for a database, as a user would write them."""
    address = urlsplit(dsn)
    return f"""
replicaCount: {replicas}
store:
  type: postgresql
  postgresql:
    host: {host}
    port: {address.port}
    database: {address.path.lstrip("/")}
    user: postgres
    passwordSecret: {{name: postgres}}
settings: {{podSecurity: restricted}}
migration: {{hook: true}}
"""


async def at_its_end(api: ApiClient, name: str) -> dict[str, int]:
    """Return the counters of a job once all its slots have been decided."""

    def over(body: dict[str, Any]) -> bool:
        status = status_of(body)
        return not status.get("activeCount") and sum(ends(status).values()) >= SLOTS

    return ends(status_of(await until(api, TEAM, name, over, f"the end of {name}")))


def ends(status: dict[str, Any]) -> dict[str, int]:
    """Return the number of runs and slots by outcome, without zeros."""
    counters: dict[str, int] = status.get("counters", {})
    return {how: count for how, count in counters.items() if count and how != "started"}


def decided(calls: list[Call]) -> int:
    return len({(call.name, call.slot) for call in calls})


async def test_a_second_install_does_not_wait_for_a_lease_that_nobody_released(release: Release) -> None:
    """An uninstall removes the operator's permissions first, so the new operator relies on the kubelet's report."""
    cluster = release.node.cluster
    async with release.diagnosed(), cluster.client() as api:
        await release.install()
        await release.namespace(TEAM)
        await create(api, TEAM, [manifest("a", "every: 2s", "{custom: {kind: print, params: {text: hello}}}")])
        await until(api, TEAM, "a", lambda one: status_of(one).get("counters", {}).get("succeeded"), "a run")
        (old,) = await release.pods(api)
        await release.uninstall()
        await cluster.kubectl("wait", "--for=delete", f"pod/{old}", "-n", HOME, "--timeout=80s")
        lease = await api.get(f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/{NAME}")
        assert lease["spec"]["holderIdentity"].startswith(f"{old}/"), "it was let go of: nothing is tested here"
        before = status_of(await read(api, TEAM, "a"))["counters"]["succeeded"]
        await release.install(again=True)
        (new,) = await release.pods(api)
        log = (await cluster.kubectl("logs", "-n", HOME, new)).stdout
        assert "the Lease is free: its holder's Pod has ended" in log
        await until(api, TEAM, "a", lambda one: status_of(one)["counters"]["succeeded"] > before, "another run")


async def test_a_thousand_runs_through_upgrades_and_a_rollback(release: Release) -> None:
    node, cluster = release.node, release.node.cluster
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_for_pods())
        sink = await stack.enter_async_context(Sink())
        api = await stack.enter_async_context(cluster.client())
        await stack.enter_async_context(release.diagnosed())
        dsn = server.new_database()
        url = sink.url.replace("127.0.0.1", node.host)
        await release.install()
        await release.namespace(TEAM)
        begin = seconds_from_now(5)
        more = CATCH_UP + bounded(begin, EVERY, SLOTS)
        await create(api, TEAM, [manifest(name, anchored(begin, EVERY), curl(url), more) for name in JOBS])
        await sink.reached(lambda calls: decided(calls) >= 5 * len(JOBS))

        await give_password(api, dsn)
        await release.upgrade(on_postgres(dsn, node.host, 1))
        assert "Job completed" in (await cluster.kubectl("events", "-n", HOME, "--for", f"job/{NAME}-migrate")).stdout
        (alone,) = await release.pods(api)
        before = decided(sink.calls)
        await sink.reached(lambda calls: decided(calls) >= before + 2 * len(JOBS))

        await release.upgrade(on_postgres(dsn, node.host, 3))
        three = await release.pods(api)
        assert len(three) == 3
        victim = next(name for name in three if name != alone)
        await api.delete(f"{PODS}/{victim}")
        await cluster.kubectl("wait", "--for=delete", f"pod/{victim}", "-n", HOME, "--timeout=60s")
        before = decided(sink.calls)
        await sink.reached(lambda calls: decided(calls) >= before + 2 * len(JOBS))

        await release.rollback(2)
        assert decided(sink.calls) < SLOTS * len(JOBS), "all of it has to happen while jobs run: E2E_SLOTS=100"
        assert len(await release.pods(api)) == 1
        counters = {name: await at_its_end(api, name) for name in JOBS}
        async with Records(dsn, TEAM) as records:
            ended = await records.ended()

        await create(api, TEAM, [manifest("confined", "after: 1s", CONFINED, NOT_ROOT)])
        confined = await until(api, TEAM, "confined", lambda one: status_of(one).get("lastOutcome"), "its end")
        assert status_of(confined)["lastOutcome"] == "Succeeded", status_of(confined)

        await release.uninstall()
        assert await release.pods(api) == []
        await cluster.kubectl("delete", "scheduledjobs", "--all", "-n", TEAM, "--timeout=60s")
        for namespace in (TEAM, HOME):
            await cluster.kubectl("delete", "namespace", namespace, "--timeout=80s")
        await cluster.kubectl("delete", "customresourcedefinition", "scheduledjobs.scheduledjobs.dev", "--timeout=60s")

    assert all(counted == {"succeeded": SLOTS} for counted in counters.values()), counters
    wanted = slots(begin, EVERY, SLOTS)
    called = {name: Counter(slot_of(call) for call in sink.of(name)) for name in JOBS}
    recorded = Counter((run.name, run.slot) for run in ended)
    assert set(recorded.values()) == {1}
    assert {run.outcome for run in ended} == {"Succeeded"}
    assert len({run.replica for run in ended}) >= 4
    for name in JOBS:
        assert sorted(called[name]) == wanted
        # Runs that ended before there was a database are in none; all later runs are in it.
        known = sorted(slot for job, slot in recorded if job == name)
        assert known == wanted[-len(known) :]
    assert len(recorded) < len(wanted) * len(JOBS)
    # A run is repeated only if its replica was stopped before it could report the first attempt.
    assert set(Counter((call.run_id, call.attempt) for call in sink.calls).values()) == {1}
