"""The reflector selects Pods by labels, and stays correct whatever breaks."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.paths import pods
from scheduledjob.kube.watch import reflector as module
from scheduledjob.kube.watch.reflector import Reflector
from tests.cluster.erring_line import ErringLine, error_status
from tests.cluster.line import Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.cluster.harness import Cluster, ControlPlane
    from tests.cluster.harness.client import ApiClient

pytestmark = pytest.mark.cluster

PATIENCE = 60.0
OURS = "made-by=us"


class Kept(NamedTuple):
    name: str
    labels: dict[str, str]


def keep(body: dict[str, Any]) -> Kept:
    return Kept(body["metadata"]["name"], body["metadata"]["labels"])


def a_pod(name: str, made_by: str = "us") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"made-by": made_by}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "job", "image": "localhost/none"}]},
    }


class RunningReflector:
    def __init__(self, api: Api, paths: Sequence[str]) -> None:
        self.events: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.reflector = Reflector(api, paths, OURS, self._on_event, keep=keep)

    def _on_event(self, kept: Kept, gone: bool) -> None:
        self.events.put_nowait((kept.name, gone))

    @property
    def names(self) -> list[str]:
        return sorted(kept.name for kept in self.reflector)

    async def connected(self, expected: bool = True) -> None:
        while (self.reflector.connected_since is not None) != expected:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reflecting(kubeconfig: Path, *paths: str) -> AsyncIterator[RunningReflector]:
    """Run a reflector for at most PATIENCE seconds."""
    async with Api.from_config(str(kubeconfig)) as api, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        made = RunningReflector(api, paths)
        task = group.create_task(made.reflector.run())
        yield made
        task.cancel()


async def force_delete(api: ApiClient, path: str) -> None:
    await api.delete(path, gracePeriodSeconds=0)


async def test_only_the_selected_pods_are_reflected(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with own_cluster.client() as api:
        await api.post(path, a_pod("before"))
        async with reflecting(own_cluster.kubeconfig, path) as running:
            assert await running.events.get() == ("before", False)
            await running.connected()
            await api.post(path, a_pod("other", "them"))
            made = await api.post(path, a_pod("one"))
            assert await running.events.get() == ("one", False)
            assert running.reflector.get(made["metadata"]["uid"]) == Kept("one", {"made-by": "us"})
            await api.patch(f"{path}/one", {"metadata": {"annotations": {"not": "kept"}}})
            await force_delete(api, f"{path}/one")
            assert await running.events.get() == ("one", True)
            assert (running.names, len(running.reflector), running.reflector.errors) == (["before"], 1, {})


async def test_a_broken_watch_continues_where_it_was(own_cluster: ControlPlane, tmp_path: Path) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with (
        Line(own_cluster, tmp_path) as line,
        own_cluster.client() as api,
        reflecting(line.kubeconfig, path) as running,
    ):
        await running.connected()
        line.cut()
        await running.connected(False)
        assert "can't be reached" in running.reflector.errors[path]
        await api.post(path, a_pod("made-and-gone"))
        await force_delete(api, f"{path}/made-and-gone")
        line.mend()
        assert [await running.events.get(), await running.events.get()] == [
            ("made-and-gone", False),
            ("made-and-gone", True),
        ]
        await running.connected()
        assert not running.reflector.errors


async def test_after_410_the_new_list_shows_what_is_gone(own_cluster: ControlPlane, tmp_path: Path) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with (
        Line(own_cluster, tmp_path) as line,
        own_cluster.client() as api,
        reflecting(line.kubeconfig, path) as running,
    ):
        for name in ("stays", "goes", "is-replaced"):
            await api.post(path, a_pod(name))
            await running.events.get()
        await running.connected()
        line.cut()
        await running.connected(False)
        await force_delete(api, f"{path}/goes")
        await force_delete(api, f"{path}/is-replaced")
        await api.post(path, a_pod("is-replaced"))
        await api.post(path, a_pod("comes"))
        await own_cluster.compact_etcd()
        await own_cluster.apiserver.restart()
        line.mend()
        events = {await running.events.get() for _ in range(4)}
        assert events == {("comes", False), ("is-replaced", False), ("goes", True), ("is-replaced", True)}
        await running.connected()
        assert running.names == ["comes", "is-replaced", "stays"]


@pytest.mark.parametrize(
    ("code", "times"), [(403, 1), (429, 1), (500, 1), (504, 1), (None, 1), (500, module.MAX_RESUMES + 1)]
)
async def test_an_error_of_the_watch_hides_nothing(
    code: int | None, times: int, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    path = pods(namespace)
    async with (
        ErringLine(cluster, tmp_path) as line,
        cluster.client() as api,
        reflecting(line.kubeconfig, path) as running,
    ):
        for name in ("stays", "goes"):
            await api.post(path, a_pod(name))
            await running.events.get()
        await running.connected()
        line.withhold_events("pods")
        await force_delete(api, f"{path}/goes")
        await api.post(path, a_pod("comes"))
        await line.fail("pods", error_status(code), times)
        assert {await running.events.get() for _ in range(2)} == {("comes", False), ("goes", True)}
        while running.reflector.restarts < times:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)
        await running.connected()
        assert (running.names, running.reflector.errors) == (["comes", "stays"], {})


async def test_nothing_is_reported_twice_after_an_outage(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with own_cluster.client() as api, reflecting(own_cluster.kubeconfig, path) as running:
        await api.post(path, a_pod("stays"))
        await running.events.get()
        own_cluster.apiserver.kill()
        await running.connected(False)
        await own_cluster.apiserver.start()
        await running.connected()
        await api.post(path, a_pod("comes"))
        assert await running.events.get() == ("comes", False), "nothing was reported twice"


async def test_a_dead_connection_is_noticed(
    own_cluster: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    monkeypatch.setattr(module, "SILENCE_SECONDS", 1.0)
    async with (
        Line(own_cluster, tmp_path) as line,
        own_cluster.client() as api,
        reflecting(line.kubeconfig, path) as running,
    ):
        await running.connected()
        line.hold()
        await api.post(path, a_pod("meanwhile"))
        await running.connected(False)
        line.mend()
        assert await running.events.get() == ("meanwhile", False)


async def test_a_forbidden_namespace_is_named_and_the_others_are_reflected(own_cluster: ControlPlane) -> None:
    ours, forbidden = await own_cluster.new_namespace(), await own_cluster.new_namespace()
    await own_cluster.kubectl("create", "role", "reader", "--verb=list,watch", "--resource=pods", "-n", ours)
    await own_cluster.kubectl("create", "rolebinding", "reader", "--role=reader", "--user=reader", "-n", ours)
    kubeconfig = own_cluster.kubeconfig_for("reader")
    async with own_cluster.client() as api, reflecting(kubeconfig, pods(ours), pods(forbidden)) as running:
        await api.post(pods(ours), a_pod("one"))
        assert await running.events.get() == ("one", False)
        while not running.reflector.errors:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)
        assert list(running.reflector.errors) == [pods(forbidden)]
        assert 'User "reader" cannot list resource "pods"' in running.reflector.errors[pods(forbidden)]
        assert running.reflector.connected_since is None
