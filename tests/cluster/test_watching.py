"""ScheduledJobs are watched: what is applied arrives, and whatever breaks the watch is mended without help."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.kube.client.access import Access
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


class Watched:
    """A watcher at work, and what came of it."""

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
        """The next that is seen of the object of this name."""
        while True:
            for seen in await self.handover.take():
                if seen.body["metadata"]["name"] == name and accept(seen):
                    return seen

    async def until(self, condition: Callable[[kopf_watch.WatchState], object]) -> None:
        while not condition(self.state):  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)

    async def connected(self) -> None:
        await self.until(lambda state: state.connected_since is not None)


@asynccontextmanager
async def watched(kubeconfig: Path, *namespaces: str, connected: bool = True) -> AsyncIterator[Watched]:
    """Within PATIENCE."""
    made = Watched(kubeconfig, namespaces)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(made.watcher.run())
        if connected:
            await made.connected()
        yield made
        running.cancel()


async def test_what_is_applied_edited_and_deleted_arrives(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as seen:
        made = await api.post(path, a_job("one"))
        first = await seen.next("one")
        assert (first.body, first.deleted) == (made, False)
        await api.patch(f"{path}/one", {"spec": {"suspend": True}})
        assert (await seen.next("one")).body["spec"]["suspend"] is True
        await api.delete(f"{path}/one")
        assert (await seen.next("one", lambda each: each.deleted)).body["metadata"]["uid"] == made["metadata"]["uid"]


async def test_what_was_there_before_arrives_too(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    async with cluster.client() as api:
        for number in range(30):
            await api.post(scheduled_jobs(namespace), a_job(f"n{number}"))
        async with watched(cluster.kubeconfig) as seen:
            names: set[str] = set()
            while len(names) < 30:
                taken = await seen.handover.take()
                names |= {each.body["metadata"]["name"] for each in taken if _is_in(each, namespace)}


async def test_a_user_without_a_name_can_watch(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose uid stands in no file of users."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    await install(cluster)
    monkeypatch.setattr("getpass.getuser", nobody)
    async with watched(cluster.kubeconfig, namespace) as seen:
        assert seen.state.connected_since is not None


def _is_in(seen: WatchEvent, namespace: str) -> bool:
    return bool(seen.body["metadata"]["namespace"] == namespace)


async def test_watching_writes_nothing(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as seen:
        made = await api.post(path, a_job("one"))
        await seen.next("one")
        await api.post(path, a_job("two"))
        await seen.next("two")
        now = await api.get(f"{path}/one")
        assert now == made, "resourceVersion and managedFields too"
        assert await api.list(f"/api/v1/namespaces/{namespace}/events") == []
    assert {verb for verb, _, _ in seen.requests} <= {"get", "list", "watch"}


async def test_other_namespaces_are_not_seen(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    other = await cluster.new_namespace()
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as seen:
        await api.post(scheduled_jobs(other), a_job("elsewhere"))
        await api.post(scheduled_jobs(namespace), a_job("here"))
        [only] = await seen.handover.take()
        assert only.body["metadata"]["name"] == "here"


async def test_two_namespaces_are_both_seen(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    other = await cluster.new_namespace()
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace, other) as seen:
        for each in (namespace, other):
            await api.post(scheduled_jobs(each), a_job("one"))
            assert (await seen.next("one")).body["metadata"]["namespace"] == each


async def test_a_broken_connection_is_mended_and_goes_on(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with Line(cluster, tmp_path) as line, cluster.client() as api, watched(line.kubeconfig, namespace) as seen:
        line.cut()
        await seen.until(lambda state: state.connected_since is None)
        assert "can't be reached" in seen.state.error
        await api.post(path, a_job("meanwhile"))
        line.mend()
        await seen.next("meanwhile")
        await seen.connected()
        assert seen.state.error == ""


async def test_a_dead_connection_is_noticed(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await install(cluster)
    monkeypatch.setattr(kopf_watch, "CLIENT_SECONDS", 1.0)
    path = scheduled_jobs(namespace)
    async with Line(cluster, tmp_path) as line, cluster.client() as api, watched(line.kubeconfig, namespace) as seen:
        line.hold()
        await api.post(path, a_job("meanwhile"))
        before = line.accepted
        while line.accepted == before:  # noqa: ASYNC110  # it has given the old connection up when there is another
            await asyncio.sleep(0.01)
        line.mend()
        await seen.next("meanwhile")


async def test_a_server_that_is_killed_and_comes_back(own_cluster: ControlPlane) -> None:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    async with watched(own_cluster.kubeconfig) as seen:
        own_cluster.apiserver.kill()
        await seen.until(lambda state: state.connected_since is None)
        await own_cluster.apiserver.start()
        async with own_cluster.client() as api:
            await api.post(scheduled_jobs(namespace), a_job("after"))
        await seen.next("after")
        await seen.connected()


async def test_versions_that_are_forgotten_lead_to_a_new_list(own_cluster: ControlPlane, tmp_path: Path) -> None:
    """While the watch was broken one object was made and one deleted, and etcd was compacted: the watch gets 410."""
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    path = scheduled_jobs(namespace)
    async with Line(own_cluster, tmp_path) as line, own_cluster.client() as api, watched(line.kubeconfig) as seen:
        await api.post(path, a_job("stays"))
        await seen.next("stays")
        line.cut()
        await seen.until(lambda state: state.connected_since is None)
        await api.post(path, a_job("made"))
        await api.post(path, a_job("one-more"))
        await own_cluster.compact_etcd()
        await own_cluster.apiserver.restart()
        lists = seen.requests.count(("list", "scheduledjobs", 200))
        line.mend()
        await seen.next("made")
        await seen.connected()
        assert seen.requests.count(("list", "scheduledjobs", 200)) > lists


@pytest.mark.parametrize(("code", "times"), [(403, 1), (429, 1), (500, 1), (504, 1), (None, 1), (500, 4)])
async def test_an_error_of_the_watch_hides_nothing_that_is_there(
    code: int | None, times: int, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """kopf ends by it. What is gone only the sweep can find."""
    await install(cluster)
    path = scheduled_jobs(namespace)
    async with (
        ErringLine(cluster, tmp_path) as line,
        cluster.client() as api,
        watched(line.kubeconfig, namespace) as seen,
    ):
        await api.post(path, a_job("edited"))
        await seen.next("edited")
        line.deafen("scheduledjobs")
        await api.patch(f"{path}/edited", {"spec": {"suspend": True}})
        await api.post(path, a_job("made"))
        await line.fail("scheduledjobs", error_status(code), times)
        suspended: dict[str, object] = {}
        while suspended != {"edited": True, "made": None}:
            for each in await seen.handover.take():
                suspended[each.body["metadata"]["name"]] = each.body["spec"].get("suspend")
        await seen.until(lambda state: state.restarts == times)
        await seen.connected()
        assert seen.state.error == ""


async def test_a_crd_that_comes_goes_and_comes_again(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = scheduled_jobs(namespace)
    async with own_cluster.client() as api, watched(own_cluster.kubeconfig, connected=False) as seen:
        await seen.until(lambda state: "is not installed" in state.error)
        for name in ("first", "second"):
            await own_cluster.apply(CRDS)
            await seen.connected()
            await _made_when_it_can_be(api, path, a_job(name))
            await seen.next(name)
            await own_cluster.kubectl("delete", CRD)
            await seen.next(name, lambda each: each.deleted)
            await seen.until(lambda state: "is not installed" in state.error)
        assert seen.state.restarts == 2


async def _made_when_it_can_be(api: ApiClient, path: str, body: dict[str, Any]) -> None:
    """A CRD that was made anew takes no objects for its first second."""
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


async def test_a_forbidden_namespace_keeps_no_other_from_being_watched(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf_watch, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(kopf_watch, "RECHECK_SECONDS", 0.1)
    await install(own_cluster)
    ours, forbidden = await own_cluster.new_namespace(), await own_cluster.new_namespace()
    kubeconfig = own_cluster.kubeconfig_for("watcher")
    await _grant(own_cluster, ours)
    async with own_cluster.client() as api, watched(kubeconfig, ours, forbidden) as seen:
        assert list(seen.state.refused) == [forbidden]
        assert 'User "watcher" cannot list resource "scheduledjobs"' in seen.state.refused[forbidden]
        await api.post(scheduled_jobs(ours), a_job("one"))
        await seen.next("one")

        await api.post(scheduled_jobs(forbidden), a_job("two"))
        await _grant(own_cluster, forbidden)
        await seen.next("two")
        await seen.connected()
        assert not seen.state.refused

        await own_cluster.kubectl("delete", "rolebinding", "watcher", "-n", forbidden)
        own_cluster.apiserver.kill()  # who watches may go on until the watch ends
        await own_cluster.apiserver.start()
        await seen.until(lambda state: list(state.refused) == [forbidden])
        await seen.connected()
        await api.post(scheduled_jobs(ours), a_job("three"))
        await seen.next("three")


async def _grant(cluster: Cluster, namespace: str) -> None:
    verbs = ("--verb=list,watch", "--resource=scheduledjobs.scheduledjobs.dev", "-n", namespace)
    await cluster.kubectl("create", "role", "watcher", *verbs)
    await cluster.kubectl("create", "rolebinding", "watcher", "--role=watcher", "--user=watcher", "-n", namespace)


async def test_without_any_right_it_says_what_is_missing_and_waits(own_cluster: ControlPlane) -> None:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    kubeconfig = own_cluster.kubeconfig_for("watcher")
    async with watched(kubeconfig, namespace, connected=False) as seen:
        await seen.until(lambda state: "cannot list resource" in state.error)
        await _grant(own_cluster, namespace)
        await seen.connected()


async def test_an_end_of_kopf_for_no_reason_is_a_new_beginning(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of kopf, or of a handler that raises what it should not: the next life sees it all again."""
    await install(cluster)
    path = scheduled_jobs(namespace)
    failures = [SystemExit(3), KeyboardInterrupt()]

    async def failing_put(handover: Handover, body: dict[str, Any], *, deleted: bool) -> None:
        if failures:
            raise failures.pop()
        await original_put(handover, body, deleted=deleted)

    original_put = Handover.put
    monkeypatch.setattr(Handover, "put", failing_put)
    async with cluster.client() as api, watched(cluster.kubeconfig, namespace) as seen:
        await api.post(path, a_job("one"))
        await seen.next("one")
    assert not failures


async def test_it_ends_when_it_is_told_to_whatever_its_state(own_cluster: ControlPlane) -> None:
    async with watched(own_cluster.kubeconfig, connected=False) as seen:
        await seen.until(lambda state: state.error)
    await install(own_cluster)
    async with watched(own_cluster.kubeconfig):
        pass
    async with watched(own_cluster.kubeconfig) as seen:
        own_cluster.apiserver.pause()
    own_cluster.apiserver.resume()
    own_cluster.apiserver.kill()
    async with watched(own_cluster.kubeconfig, connected=False) as seen:
        await seen.until(lambda state: state.error)
