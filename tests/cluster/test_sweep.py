"""The sweep finds what the watch has missed, and never ends a schedule by mistake, with a real API server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.triggers.once import AtTrigger
from scheduledjob.engine.store import StoreUnavailable
from scheduledjob.engine.stored_row import NewRow, Origin
from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.kube.reconcile.sweep import ScheduleRef, Sweeper, schedule_refs
from scheduledjob.stores.memory.store import MemoryStore
from tests.cluster.crd.install import install

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.harness import Cluster, ControlPlane
    from tests.cluster.harness.client import ApiClient

pytestmark = pytest.mark.cluster

PATIENCE = 60.0


class Schedules:
    """Stands in for the store."""

    def __init__(self, *known: ScheduleRef) -> None:
        self.known = list(known)
        self.tombstoned: list[tuple[str, str]] = []
        self.pages: list[list[str]] = []
        self.locked = True

    async def rows(self) -> list[ScheduleRef]:
        return self.known

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> None:
        self.tombstoned += identities
        self.known = [schedule for schedule in self.known if (schedule.slug, schedule.uid) not in identities]

    async def take_page(self, bodies: list[dict[str, Any]]) -> None:
        self.pages.append([body["metadata"]["name"] for body in bodies])

    async def lock(self) -> bool:
        return self.locked

    def sweeper(self, api: Api, *namespaces: str, every: float = 60.0) -> Sweeper:
        return Sweeper(api, namespaces, self.rows, self.tombstone, on_page=self.take_page, lock=self.lock, every=every)


def a_job(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": name},
        "spec": {"triggers": [{"every": "1h"}], "job": {"shell": {"command": "true"}}},
    }


async def made(api: ApiClient, namespace: str, *names: str) -> list[ScheduleRef]:
    path = scheduled_jobs(namespace)
    bodies = [await api.post(path, a_job(name)) for name in names]
    return [ScheduleRef(f"{namespace}/{body['metadata']['name']}", body["metadata"]["uid"]) for body in bodies]


async def test_a_schedule_ends_when_two_lists_lack_its_object(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    async with cluster.client() as client, Api.from_config(str(cluster.kubeconfig)) as api:
        stays, goes, again = await made(client, namespace, "stays", "goes", "again")
        schedules = Schedules(stays, goes, again)
        sweeper = schedules.sweeper(api, namespace)
        await client.delete(scheduled_jobs(namespace, "goes"))
        await client.delete(scheduled_jobs(namespace, "again"))
        await made(client, namespace, "again")
        assert await sweeper.sweep() == []
        assert await sweeper.sweep() == [goes, again]
        assert schedules.tombstoned == [tuple(goes), tuple(again)]
        assert schedules.known == [stays]
        assert await sweeper.sweep() == []
        assert schedules.pages == 3 * [["again", "stays"]]


async def test_an_object_created_during_the_list_is_not_missing(cluster: Cluster, namespace: str) -> None:
    """The next sweep reads its row before the list that contains its object."""
    await install(cluster)
    schedules = Schedules()
    async with cluster.client() as client, Api.from_config(str(cluster.kubeconfig)) as api:
        await made(client, namespace, "first")

        async def take_page(_: list[dict[str, Any]]) -> None:
            schedules.known += await made(client, namespace, f"late-{len(schedules.known)}")

        sweeper = Sweeper(api, [namespace], schedules.rows, schedules.tombstone, on_page=take_page, lock=schedules.lock)
        for _ in range(4):
            await sweeper.sweep()
    assert not schedules.tombstoned


async def test_without_the_crd_no_object_is_missing(own_cluster: ControlPlane) -> None:
    schedules = Schedules(ScheduleRef("a/one", "uid-1"))
    async with Api.from_config(str(own_cluster.kubeconfig)) as api:
        for namespaces in ((), ("a",)):
            sweeper = schedules.sweeper(api, *namespaces)
            for _ in range(3):
                assert await sweeper.sweep() == []
            assert sweeper.last is not None
            assert list(sweeper.last.errors) == list(namespaces or ("",))
    assert not schedules.tombstoned


async def test_a_forbidden_namespace_loses_no_schedule_and_does_not_affect_others(own_cluster: ControlPlane) -> None:
    await install(own_cluster)
    ours, forbidden, unwatched = [await own_cluster.new_namespace() for _ in range(3)]
    job = "--resource=scheduledjobs.scheduledjobs.dev"
    await own_cluster.kubectl("create", "role", "lister", "--verb=list", job, "-n", ours)
    await own_cluster.kubectl("create", "rolebinding", "lister", "--role=lister", "--user=lister", "-n", ours)
    gone = ScheduleRef(f"{ours}/gone", "uid-1")
    schedules = Schedules(gone, ScheduleRef(f"{forbidden}/gone", "uid-2"), ScheduleRef(f"{unwatched}/gone", "uid-3"))
    async with Api.from_config(str(own_cluster.kubeconfig_for("lister"))) as api:
        sweeper = schedules.sweeper(api, ours, forbidden)
        for _ in range(4):
            await sweeper.sweep()
        everywhere = schedules.sweeper(api)
        for _ in range(4):
            await everywhere.sweep()
    assert schedules.tombstoned == [tuple(gone)]


async def test_an_outage_of_the_server_loses_no_schedule(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await install(own_cluster)
    monkeypatch.setattr("scheduledjob.kube.client.api.FIRST_PAUSE", 0.001)
    schedules = Schedules(ScheduleRef("a/one", "uid-1"))
    async with Api.from_config(str(own_cluster.kubeconfig)) as api:
        sweeper = schedules.sweeper(api)
        await sweeper.sweep()
        own_cluster.apiserver.kill()
        for _ in range(3):
            assert await sweeper.sweep() == []
        assert not schedules.tombstoned
        await own_cluster.apiserver.start()
        assert len(await sweeper.sweep()) == 1


async def test_an_expired_list_is_repeated_and_does_not_count(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    pages = Api.pages
    monkeypatch.setattr(Api, "pages", lambda api, path: pages(api, path, limit=2))
    async with own_cluster.client() as client, Api.from_config(str(own_cluster.kubeconfig)) as api:
        known = await made(client, namespace, "a", "b", "c", "d", "e")
        schedules = Schedules(*known)
        broken = 0

        async def take_page(bodies: list[dict[str, Any]]) -> None:
            """Make the rest of the list expire, except for the last time."""
            nonlocal broken
            if broken < 4 and bodies[0]["metadata"]["name"] == "a":
                broken += 1
                await client.patch(scheduled_jobs(namespace, "a"), {"metadata": {"labels": {"n": str(broken)}}})
                await own_cluster.compact_etcd()
                await own_cluster.apiserver.restart()

        sweeper = Sweeper(api, [], schedules.rows, schedules.tombstone, on_page=take_page, lock=schedules.lock)
        for _ in range(2):
            assert await sweeper.sweep() == []
            assert sweeper.last is not None
            assert "expired" in sweeper.last.errors[""]
            assert not sweeper.last.complete
        assert await sweeper.sweep() == []
        assert sweeper.last is not None
        assert sweeper.last.uids == {schedule.uid for schedule in known}
        assert not schedules.tombstoned


async def test_it_sweeps_at_its_start_and_then_with_the_lock(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    first, second = ScheduleRef(f"{namespace}/first", "uid-1"), ScheduleRef(f"{namespace}/second", "uid-2")
    schedules = Schedules(first)
    lock_calls = asyncio.Semaphore(0)
    failures = [StoreUnavailable("away")]

    async def lock() -> bool:
        lock_calls.release()
        if failures:
            raise failures.pop()
        return schedules.locked

    schedules.lock = lock  # type: ignore[method-assign]  # it counts its calls
    schedules.locked = False
    async with Api.from_config(str(cluster.kubeconfig)) as api, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(schedules.sweeper(api, namespace, every=0.01).run())
        while not schedules.tombstoned:
            await lock_calls.acquire()
        for _ in range(2):  # until the sweep that was running is over
            await lock_calls.acquire()
        schedules.known = [second]
        for _ in range(4):
            await lock_calls.acquire()
        assert schedules.tombstoned == [tuple(first)]
        schedules.locked = True
        while len(schedules.tombstoned) == 1:
            await lock_calls.acquire()
        running.cancel()
    assert schedules.tombstoned == [tuple(first), tuple(second)]


async def test_only_schedules_with_objects_are_swept() -> None:
    store = MemoryStore()
    at = AtTrigger(10**15)

    def row(slug: str, origin: Origin) -> NewRow:
        return NewRow(slug, f"uid-of-{slug}", "job", origin, "", b"", at.at, generation=1)

    await store.put([row(f"ns/n{number:04}", Origin.CLUSTER) for number in range(2500)], replace=False)
    await store.put([row("library", Origin.LIBRARY)], replace=False)
    known = await schedule_refs(store)
    assert len(known) == 2500
    assert known[0] == ScheduleRef("ns/n0000", "uid-of-ns/n0000")
    assert known[0].namespace == "ns"
