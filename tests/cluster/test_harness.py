"""The harness itself: what other tests take for granted when they kill, pause and compact."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.cluster.harness import ApiError

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster, ControlPlane

pytestmark = pytest.mark.cluster

POD = """
apiVersion: v1
kind: Pod
metadata: {name: made}
spec: {containers: [{name: job, image: "localhost/busybox:1"}]}
"""
READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: readers}]
"""


async def test_a_new_namespace_takes_pods_at_once(cluster: Cluster, namespace: str) -> None:
    await cluster.apply(POD, "-n", namespace)
    async with cluster.client() as api:
        [pod] = await api.list(f"/api/v1/namespaces/{namespace}/pods")
    assert pod["metadata"]["name"] == "made"


async def test_a_list_has_every_page(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with cluster.client() as api:
        for number in range(5):
            await api.post(path, {"metadata": {"name": f"n{number}"}})
        names = [each["metadata"]["name"] for each in await api.list(path, limit=2)]
    assert [name for name in names if name.startswith("n")] == [f"n{number}" for number in range(5)]


async def test_a_user_may_do_what_rbac_allows_and_nothing_else(cluster: Cluster, namespace: str) -> None:
    await cluster.apply(READER, "-n", namespace)
    reader, stranger = cluster.kubeconfig_for("somebody", ["readers"]), cluster.kubeconfig_for("stranger")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    async with cluster.client(reader) as api, cluster.client(stranger) as other:
        assert await api.list(pods) == []
        for refused in (other.list(pods), api.list("/api/v1/pods"), api.delete(f"{pods}/made")):
            with pytest.raises(ApiError) as error:
                await refused
            assert error.value.status == 403


async def test_a_service_account_is_who_it_says(cluster: Cluster, namespace: str) -> None:
    kubeconfig = await cluster.kubeconfig_for_account(namespace, "default")
    shown = await cluster.kubectl("auth", "whoami", "-o", "json", kubeconfig=kubeconfig)
    assert f'"system:serviceaccount:{namespace}:default"' in shown.stdout


async def test_a_kubectl_that_fails_says_why(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(AssertionError, match='configmaps "absent" not found'):
        await cluster.kubectl("get", "configmap", "absent", "-n", namespace)


async def test_killed_servers_come_back_with_what_was_written(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    await own_cluster.apply(POD, "-n", namespace)
    for each in own_cluster.components:
        each.kill()
    await own_cluster.start()
    async with own_cluster.client() as api:
        [pod] = await api.list(f"/api/v1/namespaces/{namespace}/pods")
    assert pod["metadata"]["name"] == "made"
    await own_cluster.new_namespace()


async def test_a_paused_server_answers_when_it_goes_on(own_cluster: ControlPlane) -> None:
    async with own_cluster.client() as api:
        await api.text("/readyz")
        own_cluster.apiserver.pause()
        answer = asyncio.create_task(api.text("/readyz"))
        done, _ = await asyncio.wait([answer], timeout=0.2)
        assert not done
        own_cluster.apiserver.resume()
        assert await answer == "ok"


async def test_compaction_ends_watches_from_before(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with own_cluster.client() as api:
        before = (await api.get(path))["metadata"]["resourceVersion"]
        await api.post(path, {"metadata": {"name": "later"}})
        async with asyncio.timeout(10):
            async for event in api.watch(path, resourceVersion=before):
                assert event["object"]["metadata"]["name"] == "later"
                break
        own_cluster.apiserver.kill()
        await own_cluster.compact_etcd()
        await own_cluster.apiserver.start()
        with pytest.raises(ApiError) as error:
            await asyncio.wait_for(anext(api.watch(path, resourceVersion=before)), 10)
    assert error.value.status == 410


HOLDER = """
import asyncio
from tests.cluster.harness import ControlPlane
async def hold():
    async with ControlPlane() as cluster:
        print(*(each.pid for each in cluster.components), flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""


@pytest.mark.usefixtures("shared_control_plane")  # so that it is skipped where there can be none
def test_no_server_outlives_tests_that_are_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        servers = [psutil.Process(int(pid)) for pid in holder.stdout.readline().split()]
        holder.kill()
    assert len(servers) == 3
    _, alive = psutil.wait_procs(servers, timeout=20)
    assert not alive
