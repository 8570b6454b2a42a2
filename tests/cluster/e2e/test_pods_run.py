"""ScheduledJobs whose runs are Pods, on a node on which Pods truly run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import OperatorProcess, granted, manifest, until
from tests.cluster.harness import BUSYBOX_IMAGE, SCHEDULED_JOBS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.harness import ApiClient, Node

pytestmark = [pytest.mark.cluster, pytest.mark.node]


@pytest.fixture
async def api(node: Node) -> AsyncIterator[ApiClient]:
    await install(node.cluster)
    async with node.cluster.client() as client:
        yield client


@pytest.fixture(params=["memory", "postgres"])
async def operator(
    request: pytest.FixtureRequest, node: Node, api: ApiClient, node_namespace: str
) -> AsyncIterator[OperatorProcess]:
    store = "memory:" if request.param == "memory" else request.getfixturevalue("postgres_dsn")
    kubeconfig = await granted(node.cluster, f"operator-{node_namespace}", node_namespace, [node_namespace])
    flags = [f"--namespaces={node_namespace}", f"--store={store}"]
    async with OperatorProcess(kubeconfig, node_namespace, *flags) as operator:
        yield operator


def container(script: str) -> str:
    return f'{{container: {{image: "{BUSYBOX_IMAGE}", command: [sh, -c, "{script}"]}}}}'


def _recent(body: dict[str, Any]) -> list[dict[str, Any]]:
    return (body.get("status") or {}).get("recentRuns") or []


async def test_what_a_pod_did_stands_in_status(
    operator: OperatorProcess, node: Node, api: ApiClient, node_namespace: str
) -> None:
    await node.cluster.apply(manifest("good", "after: 0s", container("echo done")), "-n", node_namespace)
    await node.cluster.apply(
        manifest("bad", "after: 0s", container("echo why >&2; exit 3"), "  retry: {maxRetries: 0}"),
        "-n",
        node_namespace,
    )
    good = await until(api, node_namespace, "good", _recent)
    bad = await until(api, node_namespace, "bad", _recent)
    (run,) = _recent(good)
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 1)
    (run,) = _recent(bad)
    assert (run["outcome"], run["code"]) == ("Failed", 3)
    assert "exit code 3" in run["reason"]
    assert run["output"] == "why\n"
    pods = await api.list(f"/api/v1/namespaces/{node_namespace}/pods")
    assert {pod["metadata"]["ownerReferences"][0]["name"] for pod in pods} == {"good", "bad"}


async def test_a_pod_goes_on_while_its_operator_is_replaced(
    operator: OperatorProcess, node: Node, api: ApiClient, node_namespace: str
) -> None:
    await node.cluster.apply(manifest("long", "after: 0s", container("sleep 8; echo done")), "-n", node_namespace)

    def active(body: dict[str, Any]) -> bool:
        return bool((body.get("status") or {}).get("activeCount"))

    await until(api, node_namespace, "long", active, "the active run")
    await operator.kill()
    await operator.start()
    await operator.ready()
    body = await until(api, node_namespace, "long", _recent)
    (run,) = _recent(body)
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 1)
    pods = await api.list(f"/api/v1/namespaces/{node_namespace}/pods")
    assert len(pods) == 1


async def test_a_cancelled_run_leaves_no_pod(
    operator: OperatorProcess, node: Node, api: ApiClient, node_namespace: str
) -> None:
    await node.cluster.apply(manifest("long", "after: 0s", container("sleep 600")), "-n", node_namespace)

    def active(body: dict[str, Any]) -> bool:
        return bool((body.get("status") or {}).get("active"))

    body = await until(api, node_namespace, "long", active, "the active run")
    run_id = body["status"]["active"][0]["runID"]
    path = f"{SCHEDULED_JOBS}/namespaces/{node_namespace}/scheduledjobs/long"
    await api.patch(path, {"metadata": {"annotations": {"scheduledjobs.dev/cancel": run_id}}})
    body = await until(api, node_namespace, "long", _recent)
    (run,) = _recent(body)
    assert run["outcome"] == "Cancelled"
    assert await api.list(f"/api/v1/namespaces/{node_namespace}/pods") == []


LEAKING = """---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: hunter2-of-the-database}
---
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {name: leaking}
spec:
  triggers: [{after: 0s}]
  retry: {maxRetries: 0}
  job: {container: {image: "IMAGE", command: [sh, -c, 'echo "no access for app:$PASSWORD@db"; exit 1']}}
  execution:
    pod:
      template:
        spec:
          containers:
            - name: job
              terminationMessagePolicy: FallbackToLogsOnError
              env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}]
"""


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("watched", "own", "cluster", "secrets"), "exit code 1: no access for app:***@db"),
        (
            ("watched", "own", "cluster"),
            "exit code 1 (message withheld: Secret \"db\" can't be read, so its values can't be masked)",
        ),
    ],
)
async def test_no_value_of_a_secret_stands_in_status_or_events(
    parts: tuple[str, ...], reason: str, node: Node, api: ApiClient, node_namespace: str
) -> None:
    kubeconfig = await granted(
        node.cluster, f"operator-{node_namespace}", node_namespace, [node_namespace], parts=parts
    )
    async with OperatorProcess(kubeconfig, node_namespace, f"--namespaces={node_namespace}", "--store=memory:") as _:
        await node.cluster.apply(LEAKING.replace("IMAGE", BUSYBOX_IMAGE), "-n", node_namespace)
        body = await until(api, node_namespace, "leaking", _recent)
        assert _recent(body)[0]["reason"] == reason
        events = f"/api/v1/namespaces/{node_namespace}/events"
        told = [event async for event in _failures(api, events)]
    assert reason in told[0]["message"]
    assert "hunter2" not in str(body) + str(told)


async def _failures(api: ApiClient, path: str) -> AsyncIterator[dict[str, Any]]:
    """The first Event of the operator about a failure."""
    async for event in api.watch(path, fieldSelector="involvedObject.kind=ScheduledJob,reason=Failed"):
        yield event["object"]
        return


async def test_a_misspelt_field_of_a_template_stands_in_status(
    operator: OperatorProcess, node: Node, api: ApiClient, node_namespace: str
) -> None:
    more = (
        "  execution: {pod: {template: {spec: {nodeSelectr: {disk: ssd}, tolerations: [{key: x, opertor: Exists}]}}}}"
    )
    await node.cluster.apply(manifest("misspelt", "every: 1h", container("true"), more), "-n", node_namespace)

    def stalled(body: dict[str, Any]) -> bool:
        conditions = (body.get("status") or {}).get("conditions") or ()
        return any(condition["type"] == "Stalled" and condition["status"] == "True" for condition in conditions)

    body = await until(api, node_namespace, "misspelt", stalled, "Stalled")
    messages = str(body["status"]["conditions"])
    assert 'unknown field "spec.nodeSelectr"' in messages
    assert 'unknown field "spec.tolerations[0].opertor"' in messages
    assert body["status"]["nextRun"] == "invalid"
