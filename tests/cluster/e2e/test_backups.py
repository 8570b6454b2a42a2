"""Restores from a backup, of etcd while the operator works, and of the store while it does not."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.resource_names import GROUP
from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import PATIENCE, OperatorProcess, curl, manifest, until, until_event
from tests.cluster.harness import SCHEDULED_JOBS, ControlPlane

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster
    from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.cluster, pytest.mark.postgres, pytest.mark.slow]


async def gone_from_store(dsn: str, slug: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(PATIENCE):
            query = "SELECT count(*) FROM scheduledjob.schedule WHERE slug = $1"
            while await connection.fetchval(query, slug):  # noqa: ASYNC110  # nothing could set an Event
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def test_an_etcd_that_was_restored_counts(own_postgres: PostgresServer, sink: Sink, tmp_path: Path) -> None:
    """Edits apply although the store has later generations, and objects that were deleted since run again."""
    dsn = own_postgres.new_database()
    async with ControlPlane() as cluster:
        await install(cluster)
        data = cluster.directory / "etcd" / "data"
        flags = ["--namespaces=default", f"--store={dsn}", "--inline-http-allow=127.0.0.1", "--sweep-interval=5s"]
        async with OperatorProcess(cluster.kubeconfig, "default", *flags) as operator:
            for name in ("edited", "deleted"):
                await cluster.apply(manifest(name, "every: 1s", curl(f"{sink.url}/first")), "-n", "default")
            await sink.reached(lambda calls: {call.name for call in calls} == {"edited", "deleted"})

            await cluster.apiserver.terminate()
            await cluster.etcd.terminate()
            shutil.copytree(data, tmp_path / "backup")
            await cluster.etcd.start()
            await cluster.apiserver.start()
            await operator.ready()

            for version in ("second", "third"):
                await cluster.apply(manifest("edited", "every: 1s", curl(f"{sink.url}/{version}")), "-n", "default")
            await sink.reached(lambda calls: any(call.path == "/third" for call in calls))
            async with cluster.client() as api:
                await api.delete(f"{SCHEDULED_JOBS}/namespaces/default/scheduledjobs/deleted")
            await gone_from_store(dsn, "default/deleted")
            since = len(sink.calls)

            await cluster.apiserver.terminate()
            await cluster.etcd.terminate()
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "backup", data)
            await cluster.etcd.start()
            await cluster.apiserver.start()
            async with cluster.client() as api:
                for name in ("edited", "deleted"):
                    await until_event(api, "default", name, "Restored")
            await sink.reached(lambda calls: any(call.name == "deleted" for call in calls[since:]))
            await cluster.apply(manifest("edited", "every: 1s", curl(f"{sink.url}/after")), "-n", "default")
            await sink.reached(lambda calls: any(call.path == "/after" for call in calls))
            await operator.stop()


async def test_a_store_that_was_restored_runs_nothing_again(
    sjobs: Cluster, kubeconfig: Path, api: ApiClient, namespace: str, own_postgres: PostgresServer, sink: Sink
) -> None:
    dsn = own_postgres.new_database()
    flags = [f"--namespaces={namespace}", f"--store={dsn}", "--inline-http-allow=127.0.0.1"]
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        await sjobs.apply(manifest("one-shot", "after: 20s", curl(sink.url)), "-n", namespace)
        await sjobs.apply(manifest("by-hand", "every: 30d", curl(sink.url)), "-n", namespace)
        for name in ("one-shot", "by-hand"):
            await until(api, namespace, name, lambda body: "nextRun" in body.get("status", {}))
        await execute(dsn, "CREATE TABLE backup AS SELECT * FROM scheduledjob.schedule")
        path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/by-hand"
        await api.patch(path, {"metadata": {"annotations": {f"{GROUP}/run-now": "payroll"}}})
        for name in ("one-shot", "by-hand"):
            await until(api, namespace, name, lambda body: body["status"]["counters"].get("succeeded") == 1)
        await operator.stop()
        await execute(
            dsn,
            "TRUNCATE scheduledjob.schedule, scheduledjob.history",
            "INSERT INTO scheduledjob.schedule OVERRIDING SYSTEM VALUE SELECT * FROM backup",
            "UPDATE scheduledjob.schedule SET owner = NULL, wake_at = scheduledjob.clock()",
        )
        before = len(sink.calls)
        await operator.start()
        await operator.ready()
        for name in ("one-shot", "by-hand"):
            await until_event(api, namespace, name, "Restored")
        await sjobs.apply(manifest("later", "after: 1s", curl(sink.url)), "-n", namespace)
        await sink.reached(lambda calls: any(call.name == "later" for call in calls))
        assert {call.name for call in sink.calls[before:]} == {"later"}


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
