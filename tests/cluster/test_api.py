"""The client with a real API server: errors, long lists, watches, outages, and credentials that change."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scheduledjob.kube.client.access import Access
from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.api_errors import (
    AlreadyExists,
    ApiConflict,
    ApiUnavailable,
    Forbidden,
    Gone,
    Invalid,
    ListExpired,
    NotFound,
    Unauthorized,
)
from tests.cluster.harness.credentials import certificate_user, read_kubeconfig, write_kubeconfig
from tests.cluster.line import Line

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import Cluster, ControlPlane

pytestmark = pytest.mark.cluster

PATIENCE = 60.0


def config_maps(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


def an_object(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"made-by": "test"}}, "data": data}


def api_of(cluster: Cluster) -> Api:
    return Api.from_config(str(cluster.kubeconfig))


async def test_an_object_is_created_read_patched_and_deleted(cluster: Cluster, namespace: str) -> None:
    requests: list[tuple[str, str, int]] = []
    path = config_maps(namespace, "one")
    async with Api.from_config(str(cluster.kubeconfig), on_request=lambda *call: requests.append(call[:3])) as api:
        made = await api.post(config_maps(namespace), an_object("one", a="1"))
        assert made["metadata"]["uid"] == (await api.get(path))["metadata"]["uid"]
        assert (await api.patch(path, {"data": {"b": "ß"}}))["data"] == {"a": "1", "b": "ß"}
        await api.get(config_maps(namespace), {"labelSelector": "made-by=test"})
        await api.delete(path, {"preconditions": {"uid": made["metadata"]["uid"]}})
        with pytest.raises(NotFound, match='configmaps "one" not found'):
            await api.get(path)
    verbs = [("create", 201), ("get", 200), ("patch", 200), ("list", 200), ("delete", 200), ("get", 404)]
    assert requests == [(verb, "configmaps", status) for verb, status in verbs]


async def test_refusals_have_their_own_errors(cluster: Cluster, namespace: str) -> None:
    async with api_of(cluster) as api:
        made = await api.post(config_maps(namespace), an_object("one"))
        with pytest.raises(AlreadyExists) as exists:
            await api.post(config_maps(namespace), an_object("one"))
        assert exists.value.details["name"] == "one"
        with pytest.raises(Invalid) as invalid:
            await api.post(config_maps(namespace), an_object("No Name"))
        assert invalid.value.details["causes"][0]["field"] == "metadata.name"
        await api.patch(config_maps(namespace, "one"), {"data": {"a": "1"}})
        old = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "2"}}
        with pytest.raises(ApiConflict):
            await api.patch(config_maps(namespace, "one"), old)


async def test_a_forbidden_request_has_the_message_of_rbac(cluster: Cluster, namespace: str) -> None:
    async with Api.from_config(str(cluster.kubeconfig_for("nobody-special"))) as api:
        with pytest.raises(Forbidden, match='User "nobody-special" cannot list resource "configmaps"'):
            await api.get(config_maps(namespace))


async def test_a_list_comes_in_pages(cluster: Cluster, namespace: str) -> None:
    async with api_of(cluster) as api:
        for number in range(7):
            await api.post(config_maps(namespace), an_object(f"n{number}"))
        sizes = [len(page["items"]) async for page in api.pages(config_maps(namespace), {"labelSelector": "made-by"})]
        paged = [
            [item["metadata"]["name"] for item in page["items"]]
            async for page in api.pages(config_maps(namespace), {"labelSelector": "made-by"}, limit=3)
        ]
    assert sizes == [7]
    assert paged == [["n0", "n1", "n2"], ["n3", "n4", "n5"], ["n6"]]


async def test_a_list_that_expires_between_its_pages_fails(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    async with api_of(own_cluster) as api:
        for number in range(5):
            await api.post(config_maps(namespace), an_object(f"n{number}"))
        async with aclosing(api.pages(config_maps(namespace), limit=2)) as pages:  # type: ignore[type-var]  # it is a generator
            await anext(pages)
            await forget_versions(own_cluster, api, namespace)
            with pytest.raises(ListExpired, match="expired after 1 pages"):
                await anext(pages)


async def forget_versions(cluster: ControlPlane, api: Api, namespace: str) -> None:
    """Make every earlier resourceVersion expire, in etcd and in the API server."""
    await api.post(config_maps(namespace), an_object("one-more"))
    await cluster.compact_etcd()
    await cluster.apiserver.restart()


async def test_a_watch_starts_at_a_version(cluster: Cluster, namespace: str) -> None:
    opened = asyncio.Event()
    async with api_of(cluster) as api, asyncio.timeout(PATIENCE):
        version = (await api.get(config_maps(namespace)))["metadata"]["resourceVersion"]
        await api.post(config_maps(namespace), an_object("big", a="x" * 500_000))
        await api.delete(config_maps(namespace, "big"))
        watch = api.watch(config_maps(namespace), {"resourceVersion": version}, on_open=opened.set)
        async with aclosing(watch) as events:
            seen = [(await anext(events)) for _ in range(2)]
    assert [event["type"] for event in seen] == ["ADDED", "DELETED"]
    assert len(seen[0]["object"]["data"]["a"]) == 500_000
    assert opened.is_set()


async def test_a_watch_ends_after_its_timeout(cluster: Cluster, namespace: str) -> None:
    async with api_of(cluster) as api, asyncio.timeout(PATIENCE):
        version = (await api.get(config_maps(namespace)))["metadata"]["resourceVersion"]
        params: dict[str, str | int] = {"resourceVersion": version, "timeoutSeconds": 3}
        types = {event["type"] async for event in api.watch(config_maps(namespace), params)}
    assert types <= {"BOOKMARK", "ADDED"}  # ADDED: Kubernetes adds the certificate of the cluster to each namespace


async def test_a_watch_from_an_expired_version_fails_with_gone(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    async with api_of(own_cluster) as api, asyncio.timeout(PATIENCE):
        version = (await api.post(config_maps(namespace), an_object("one")))["metadata"]["resourceVersion"]
        await forget_versions(own_cluster, api, namespace)
        with pytest.raises(Gone):
            async for _ in api.watch(config_maps(namespace), {"resourceVersion": version}):
                pass


async def test_a_request_survives_a_restart_of_the_server(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    async with api_of(own_cluster) as api, asyncio.timeout(PATIENCE):
        own_cluster.apiserver.kill()
        async with asyncio.TaskGroup() as group:
            made = group.create_task(
                api.request("POST", config_maps(namespace), body=an_object("one"), attempts=100, seconds=5.0)
            )
            await own_cluster.apiserver.start()
        assert made.result()["metadata"]["name"] == "one"


# asyncio leaves the transport of a cancelled TLS handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_server_that_is_down_or_hangs_is_unavailable(own_cluster: ControlPlane) -> None:
    async with api_of(own_cluster) as api, asyncio.timeout(PATIENCE):
        await api.get("/api")
        own_cluster.apiserver.pause()
        with pytest.raises(ApiUnavailable, match=r"no answer within 0\.2 s"):
            await api.request("GET", "/api", attempts=2, seconds=0.2)
        own_cluster.apiserver.resume()
        own_cluster.apiserver.kill()
        with pytest.raises(ApiUnavailable, match="can't be reached") as error:
            await api.get("/api", attempts=2)
    assert error.value.status == 0
    gc.collect()


async def test_a_silent_watch_fails(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async with Line(cluster, tmp_path) as line, Api.from_config(str(line.kubeconfig)) as api, asyncio.timeout(PATIENCE):
        version = (await api.get(config_maps(namespace)))["metadata"]["resourceVersion"]
        watch = api.watch(config_maps(namespace), {"resourceVersion": version}, on_open=line.hold, silence=0.5)
        with pytest.raises(ApiUnavailable):
            async for _ in watch:
                pass


async def test_a_forbidden_request_is_retried_after_a_restart_of_the_server(own_cluster: ControlPlane) -> None:
    """A user with a Role never gets Forbidden while the API server restarts."""
    namespace = await own_cluster.new_namespace()
    await own_cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", "-n", namespace)
    await own_cluster.kubectl("create", "rolebinding", "reader", "--role=reader", "--user=reader", "-n", namespace)
    config = str(own_cluster.kubeconfig_for("reader"))
    async with Api.from_config(config) as api, asyncio.timeout(PATIENCE):
        for _ in range(2):
            own_cluster.apiserver.kill()
            own_cluster.apiserver.spawn()
            await api.request("GET", config_maps(namespace), attempts=200, seconds=5.0)
            await own_cluster.apiserver.wait_ready()


async def test_a_refused_token_is_read_again(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """The kubelet replaces the token file of a Pod before the token expires."""
    good = read_kubeconfig(await cluster.kubeconfig_for_account(namespace, "default"))[1]["token"]
    server = read_kubeconfig(cluster.kubeconfig)[0]
    token, config = tmp_path / "token", tmp_path / "config"
    token.write_text("stale")
    write_kubeconfig(config, server, {"tokenFile": str(token)})
    async with Api.from_config(str(config)) as api:
        with pytest.raises(Unauthorized):
            await api.get("/api")
        token.write_text(good)
        assert (await api.get("/api"))["versions"] == ["v1"]
        whole = await asyncio.gather(*(api.get("/api") for _ in range(20)))
        assert len(whole) == 20


async def test_a_plugin_provides_the_credentials(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    good = read_kubeconfig(await cluster.kubeconfig_for_account(namespace, "default"))[1]["token"]
    server = read_kubeconfig(cluster.kubeconfig)[0]
    answer = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {"token": good}}
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\ncat '{tmp_path / 'answer'}'\n")
    (tmp_path / "answer").write_text(json.dumps(answer))
    plugin.chmod(0o755)
    config = tmp_path / "config"
    write_kubeconfig(config, server, {})
    content = yaml.safe_load(config.read_text())
    how = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": how}
    config.write_text(yaml.safe_dump(content))
    async with Api.from_config(str(config)) as api:
        assert (await api.get("/api"))["versions"] == ["v1"]


async def test_another_certificate_authority_is_rejected(
    own_cluster: ControlPlane, cluster: Cluster, tmp_path: Path
) -> None:
    ours, theirs = read_kubeconfig(own_cluster.kubeconfig)[0], read_kubeconfig(cluster.kubeconfig)[0]
    user = certificate_user(*own_cluster.authority.issue_client("somebody"))
    config = write_kubeconfig(tmp_path / "config", {**theirs, "server": ours["server"]}, user)
    async with Api.from_config(str(config)) as api:
        with pytest.raises(ApiUnavailable, match="certificate verify failed"):
            await api.get("/api", attempts=1)


async def test_clients_can_share_an_access(cluster: Cluster) -> None:
    access = Access(str(cluster.kubeconfig))
    async with Api(access) as first, Api(access) as second:
        assert await first.get("/api") == await second.get("/api")
