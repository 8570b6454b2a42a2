"""A ScheduledJob from its creation to its deletion, with the store in memory and in Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.e2e.operators import OperatorProcess, condition, curl, manifest, read, until
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(params=["memory", "postgres"])
async def operator(request: pytest.FixtureRequest, kubeconfig: Path, namespace: str) -> AsyncIterator[OperatorProcess]:
    store = "memory:" if request.param == "memory" else request.getfixturevalue("postgres_dsn")
    flags = [f"--namespaces={namespace}", f"--store={store}", "--inline-http-allow=127.0.0.1", "--sweep-interval=5s"]
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        yield operator


async def test_an_applied_job_runs_and_its_status_tells_of_it(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("ping", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len(calls) >= 3)
    body = await until(api, namespace, "ping", lambda one: len((one.get("status") or {}).get("recentRuns") or ()) >= 3)
    slots = [call.slot for call in sink.of("ping")]
    assert len(set(slots)) == len(slots)
    assert condition(body, "Ready")["status"] == "True"
    assert condition(body, "LastRunSucceeded")["status"] == "True"
    assert body["status"]["counters"]["succeeded"] >= 3
    assert body["status"]["lastOutcome"] == "Succeeded"
    assert operator.pid
    shown = await sjobs.kubectl("get", "sjob", "ping", "-n", namespace)
    assert "every 1s" in shown.stdout


async def test_deleting_ends_it_while_it_runs(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    await sjobs.apply(manifest("long", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len(calls) == 1)
    await api.delete(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/long")
    await sink.reached(lambda _: len(sink.dropped) == 1, "the end of the call")
    sink.gate.set()
    await sjobs.apply(manifest("long", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len({call.run_id.rpartition("-")[0] for call in calls}) == 2)
    assert (await read(api, namespace, "long"))["metadata"]["generation"] == 1
