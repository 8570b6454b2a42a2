"""`helm install`, `upgrade`, `rollback` and `uninstall` on an API server, and the operator as it is installed.

There is no node here: the operator is a process of this machine that is given what its Pod would be, the variables of
its container and the token of its service account, and what `helm test` runs is run the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.chart.helm import CHART, ROOT, Refused, environment, helm, of_the_test, render, the, values_of
from tests.cluster.e2e.operators import OperatorProcess, manifest
from tests.cluster.harness import SCHEDULED_JOBS, ApiError
from tests.cluster.harness.credentials import read_kubeconfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.chart.helm import Object
    from tests.cluster.harness import ControlPlane

pytestmark = pytest.mark.cluster

HOME = "scheduledjob-system"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scheduledjobs.scheduledjobs.dev"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{HOME}/deployments/scheduledjob"


class Release:
    """The release `scheduledjob` of an empty cluster, and helm on it."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._cluster = cluster

    async def __call__(self, command: str, *more: str, values: str = "") -> str:
        given = values_of(values) if command in ("install", "upgrade") else None
        where = [str(CHART), "--create-namespace"] if command == "install" else []
        where = [str(CHART)] if command == "upgrade" else where
        return await helm(
            command, "scheduledjob", *where, "--namespace", HOME, *more,
            values=given, kubeconfig=self._cluster.kubeconfig,
        )  # fmt: skip

    async def deployment(self) -> Object:
        async with self._cluster.client() as api:
            return await api.get(DEPLOYMENT)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[OperatorProcess]:
        """The operator of the Deployment as it is now, on this machine."""
        variables = environment([await self.deployment()]) | {"SJOB_LISTEN": ""}
        kubeconfig = await self._cluster.kubeconfig_for_account(HOME, "scheduledjob")
        async with OperatorProcess(kubeconfig, HOME, environment=variables) as operator:
            yield operator


@pytest.fixture
def release(own_cluster: ControlPlane) -> Release:
    return Release(own_cluster)


async def run_test_pod(cluster: ControlPlane, folder: Path, objects: list[Object]) -> subprocess.CompletedProcess[str]:
    """What the Pod of `helm test` would do, with the rights that the release gives it."""
    pod = next(each for each in objects if each["kind"] == "Pod")
    account = pod["spec"]["serviceAccountName"]
    server, user = read_kubeconfig(await cluster.kubeconfig_for_account(HOME, account))
    (folder / "token").write_text(user["token"])
    (folder / "ca.crt").write_bytes(cluster.authority.certificate.read_bytes())
    variables = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *pod["spec"]["containers"][0]["command"][1:],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables, "TEST_ACCOUNT": str(folder), "TEST_SERVER": server["server"]},
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess([], process.returncode, output.decode(), errors.decode())


async def test_it_is_installed_with_one_command_and_does_what_the_notes_say(
    own_cluster: ControlPlane, release: Release, tmp_path: Path
) -> None:
    notes = await release("install")
    assert "runs the ScheduledJobs of all namespaces, with 1 replica and its store in memory" in notes
    assert "helm test scheduledjob --namespace scheduledjob-system" in notes
    text = await helm("get", "hooks", "scheduledjob", "--namespace", HOME, kubeconfig=own_cluster.kubeconfig)
    hooks = [each for each in yaml.safe_load_all(text) if each]
    async with release.running():
        done = await run_test_pod(own_cluster, tmp_path, hooks)
        assert done.returncode == 0, done.stderr
        assert f"created ScheduledJob {HOME}/scheduledjob-test" in done.stdout
        assert "succeeded" in done.stdout
    async with own_cluster.client() as api:
        assert await api.list(f"{SCHEDULED_JOBS}/scheduledjobs") == []


async def test_the_test_says_when_no_operator_is_there(
    own_cluster: ControlPlane, release: Release, tmp_path: Path
) -> None:
    await release("install", values="test: {timeoutSeconds: 1}")
    text = await helm("get", "hooks", "scheduledjob", "--namespace", HOME, kubeconfig=own_cluster.kubeconfig)
    done = await run_test_pod(own_cluster, tmp_path, [each for each in yaml.safe_load_all(text) if each])
    assert done.returncode == 1
    assert "did not succeed within 1 seconds: the operator has not seen it" in done.stderr


async def test_without_helm_one_file_does_the_same(own_cluster: ControlPlane, tmp_path: Path) -> None:
    await own_cluster.apply(ROOT / "install.yaml")
    release = Release(own_cluster)
    assert environment([await release.deployment()])["SJOB_INSTANCE"] == f"{HOME}/scheduledjob"
    rendered = await render(namespace=HOME)
    assert not [each for each in yaml.safe_load_all((ROOT / "install.yaml").read_text()) if of_the_test(each)]
    objects = [each for each in rendered if of_the_test(each)]
    for each in objects:
        if each["kind"] != "Pod":
            await own_cluster.apply(yaml.safe_dump(each))
    async with release.running():
        done = await run_test_pod(own_cluster, tmp_path, objects)
        assert done.returncode == 0, done.stderr
    await own_cluster.kubectl("diff", "--server-side", "-f", str(ROOT / "install.yaml"))
    await own_cluster.kubectl("delete", "--wait=false", "-f", str(ROOT / "install.yaml"))


