"""Inline shell in an operator: off until it is allowed, and then confined beside the operator's secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.jobs.shell.confinement import landlock_status
from tests.cluster.e2e.operators import OperatorProcess, condition, manifest, until
from tests.support.absent import do_without

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def landlock() -> None:
    status = landlock_status()
    if not status.available:
        do_without("Landlock", status.reason)


def _ended(body: dict[str, Any]) -> list[dict[str, Any]]:
    return (body.get("status") or {}).get("recentRuns") or []


async def test_it_is_off_until_the_administrator_allows_it(
    kubeconfig: Path, sjobs: Cluster, api: ApiClient, namespace: str
) -> None:
    async with OperatorProcess(kubeconfig, namespace, f"--namespaces={namespace}", "--pod-image=example.com/own:1"):
        shell = '{shell: {command: "true"}}'
        await sjobs.apply(manifest("asked", "every: 1h", shell, "  execution: {mode: Inline}"), "-n", namespace)
        body = await until(api, namespace, "asked", lambda one: condition(one, "Ready"))
        assert condition(body, "Ready")["status"] == "False"
        assert condition(body, "Stalled")["status"] == "True"
        assert f'inline shell is not allowed in namespace "{namespace}"' in condition(body, "Ready")["message"]
        await sjobs.apply(manifest("unset", "after: 0s", shell), "-n", namespace)
        await until(api, namespace, "unset", lambda one: (one.get("status") or {}).get("activeCount"))
        (pod,) = await api.list(f"/api/v1/namespaces/{namespace}/pods")
        assert pod["spec"]["containers"][0]["image"] == "example.com/own:1"


@pytest.mark.usefixtures("landlock")
async def test_a_job_finds_nothing_of_the_operator(
    kubeconfig: Path, sjobs: Cluster, api: ApiClient, namespace: str, postgres_dsn: str
) -> None:
    flags = [f"--namespaces={namespace}", f"--inline-shell-namespaces={namespace}"]
    environment = {"SJOB_STORE": postgres_dsn, "OPERATORS_OWN": "a secret of the operator"}
    async with OperatorProcess(kubeconfig, namespace, *flags, environment=environment) as operator:
        script = (
            f"env; cat /proc/{operator.pid}/environ; cat {kubeconfig}; ls /proc/{operator.pid}/fd; "
            "echo $SCHEDULEDJOB_NAME; cat; exit 9"
        )
        more = "  retry: {maxRetries: 0}\n  payload: of the job\n"
        await sjobs.apply(manifest("nosy", "after: 0s", f"{{shell: {{command: {script!r}}}}}", more), "-n", namespace)
        body = await until(api, namespace, "nosy", _ended)
    (run,) = _ended(body)
    assert (run["outcome"], run["code"]) == ("Failed", 9)
    assert "nosy" in run["output"]
    assert "of the job" in run["output"]
    shown = str(body["status"]) + "".join(str(line) for line in operator.lines)
    for secret in ("a secret of the operator", "OPERATORS_OWN", "client-key-data"):
        assert secret not in shown
