"""The watch of ScheduledJobs reports every change, and recovers from every failure."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.kube.client.access import Access
from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.kube.watch import kopf_watch
from scheduledjob.kube.watch.handover import Handover, WatchEvent
from scheduledjob.kube.watch.kopf_watch import KopfWatcher
from tests.cluster.crd.install import CRDS, install
from tests.cluster.erring_line import ErringLine, error_status
from tests.cluster.line import Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.cluster.harness import ApiClient, Cluster, ControlPlane

pytestmark = pytest.mark.cluster

PATIENCE = 60.0
CRD = "crd/scheduledjobs.scheduledjobs.dev"


def a_job(name: str, command: str = "true") -> dict[str, Any]:
    return {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": name},
        "spec": {"triggers": [{"every": "1h"}], "job": {"shell": {"command": command}}},
    }


class RunningWatcher:
    """A running watcher, and what it reports."""

    def __init__(self, kubeconfig: Path, namespaces: Sequence[str]) -> None:
        self.requests: list[tuple[str, str, int]] = []
        self.handover = Handover()
        self.watcher = KopfWatcher(
            Access(str(kubeconfig)), namespaces, self.handover, on_request=lambda *call: self.requests.append(call[:3])
        )

    @property
    def state(self) -> kopf_watch.WatchState:
        return self.watcher.state

    async def next(self, name: str, accept: Callable[[WatchEvent], bool] = lambda _: True) -> WatchEvent:
        """Return the next event about the object of this name."""
        while True:
            for event in await self.handover.take():
                if event.body["metadata"]["name"] == name and accept(event):
                    return event

    async def until(self, condition: Callable[[kopf_watch.WatchState], object]) -> None:
        while not condition(self.state):  # noqa: ASYNC110  # another thread changes it
            await asyncio.sleep(0.01)

    async def connected(self) -> None:
        await self.until(lambda state: state.connected_since is not None)


@asynccontextmanager
async def watched(kubeconfig: Path, *namespaces: str, connected: bool = True) -> AsyncIterator[RunningWatcher]:
    """Run a watcher for at most PATIENCE seconds."""
    made = RunningWatcher(kubeconfig, namespaces)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        task = group.create_task(made.watcher.run())
        if connected:
            await made.connected()
        yield made
        task.cancel()


async def test_creations_edits_and_deletions_arrive(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as running:
        made = await api.post(path, a_job("one"))
        first = await running.next("one")
        assert (first.body, first.deleted) == (made, False)
        await api.patch(f"{path}/one", {"spec": {"suspend": True}})
        assert (await running.next("one")).body["spec"]["suspend"] is True
        await api.delete(f"{path}/one")
        last = await running.next("one", lambda event: event.deleted)
        assert last.body["metadata"]["uid"] == made["metadata"]["uid"]


async def test_existing_objects_arrive(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    async with cluster.client() as api:
        for number in range(30):
            await api.post(scheduled_jobs(namespace), a_job(f"n{number}"))
        async with watched(cluster.kubeconfig) as running:
            names: set[str] = set()
            while len(names) < 30:
                taken = await running.handover.take()
                names |= {event.body["metadata"]["name"] for event in taken if _is_in(event, namespace)}


async def test_a_user_without_a_name_can_watch(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, the uid may have no entry in /etc/passwd."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    await install(cluster)
    monkeypatch.setattr("getpass.getuser", nobody)
    async with watched(cluster.kubeconfig, namespace) as running:
        assert running.state.connected_since is not None


async def test_an_object_that_is_nested_too_deeply_hides_no_other(cluster: Cluster, namespace: str) -> None:
    """The decoders of Python end at some hundreds of levels, and the API server at 10,000."""
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as running:
        for levels in (900, 5000):
            deep = a_job(f"deep{levels}")
            deep["spec"]["execution"] = {"pod": {"template": {"spec": {"a": "NESTED"}}}}
            await api.post_text(path, json.dumps(deep).replace('"NESTED"', '{"a":' * levels + "1" + "}" * levels))
        await api.post(path, a_job("after"))
        await running.next("after")
        assert running.state.restarts == 0
        async with watched(cluster.kubeconfig, namespace) as listing, Api(Access(str(cluster.kubeconfig))) as ours:
            await listing.next("deep5000")
            sizes = [len(page["items"]) async for page in ours.pages(path)]
        assert sizes == [3]


def _is_in(event: WatchEvent, namespace: str) -> bool:
    return bool(event.body["metadata"]["namespace"] == namespace)


async def test_watching_writes_nothing(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as running:
        made = await api.post(path, a_job("one"))
        await running.next("one")
        await api.post(path, a_job("two"))
        await running.next("two")
        now = await api.get(f"{path}/one")
        assert now == made, "resourceVersion and managedFields too"
        assert await api.list(f"/api/v1/namespaces/{namespace}/events") == []
    assert {verb for verb, _, _ in running.requests} <= {"get", "list", "watch"}


async def test_other_namespaces_are_not_seen(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    other = await cluster.new_namespace()
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as running:
        await api.post(scheduled_jobs(other), a_job("elsewhere"))
        await api.post(scheduled_jobs(namespace), a_job("here"))
        [only] = await running.handover.take()
        assert only.body["metadata"]["name"] == "here"


async def test_two_namespaces_are_both_seen(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    other = await cluster.new_namespace()
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace, other) as running:
        for watched_namespace in (namespace, other):
            await api.post(scheduled_jobs(watched_namespace), a_job("one"))
            assert (await running.next("one")).body["metadata"]["namespace"] == watched_namespace


async def test_a_broken_watch_is_restored(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with Line(cluster, tmp_path) as line, cluster.client() as api, watched(line.kubeconfig, namespace) as running:
        line.cut()
        await running.until(lambda state: state.connected_since is None)
        assert "can't be reached" in running.state.error
        await api.post(path, a_job("meanwhile"))
        line.mend()
        await running.next("meanwhile")
        await running.connected()
        assert running.state.error == ""


async def test_a_dead_connection_is_noticed(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await install(cluster)
    monkeypatch.setattr(kopf_watch, "CLIENT_SECONDS", 1.0)
    path = scheduled_jobs(namespace)
    async with Line(cluster, tmp_path) as line, cluster.client() as api, watched(line.kubeconfig, namespace) as running:
        line.hold()
        await api.post(path, a_job("meanwhile"))
        before = line.accepted
        while line.accepted == before:  # noqa: ASYNC110  # a new connection shows that the old one was given up
            await asyncio.sleep(0.01)
        line.mend()
        await running.next("meanwhile")


async def test_a_watch_survives_a_restart_of_the_server(own_cluster: ControlPlane) -> None:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    async with watched(own_cluster.kubeconfig) as running:
        own_cluster.apiserver.kill()
        await running.until(lambda state: state.connected_since is None)
        await own_cluster.apiserver.start()
        async with own_cluster.client() as api:
            await api.post(scheduled_jobs(namespace), a_job("after"))
        await running.next("after")
        await running.connected()


async def test_an_expired_version_leads_to_a_new_list(own_cluster: ControlPlane, tmp_path: Path) -> None:
    """etcd was compacted while the watch was broken, so the watch gets 410."""
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    path = scheduled_jobs(namespace)
    async with Line(own_cluster, tmp_path) as line, own_cluster.client() as api, watched(line.kubeconfig) as running:
        await api.post(path, a_job("stays"))
        await running.next("stays")
        line.cut()
        await running.until(lambda state: state.connected_since is None)
        await api.post(path, a_job("made"))
        await api.post(path, a_job("one-more"))
        await own_cluster.compact_etcd()
        await own_cluster.apiserver.restart()
        lists = running.requests.count(("list", "scheduledjobs", 200))
        line.mend()
        await running.next("made")
        await running.connected()
        assert running.requests.count(("list", "scheduledjobs", 200)) > lists


@pytest.mark.parametrize(("code", "times"), [(403, 1), (429, 1), (500, 1), (504, 1), (None, 1), (500, 4)])
async def test_an_error_of_the_watch_hides_no_object(
    code: int | None, times: int, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """kopf ends. Only the sweep can find what was deleted meanwhile."""
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with (
        ErringLine(cluster, tmp_path) as line,
        cluster.client() as api,
        watched(line.kubeconfig, namespace) as running,
    ):
        await api.post(path, a_job("edited"))
        await running.next("edited")
        line.withhold_events("scheduledjobs")
        await api.patch(f"{path}/edited", {"spec": {"suspend": True}})
        await api.post(path, a_job("made"))
        await line.fail("scheduledjobs", error_status(code), times)
        suspended: dict[str, object] = {}
        while suspended != {"edited": True, "made": None}:
            for event in await running.handover.take():
                suspended[event.body["metadata"]["name"]] = event.body["spec"].get("suspend")
        await running.until(lambda state: state.restarts == times)
        await running.connected()
        assert running.state.error == ""


async def test_a_crd_can_be_deleted_and_created_again(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = scheduled_jobs(namespace)
    async with own_cluster.client() as api, watched(own_cluster.kubeconfig, connected=False) as running:
        await running.until(lambda state: "is not installed" in state.error)
        for name in ("first", "second"):
            await own_cluster.apply(CRDS)
            await running.connected()
            await _create_when_possible(api, path, a_job(name))
            await running.next(name)
            await own_cluster.kubectl("delete", CRD)
            await running.next(name, lambda event: event.deleted)
            await running.until(lambda state: "is not installed" in state.error)
        assert running.state.restarts == 2


async def _create_when_possible(api: ApiClient, path: str, body: dict[str, Any]) -> None:
    """A new CRD accepts no objects in its first second."""
    from tests.cluster.harness import ApiError

    while True:
        try:
            await api.post(path, body)
        except ApiError as error:
            if error.status not in (404, 429):
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_forbidden_namespace_does_not_affect_others(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf_watch, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(kopf_watch, "RECHECK_SECONDS", 0.1)
    await install(own_cluster)
    ours, forbidden = await own_cluster.new_namespace(), await own_cluster.new_namespace()
    kubeconfig = own_cluster.kubeconfig_for("watcher")
    await _grant(own_cluster, ours)
    async with own_cluster.client() as api, watched(kubeconfig, ours, forbidden) as running:
        assert list(running.state.refused) == [forbidden]
        assert 'User "watcher" cannot list resource "scheduledjobs"' in running.state.refused[forbidden]
        await api.post(scheduled_jobs(ours), a_job("one"))
        await running.next("one")

        await api.post(scheduled_jobs(forbidden), a_job("two"))
        await _grant(own_cluster, forbidden)
        await running.next("two")
        await running.connected()
        assert not running.state.refused

        await own_cluster.kubectl("delete", "rolebinding", "watcher", "-n", forbidden)
        own_cluster.apiserver.kill()  # a watch continues without permission until it ends
        await own_cluster.apiserver.start()
        await running.until(lambda state: list(state.refused) == [forbidden])
        await running.connected()
        await api.post(scheduled_jobs(ours), a_job("three"))
        await running.next("three")


async def _grant(cluster: Cluster, namespace: str) -> None:
    verbs = ("--verb=list,watch", "--resource=scheduledjobs.scheduledjobs.dev", "-n", namespace)
    await cluster.kubectl("create", "role", "watcher", *verbs)
    await cluster.kubectl("create", "rolebinding", "watcher", "--role=watcher", "--user=watcher", "-n", namespace)


async def test_without_permission_it_says_what_is_missing_and_waits(own_cluster: ControlPlane) -> None:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    kubeconfig = own_cluster.kubeconfig_for("watcher")
    async with watched(kubeconfig, namespace, connected=False) as running:
        await running.until(lambda state: "cannot list resource" in state.error)
        await _grant(own_cluster, namespace)
        await running.connected()


async def test_kopf_is_restarted_after_an_unexpected_end(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bug in kopf or in a handler, the next start lists everything again."""
    await install(cluster)
    path = scheduled_jobs(namespace)
    failures = [SystemExit(3), KeyboardInterrupt()]

    async def failing_put(handover: Handover, body: dict[str, Any], *, deleted: bool) -> None:
        if failures:
            raise failures.pop()
        await original_put(handover, body, deleted=deleted)

    original_put = Handover.put
    monkeypatch.setattr(Handover, "put", failing_put)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as running:
        await api.post(path, a_job("one"))
        await running.next("one")
    assert not failures


async def test_the_watcher_can_be_cancelled_in_any_state(own_cluster: ControlPlane) -> None:
    async with watched(own_cluster.kubeconfig, connected=False) as running:
        await running.until(lambda state: state.error)
    await install(own_cluster)
    async with watched(own_cluster.kubeconfig):
        pass
    async with watched(own_cluster.kubeconfig) as running:
        own_cluster.apiserver.pause()
    own_cluster.apiserver.resume()
    own_cluster.apiserver.kill()
    async with watched(own_cluster.kubeconfig, connected=False) as running:
        await running.until(lambda state: state.error)
