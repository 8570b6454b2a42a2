"""What an operator waits for before it works, and that it goes on by itself once that is mended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml

from scheduledjob.kube.client.api import Api
from scheduledjob.kube.preflight import Preflight, permissions_of
from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import PATIENCE, RULES, OperatorProcess, curl, granted, manifest
from tests.cluster.line import Line

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster, ControlPlane

pytestmark = pytest.mark.cluster


def operator_of(kubeconfig: Path, namespace: str, *flags: str) -> OperatorProcess:
    return OperatorProcess(kubeconfig, namespace, f"--namespaces={namespace}", "--inline-http-allow=127.0.0.1", *flags)


async def why_not_ready(operator: OperatorProcess) -> str:
    """What readiness says, of an operator that is alive."""
    async with aiohttp.ClientSession() as session:
        status, why = await operator.readiness(session)
    assert status == 503
    assert (await operator.fetch("/healthz"))[0] == 200
    return why


async def test_without_the_crd_it_waits(own_cluster: ControlPlane, sink: Sink) -> None:
    namespace = await own_cluster.new_namespace()
    config = await granted(own_cluster, "operator", namespace, [namespace])
    operator = operator_of(config, namespace)
    await operator.start()
    line = await operator.said("waiting for the cluster")
    assert "CustomResourceDefinition scheduledjobs.scheduledjobs.dev" in line["missing"]
    assert "CustomResourceDefinition" in await why_not_ready(operator)
    await install(own_cluster)
    await operator.ready()
    await own_cluster.apply(manifest("one", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len(calls) >= 2)
    # Without its objects there is nothing to hold up the definition.
    await own_cluster.kubectl("delete", "crd", "scheduledjobs.scheduledjobs.dev", "--wait", "--timeout=20s")
    assert await operator.stop() == 0


async def test_without_the_api_server_it_waits(
    sjobs: Cluster, kubeconfig: Path, namespace: str, sink: Sink, tmp_path: Path
) -> None:
    async with Line(sjobs, tmp_path, kubeconfig) as line:
        line.cut()
        operator = operator_of(line.kubeconfig, namespace)
        await operator.start()
        said = await operator.said("waiting for the cluster")
        assert "the API server can't be reached" in said["missing"]
        assert "the API server can't be reached" in await why_not_ready(operator)
        line.mend()
        await operator.ready()
        await sjobs.apply(manifest("one", "after: 0s", curl(sink.url)), "-n", namespace)
        await sink.reached(lambda calls: len(calls) == 1)
        assert await operator.stop() == 0


async def test_readiness_tells_of_an_api_server_that_is_silent(
    sjobs: Cluster, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    async with (
        Line(sjobs, tmp_path, kubeconfig) as line,
        operator_of(line.kubeconfig, namespace) as operator,
        aiohttp.ClientSession() as session,
    ):
        line.hold()
        async with asyncio.timeout(35):  # less than it takes the watch to find out
            while (await operator.readiness(session))[0] == 200:  # noqa: ASYNC110  # it can only be asked
                await asyncio.sleep(0.2)
        assert "api: the API server does not answer" in await why_not_ready(operator)
        line.mend()
        await operator.ready()


async def test_the_signal_to_end_is_heard_while_it_waits(sjobs: Cluster, kubeconfig: Path, namespace: str) -> None:
    unreachable = operator_of(kubeconfig, namespace, "--store=postgresql://nobody@127.0.0.1:1/none")
    await unreachable.start()
    await unreachable.said("waiting for the store")
    assert "store" in await why_not_ready(unreachable)
    assert await unreachable.stop() == 0


async def test_without_a_permission_it_says_which_and_goes_on_when_it_is_given(
    sjobs: Cluster, namespace: str, sink: Sink
) -> None:
    user = f"operator-{namespace}"
    config = await granted(sjobs, user, namespace, [namespace], parts=("own", "cluster"))
    operator = operator_of(config, namespace)
    await operator.start()
    line = await operator.said("waiting for the cluster")
    assert f'list scheduledjobs of "scheduledjobs.dev" in namespace "{namespace}"' in line["missing"]
    assert "patch scheduledjobs/status" in await why_not_ready(operator)
    await granted(sjobs, user, namespace, [namespace])
    await operator.ready()
    await operator.said("the cluster has everything now")
    await sjobs.apply(manifest("one", "after: 0s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len(calls) == 1)
    assert await operator.stop() == 0


OPTIONAL = {"services", "endpointslices", "nodes"}
"""Without these the operator works, and warns that HTTP jobs may reach an address of the API server."""


def each_verb() -> list[tuple[str, dict[str, Any], str]]:
    """(part, rule, verb) of everything that the operator can't do without."""
    rules = yaml.safe_load(RULES.read_text())
    return [
        (part, rule, verb)
        for part in ("watched", "own", "cluster")
        for rule in rules[part]
        for verb in rule["verbs"]
        if rule["resources"][0] not in OPTIONAL
    ]


async def test_each_verb_of_the_shipped_rules_is_missed(sjobs: Cluster, api: ApiClient, namespace: str) -> None:
    user = f"operator-{namespace}"
    config = await granted(sjobs, user, namespace, [namespace])
    needed = permissions_of([namespace], (namespace, "scheduledjob"), holds=True)
    roles = "/apis/rbac.authorization.k8s.io/v1"
    async with Api.from_config(str(config)) as client:
        preflight = Preflight(client, [namespace], needed)
        assert await preflight.check() is None
        for part, rule, verb in each_verb():
            kind = "clusterroles" if part == "cluster" else f"namespaces/{namespace}/roles"
            path = f"{roles}/{kind}/{user}-{part}"
            role = await api.get(path)
            short = [
                {**one, "verbs": [each for each in one["verbs"] if (one, each) != (rule, verb)]}
                for one in role["rules"]
            ]
            await api.put(path, {**role, "rules": [one for one in short if one["verbs"]]})
            missing = await _once_other_than(preflight, None)
            assert missing.startswith(f"RBAC does not allow the operator to {verb} {rule['resources'][0]} "), missing
            assert ";" not in missing, "nothing else is missing"
            changed = await api.get(path)
            await api.put(path, {**changed, "rules": role["rules"]})
            assert await _once_other_than(preflight, missing) == "None"


async def _once_other_than(preflight: Preflight, before: str | None) -> str:
    """What it says as soon as that differs: the API server takes a moment to know a role."""
    async with asyncio.timeout(PATIENCE):
        while (found := await preflight.check()) == before:
            pass
    return str(found)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--status-budget=none", "--status-budget"),
        ("--store=mysql://x", "--store"),
        ("--inline-shell-namespaces=elsewhere", "--inline-shell-namespaces"),
        ("--sweep-interval=1", "--sweep-interval"),
    ],
)
async def test_wrong_settings_end_it_at_once(kubeconfig: Path, namespace: str, flag: str, says: str) -> None:
    operator = operator_of(kubeconfig, namespace, flag)
    await operator.start()
    assert await operator.ended() == 2
    assert says in operator.tail()
    assert "Traceback" not in operator.tail()


async def test_a_kubeconfig_that_is_none_ends_it_at_once(namespace: str, tmp_path: Path) -> None:
    wrong = tmp_path / "kubeconfig"
    wrong.write_text("kind: Config\n")
    operator = operator_of(wrong, namespace)
    await operator.start()
    assert await operator.ended() == 1
    assert str(wrong) in operator.tail()
    assert "Traceback" not in operator.tail()
