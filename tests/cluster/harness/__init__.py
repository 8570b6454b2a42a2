"""A real Kubernetes control plane, and a real node, for tests and benchmarks.

How to use it in a test below tests/cluster (fixtures of tests/cluster/conftest.py; everything is skipped, loudly,
where there is no cluster to be had, and REQUIRE_ALL=1 makes that a failure)::

    pytestmark = pytest.mark.cluster

    async def test_something(cluster: Cluster, namespace: str) -> None:   # one cluster for all tests, a namespace each
        await cluster.apply(YAML_TEXT, "-n", namespace)                   # or a Path; kubectl apply --server-side
        done = await cluster.kubectl("get", "sjob", "-n", namespace, "-o", "json")      # .stdout, .stderr, .returncode
        async with cluster.client() as api:                               # JSON; client.ApiError(.status .reason)
            pods = await api.list(f"/api/v1/namespaces/{namespace}/pods", labelSelector="a=b")
            await api.patch(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/x", {"spec": {"suspend": True}})
            async with asyncio.timeout(10):
                async for event in api.watch(f"/api/v1/namespaces/{namespace}/pods", resourceVersion="0"):
                    ...

    operator_config = cluster.kubeconfig_for("operator", ["operators"])   # a user with only the rights that you grant
    account_config = await cluster.kubeconfig_for_account(namespace, "default")

    async def test_a_crash(own_cluster: ControlPlane) -> None:            # this test's own, in three seconds
        own_cluster.apiserver.kill()                                      # etcd, apiserver, controller_manager:
        await own_cluster.apiserver.start()                               # kill pause resume; await start restart
        await own_cluster.compact_etcd()                                  # then restart the apiserver: watches get 410

    pytestmark = pytest.mark.node                                         # needs root, too

    async def test_a_pod(node: Node, node_namespace: str) -> None:        # Pods run; `own_node` is one to break
        await node.cluster.apply(POD_OF_BUSYBOX_IMAGE, "-n", node_namespace)
        await node.import_image("localhost/mine:1", folder, ["/run"])     # images are made of folders, never pulled
        url = f"http://{node.host}:{port}"                                # what listens on 127.0.0.1, for a Pod

`cluster.kubeconfig` is the path of the administrator's kubeconfig. `shared_control_plane` is `cluster` as a
ControlPlane, for what needs to see its processes and leaves them as they were. Outside of pytest, as in a benchmark:
``async with ControlPlane(durable=True) as cluster, Node(cluster) as node``. `make cluster` and `make node` are one to
try things on.
"""

from tests.cluster.harness.client import SCHEDULED_JOBS, ApiClient, ApiError
from tests.cluster.harness.cluster import Cluster, GivenCluster, NotOursError
from tests.cluster.harness.components import Component
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.node import BUSYBOX_IMAGE, NODE_NAME, Node

__all__ = [
    "BUSYBOX_IMAGE",
    "NODE_NAME",
    "SCHEDULED_JOBS",
    "ApiClient",
    "ApiError",
    "Cluster",
    "Component",
    "ControlPlane",
    "GivenCluster",
    "Node",
    "NotOursError",
]
