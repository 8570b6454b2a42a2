"""What the chart renders, before the API server: every set of values, strictly, and under Pod Security `restricted`."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.chart.helm import ROOT, environment, render, the, values_of
from tests.cluster.chart.sets import ACCEPTED
from tests.cluster.crd.install import install

if TYPE_CHECKING:
    from tests.cluster.chart.helm import Object
    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

MONITORING = Path(__file__).with_name("monitoring.yaml")
SHARED = "{store: {type: secret, secret: {name: store}}}"


@pytest.fixture
async def monitored(cluster: Cluster) -> Cluster:
    """The shared cluster, which knows ScheduledJobs and the kinds of the Prometheus Operator."""
    await install(cluster)
    await cluster.apply(MONITORING)
    for name in ("servicemonitors", "prometheusrules"):
        crd = f"crd/{name}.monitoring.coreos.com"
        await cluster.kubectl("wait", "--for=create", crd, "--timeout=30s")
        await cluster.kubectl("wait", "--for=condition=Established", crd, "--timeout=30s")
    return cluster


@pytest.fixture
async def restricted(cluster: Cluster, namespace: str) -> str:
    """A namespace in which nothing may run that does not meet `restricted`."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    async with cluster.client() as api:
        await api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return namespace


async def applied(cluster: Cluster, objects: list[Object]) -> str:
    """Send objects to the API server, for nothing to be kept; its warnings."""
    text = "\n---\n".join(map(json.dumps, objects))
    strictly = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    return (await cluster.kubectl(*strictly, input=text)).stderr


@pytest.mark.parametrize("name", ACCEPTED)
async def test_the_api_server_accepts_it(monitored: Cluster, restricted: str, name: str) -> None:
    values = values_of(dedent(ACCEPTED[name]))
    if "sjobs" in values.get("namespaces", []):
        values["namespaces"] = [restricted]
    objects = await render(values, namespace=restricted, cluster=monitored)
    # Pod Security warns of templates. The Pod of `helm test` is below: without its account there is none.
    assert await applied(monitored, [each for each in objects if each["kind"] != "Pod"]) == ""


@pytest.mark.parametrize("name", ACCEPTED)
async def test_its_pods_meet_restricted(cluster: Cluster, restricted: str, name: str) -> None:
    """As Pods, because of a template that would be refused there is only a warning."""
    values = values_of(dedent(ACCEPTED[name])) | {"priorityClassName": ""}
    objects = await render(values, namespace=restricted, cluster=cluster)
    pods = [
        (each["metadata"]["name"], each["spec"]["template"]) for each in objects if "template" in each.get("spec", {})
    ]
    pods += [(each["metadata"]["name"], each) for each in objects if each["kind"] == "Pod"]
    assert len(pods) >= 2
    async with cluster.client() as api:
        # A Pod is not admitted without its account, and the chart's is not there.
        for account in {pod["spec"]["serviceAccountName"] for _, pod in pods if "serviceAccountName" in pod["spec"]}:
            await api.post(f"/api/v1/namespaces/{restricted}/serviceaccounts", {"metadata": {"name": account}})
        for pod_name, pod in pods:
            body = {"metadata": {"name": pod_name} | {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}
            await api.post(f"/api/v1/namespaces/{restricted}/pods", body, dryRun="All", fieldValidation="Strict")


async def test_install_yaml_is_accepted(monitored: Cluster) -> None:
    objects = [each for each in yaml.load_all((ROOT / "install.yaml").read_text(), yaml.CSafeLoader) if each]
    namespace = the(objects, "Namespace")["metadata"]
    assert namespace["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert not [each for each in objects if "helm" in json.dumps(each["metadata"]).lower()]
    await monitored.apply(json.dumps(the(objects, "Namespace")))
    assert await applied(monitored, objects) == ""


async def test_the_cluster_names_the_installation(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        uid = (await api.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    for values in ("{}", SHARED):
        objects = await render(values_of(values), namespace=namespace, cluster=cluster)
        assert environment(objects)["SJOB_INSTANCE"] == f"{uid}/{namespace}/scheduledjob"


async def test_an_upgrade_out_of_memory_does_not_wait_for_itself(cluster: Cluster, namespace: str) -> None:
    """A new Pod that waits for the old one's Lease is not ready, and a rolling update would never end the old one."""
    strategies = []
    for values in ("{}", SHARED, SHARED):
        objects = await render(values_of(values), namespace=namespace, cluster=cluster)
        deployment = the(objects, "Deployment")
        await cluster.apply(json.dumps(deployment), "--force-conflicts")
        strategies.append(deployment["spec"]["strategy"]["type"])
    assert strategies == ["Recreate", "Recreate", "RollingUpdate"]
