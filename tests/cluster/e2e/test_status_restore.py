"""What an operator with its store in memory remembers through status: also where people write nonsense there, and
where it could not write all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.state import State
from tests.cluster.e2e.operators import OperatorProcess, curl, is_so, manifest, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

NONSENSE = {
    "of-no-form": "}{",
    "of-another": "[]",
    "huge": '{"floor": 99999999999999999999999}',
    "future": '{"floor": 1, "last_success": 99999999999999999999}',
    "acts": '{"floor": 1, "handled": ["x/y"]}',
    "negative": '{"floor": 1, "started": -5, "failed": -1}',
    "attempts": '{"floor": 1, "generation": 1, "runs": [{"slot": 1, "due": 1, "attempt": 0}]}',
    "idle": '{"floor": 1, "generation": 1}',
}


def status_path(namespace: str, name: str) -> str:
    return f"/apis/scheduledjobs.dev/v1beta1/namespaces/{namespace}/scheduledjobs/{name}/status"


async def test_nonsense_in_status_harms_nobody(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, namespace: str, sink: Sink
) -> None:
    names = [*NONSENSE, "fine"]
    text = "\n".join(manifest(name, "every: 1s", curl(sink.url)) for name in names)
    await sjobs.apply(text, "-n", namespace)
    await sink.reached(lambda calls: {call.name for call in calls} == set(names))
    await operator.kill()
    for name, engine in NONSENSE.items():
        edited: dict[str, Any] = {"engine": engine, "conditions": [], "handled": None, "floor": None, "counters": None}
        await api.patch(status_path(namespace, name), {"status": edited})
    before = len(sink.calls)
    await operator.start()
    await operator.ready()
    await sink.reached(lambda calls: {call.name for call in calls[before:]} == set(names))
    for name in names:
        await until(api, namespace, name, lambda body: body["status"]["nextRun"].startswith("20"))


async def test_what_no_plugin_runs_is_not_said_to_have_begun(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, namespace: str
) -> None:
    await sjobs.apply(manifest("unknown", "every: 1s", "{custom: {kind: missing}}"), "-n", namespace)
    body = await until(api, namespace, "unknown", is_so("Stalled", reason="UnknownKind"))
    before = State.decode(body["status"]["engine"])
    await operator.kill()
    await operator.start()
    await operator.ready()
    await operator.until_metric("scheduledjob_status_writes_total", lambda count: count >= 1)
    body = await until(api, namespace, "unknown", is_so("Stalled", reason="UnknownKind"))
    assert (body["status"]["activeCount"], body["status"].get("active")) == (0, [])
    assert State.decode(body["status"]["engine"]).next == before.next


@pytest.mark.slow
async def test_the_lease_is_kept_where_status_is_not_the_truth(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink
) -> None:
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/operator-{namespace}-watched"
    async with OperatorProcess(
        kubeconfig, namespace, f"--namespaces={namespace}", "--inline-http-allow=127.0.0.1"
    ) as it:
        await sjobs.apply(manifest("one", "every: 1s", curl(sink.url)), "-n", namespace)
        await sink.reached(lambda calls: len(calls) >= 2)
        rules = [rule for rule in (await api.get(role))["rules"] if "scheduledjobs/status" not in rule["resources"]]
        await api.patch(role, {"rules": rules})
        await it.said("a status could not be written")
        assert await it.stop() == 0
        assert "before every status was up to date" in it.tail()
    lease = await api.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/scheduledjob")
    assert lease["spec"]["holderIdentity"]