async def test_the_rights_of_some_namespaces_are_enough(own_cluster: ControlPlane, release: Release) -> None:
    namespace = await own_cluster.new_namespace()
    await release("install", values=f"namespaces: [{namespace}]")
    async with release.running(), own_cluster.client() as api:
        await own_cluster.apply(
            manifest("a", "after: 0s", "{custom: {kind: print, params: {text: hello}}}"), "-n", namespace
        )
        path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
        async with asyncio.timeout(60):
            async for event in api.watch(path, resourceVersion="0"):
                if event["object"].get("status", {}).get("lastOutcome") == "Succeeded":
                    break


async def test_upgrades_and_rollbacks_change_the_way_pods_are_replaced(release: Release) -> None:
    await release("install")
    first = (await release.deployment())["spec"]
    assert (first["replicas"], first["strategy"]) == (1, {"type": "Recreate"})
    shared = "{replicaCount: 3, store: {type: secret, secret: {name: store}}}"
    await release("upgrade", values=shared)
    assert (await release.deployment())["spec"]["strategy"] == {"type": "Recreate"}
    await release("upgrade", values=shared)
    third = (await release.deployment())["spec"]
    assert third["replicas"] == 3
    assert third["strategy"]["type"] == "RollingUpdate"
    await release("rollback", "1")
    assert (await release.deployment())["spec"]["strategy"] == {"type": "Recreate"}


async def test_what_is_rendered_without_a_cluster_can_take_over(own_cluster: ControlPlane, release: Release) -> None:
    """As Argo CD does it: the command in gitops/README.md supplies what Helm sees by itself."""
    await release("install")
    (asked,) = re.findall(r"`kubectl (get deployment .*?)`", (ROOT / "gitops" / "README.md").read_text())
    instance = (await own_cluster.kubectl(*shlex.split(asked))).stdout
    assert instance.endswith(f"/{HOME}/scheduledjob")
    shared = {"store": {"type": "secret", "secret": {"name": "store"}}}
    with pytest.raises(Refused, match="set a name that no other installation has"):
        await render(shared, namespace=HOME)
    rendered = await render(shared | {"instance": instance, "strategy": {"type": "Recreate"}}, namespace=HOME)
    assert environment(rendered)["SJOB_INSTANCE"] == environment([await release.deployment()])["SJOB_INSTANCE"]
    assert the(rendered, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("keep", [True, False])
async def test_uninstalling_keeps_the_jobs_or_not(own_cluster: ControlPlane, release: Release, keep: bool) -> None:
    await release("install", values=f"crds: {{keep: {str(keep).lower()}}}")
    await own_cluster.kubectl("wait", "--for=condition=Established", "crd/scheduledjobs.scheduledjobs.dev")
    await own_cluster.apply(manifest("a", "every: 1h", "{custom: {kind: print}}"), "-n", "default")
    await release("uninstall")
    async with own_cluster.client() as api:
        if keep:
            await api.delete(f"{SCHEDULED_JOBS}/namespaces/default/scheduledjobs/a")
            assert await api.list(f"{SCHEDULED_JOBS}/scheduledjobs") == []
        else:
            await own_cluster.kubectl("wait", "--for=delete", "crd/scheduledjobs.scheduledjobs.dev", "--timeout=30s")
            with pytest.raises(ApiError):
                await api.get(CRD)
        left = await api.list(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles", labelSelector="app.kubernetes.io/part-of=scheduledjob"
        )
        assert left == []


async def test_a_release_takes_over_the_definition_that_another_left(release: Release) -> None:
    await release("install")
    await release("uninstall")
    await release("install")


async def test_people_with_the_clusters_own_roles_may_use_it(own_cluster: ControlPlane, release: Release) -> None:
    await release("install")
    await own_cluster.kubectl("wait", "--for=condition=Established", "crd/scheduledjobs.scheduledjobs.dev")
    may = {"view": ["get", "list", "watch"], "edit": ["get", "create", "patch", "delete"]}
    may["admin"] = may["edit"]
    for role, verbs in may.items():
        await own_cluster.kubectl(
            "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}", "-n", "default"
        )
        for verb in verbs:
            await until_allowed(own_cluster, role, verb)
    refused = await own_cluster.kubectl(*asks("view", "create"), check=False)
    assert refused.stdout.strip() == "no"


def asks(user: str, verb: str) -> list[str]:
    return ["auth", "can-i", verb, "scheduledjobs.scheduledjobs.dev", "--as", user, "-n", "default"]


async def until_allowed(cluster: ControlPlane, user: str, verb: str) -> None:
    """The controller manager aggregates roles a moment after they are made."""
    async with asyncio.timeout(30):
        while (await cluster.kubectl(*asks(user, verb), check=False)).stdout.strip() != "yes":  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.2)


async def test_a_release_in_helm_is_small_enough_to_be_kept(own_cluster: ControlPlane, release: Release) -> None:
    """Helm keeps chart and manifest in one Secret, which may hold a mebibyte."""
    await release("install")
    async with own_cluster.client() as api:
        (kept,) = await api.list(f"/api/v1/namespaces/{HOME}/secrets", labelSelector="owner=helm")
    assert len(kept["data"]["release"]) < 400_000


async def test_wrong_values_install_nothing(own_cluster: ControlPlane, release: Release) -> None:
    with pytest.raises(Refused, match="1 while the store is in memory"):
        await release("install", values="replicaCount: 2")
    async with own_cluster.client() as api:
        with pytest.raises(ApiError):
            await api.get(f"/api/v1/namespaces/{HOME}/secrets/sh.helm.release.v1.scheduledjob.v1")
