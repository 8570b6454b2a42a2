"""Pods are seen by a label selector, and a view of them stays true whatever breaks."""

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


class Reflecting:
    def __init__(self, api: Api, paths: Sequence[str]) -> None:
        self.told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.view = Reflector(api, paths, OURS, self._tell, keep=keep)

    def _tell(self, kept: Kept, gone: bool) -> None:
        self.told.put_nowait((kept.name, gone))

    @property
    def names(self) -> list[str]:
        return sorted(kept.name for kept in self.view)

    async def connected(self, is_so: bool = True) -> None:
        while (self.view.connected_since is not None) != is_so:  # noqa: ASYNC110  # there is no event of it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reflecting(kubeconfig: Path, *paths: str) -> AsyncIterator[Reflecting]:
    """Within PATIENCE."""
    async with Api.from_config(str(kubeconfig)) as api, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        made = Reflecting(api, paths)
        running = group.create_task(made.view.run())
        yield made
        running.cancel()


async def forced(api: ApiClient, path: str) -> None:
    await api.delete(path, gracePeriodSeconds=0)


async def test_only_the_pods_selected_are_seen_from_first_to_last(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with own_cluster.client() as api:
        await api.post(path, a_pod("before"))
        async with reflecting(own_cluster.kubeconfig, path) as seen:
            assert await seen.told.get() == ("before", False)
            await seen.connected()
            await api.post(path, a_pod("other", "them"))
            made = await api.post(path, a_pod("one"))
            assert await seen.told.get() == ("one", False)
            assert seen.view.get(made["metadata"]["uid"]) == Kept("one", {"made-by": "us"})
            await api.patch(f"{path}/one", {"metadata": {"annotations": {"not": "kept"}}})
            await forced(api, f"{path}/one")
            assert await seen.told.get() == ("one", True)
            assert (seen.names, len(seen.view), seen.view.errors) == (["before"], 1, {})


async def test_a_broken_watch_goes_on_where_it_was(own_cluster: ControlPlane, tmp_path: Path) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with (
        Line(own_cluster, tmp_path) as line,
        own_cluster.client() as api,
        reflecting(line.kubeconfig, path) as seen,
    ):
        await seen.connected()
        line.cut()
        await seen.connected(False)
        assert "can't be reached" in seen.view.errors[path]
        await api.post(path, a_pod("made-and-gone"))
        await forced(api, f"{path}/made-and-gone")
        line.mend()
        assert [await seen.told.get(), await seen.told.get()] == [("made-and-gone", False), ("made-and-gone", True)]
        await seen.connected()
        assert not seen.view.errors


async def test_after_410_the_new_list_tells_what_is_gone(own_cluster: ControlPlane, tmp_path: Path) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with (
        Line(own_cluster, tmp_path) as line,
        own_cluster.client() as api,
        reflecting(line.kubeconfig, path) as seen,
    ):
        for name in ("stays", "goes", "is-replaced"):
            await api.post(path, a_pod(name))
            await seen.told.get()
        await seen.connected()
        line.cut()
        await seen.connected(False)
        await forced(api, f"{path}/goes")
        await forced(api, f"{path}/is-replaced")
        await api.post(path, a_pod("is-replaced"))
        await api.post(path, a_pod("comes"))
        await own_cluster.compact_etcd()
        await own_cluster.apiserver.restart()
        line.mend()
        told = {await seen.told.get() for _ in range(4)}
        assert told == {("comes", False), ("is-replaced", False), ("goes", True), ("is-replaced", True)}
        await seen.connected()
        assert seen.names == ["comes", "is-replaced", "stays"]


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
        reflecting(line.kubeconfig, path) as seen,
    ):
        for name in ("stays", "goes"):
            await api.post(path, a_pod(name))
            await seen.told.get()
        await seen.connected()
        line.deafen("pods")
        await forced(api, f"{path}/goes")
        await api.post(path, a_pod("comes"))
        await line.fail("pods", error_status(code), times)
        assert {await seen.told.get() for _ in range(2)} == {("comes", False), ("goes", True)}
        while seen.view.restarts < times:  # noqa: ASYNC110  # there is no event of it
            await asyncio.sleep(0.01)
        await seen.connected()
        assert (seen.names, seen.view.errors) == (["comes", "stays"], {})


async def test_a_server_that_was_away(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    async with own_cluster.client() as api, reflecting(own_cluster.kubeconfig, path) as seen:
        await api.post(path, a_pod("stays"))
        await seen.told.get()
        own_cluster.apiserver.kill()
        await seen.connected(False)
        await own_cluster.apiserver.start()
        await seen.connected()
        await api.post(path, a_pod("comes"))
        assert await seen.told.get() == ("comes", False), "and nothing was told twice"


async def test_a_dead_connection_is_noticed(
    own_cluster: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = await own_cluster.new_namespace()
    path = pods(namespace)
    monkeypatch.setattr(module, "SILENCE_SECONDS", 1.0)
    async with (
        Line(own_cluster, tmp_path) as line,
        own_cluster.client() as api,
        reflecting(line.kubeconfig, path) as seen,
    ):
        await seen.connected()
        line.hold()
        await api.post(path, a_pod("meanwhile"))
        await seen.connected(False)
        line.mend()
        assert await seen.told.get() == ("meanwhile", False)


async def test_a_forbidden_namespace_is_named_and_the_others_are_seen(own_cluster: ControlPlane) -> None:
    ours, forbidden = await own_cluster.new_namespace(), await own_cluster.new_namespace()
    await own_cluster.kubectl("create", "role", "reader", "--verb=list,watch", "--resource=pods", "-n", ours)
    await own_cluster.kubectl("create", "rolebinding", "reader", "--role=reader", "--user=reader", "-n", ours)
    kubeconfig = own_cluster.kubeconfig_for("reader")
    async with own_cluster.client() as api, reflecting(kubeconfig, pods(ours), pods(forbidden)) as seen:
        await api.post(pods(ours), a_pod("one"))
        assert await seen.told.get() == ("one", False)
        while not seen.view.errors:  # noqa: ASYNC110  # there is no event of it
            await asyncio.sleep(0.01)
        assert list(seen.view.errors) == [pods(forbidden)]
        assert 'User "reader" cannot list resource "pods"' in seen.view.errors[pods(forbidden)]
        assert seen.view.connected_since is None
