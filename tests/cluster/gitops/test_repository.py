"""The repository that is an example: its manifests are taken, applied and found without drift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.chart.helm import CHART, helm, render
from tests.cluster.crd.install import install

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

GITOPS = Path(__file__).parents[3] / "gitops"
REPOSITORY = GITOPS / "repository"
VALUES = REPOSITORY / "operator" / "values.yaml"
WAVE = "argocd.argoproj.io/sync-wave"


async def test_the_jobs_are_taken_and_do_not_drift(cluster: Cluster) -> None:
    await install(cluster)
    folder = str(REPOSITORY / "jobs" / "team-a")
    built = [each for each in yaml.safe_load_all((await cluster.kubectl("kustomize", folder)).stdout) if each]
    waves = {
        (each["kind"], each["metadata"]["name"]): int(each["metadata"].get("annotations", {}).get(WAVE, 0))
        for each in built
    }
    assert waves == {("Namespace", "team-a"): -1, ("ScheduledJob", "heartbeat"): 0, ("ScheduledJob", "report"): 1}
    for each in sorted(built, key=lambda one: waves[one["kind"], one["metadata"]["name"]]):
        await cluster.apply(json.dumps(each))
    await cluster.kubectl("diff", "--server-side", "-k", folder)  # ends with 1 where there is one
    async with cluster.client() as api:
        await api.delete("/api/v1/namespaces/team-a")


async def test_the_operator_does_not_drift(cluster: Cluster, namespace: str) -> None:
    """What the API server fills in is no difference to what the chart renders, and it renders the same again."""
    values = yaml.safe_load(VALUES.read_text()) | {"crds": {"install": False}}
    rendered = [await render(values, "--no-hooks", namespace=namespace) for _ in range(2)]
    assert rendered[0] == rendered[1]
    text = "\n---\n".join(map(json.dumps, rendered[0]))
    for _ in range(2):
        await cluster.apply(text)
    await cluster.kubectl("diff", "--server-side", "-f", "-", input=text)


async def test_the_definition_goes_first() -> None:
    objects = await render(yaml.safe_load(VALUES.read_text()), "--no-hooks")
    waves = {each["kind"]: int(each["metadata"].get("annotations", {}).get(WAVE, 0)) for each in objects}
    assert min(waves, key=lambda kind: waves[kind]) == "CustomResourceDefinition"
    assert [kind for kind, wave in waves.items() if wave] == ["CustomResourceDefinition"]


async def test_flux_and_argo_cd_give_the_chart_values_that_it_takes() -> None:
    argo = yaml.safe_load((GITOPS / "argocd" / "operator.yaml").read_text())
    source = argo["spec"]["sources"][0]
    assert GITOPS.parent / source["path"] / "Chart.yaml" == (CHART / "Chart.yaml")
    (_, release) = yaml.safe_load_all((GITOPS / "flux" / "operator.yaml").read_text())
    values = release["spec"]["values"]
    await helm("lint", str(CHART), values=values | {"instance": "eu/jobs"})
    own = yaml.safe_load(VALUES.read_text())
    assert values["store"] == own["store"]
    assert values["replicaCount"] == own["replicaCount"]


def test_every_file_is_yaml_and_what_is_named_is_there() -> None:
    for path in GITOPS.rglob("*.yaml"):
        assert list(yaml.safe_load_all(path.read_text())), path
    text = (GITOPS / "README.md").read_text()
    for link in {part.split(")")[0] for part in text.split("](")[1:]}:
        assert (GITOPS / link).exists(), link
