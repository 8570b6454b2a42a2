"""What the chart refuses, what it makes of values, and that what is generated from it is not stale."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from charts.install_yaml import install_yaml
from charts.readme import read_keys, readme
from image.build import default_image
from scheduledjob.kube.settings.operator_settings import every_setting
from scheduledjob.kube.settings.setting_sources import read_settings
from scheduledjob.stores.postgres.address import parse_address
from scheduledjob.web.metrics import Metrics
from tests.cluster.chart.go import answers
from tests.cluster.chart.helm import (
    CHART,
    ROOT,
    Object,
    Refused,
    container,
    environment,
    helm,
    kinds,
    of_the_test,
    program,
    render,
    the,
    values_of,
)
from tests.cluster.chart.sets import ACCEPTED, REFUSED

pytestmark = pytest.mark.cluster

SETS = {name: values_of(dedent(text)) for name, text in ACCEPTED.items()}
CRD = "CustomResourceDefinition"
PROMQL = Path(__file__).with_name("promql")
RULES = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())


def set_of(name: str) -> Object:
    """Values that can be rendered without a cluster."""
    return {"instance": "cluster/sjobs/scheduledjob"} | SETS[name]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_wrong_is_refused_in_words(name: str) -> None:
    values, said = REFUSED[name]
    with pytest.raises(Refused) as refused:
        await render(values_of(values))
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        await render(values_of("{replicas: 1, settings: {lease: 1}, image: {tag: 'a b'}}"))
    assert all(part in str(refused.value) for part in ("replicas", "/settings/lease", "/image/tag"))


async def test_helm_finds_nothing_to_say() -> None:
    for name in ("nothing", "everything of monitoring"):
        said = await helm("lint", "--strict", str(CHART), values=set_of(name))
        assert "0 chart(s) failed" in said
        assert "[WARNING]" not in said


# ---------------------------------------------------------------- what comes of values


async def test_one_command_and_no_values() -> None:
    objects = await render()
    deployment = the(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert deployment["template"]["spec"]["enableServiceLinks"] is False
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 20 + 8 + 60
    assert container(objects)["image"] == default_image()
    assert environment(objects)["SJOB_STORE"] == "memory:"
    assert not kinds(objects) & {"PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "Job"}


@pytest.mark.parametrize("name", SETS)
async def test_the_operator_understands_its_variables(name: str) -> None:
    objects = await render(set_of(name))
    variables = {key: value for key, value in environment(objects).items() if key.startswith("SJOB_")}
    variables |= {"SJOB_STORE": "postgresql://from-a-secret/db"} if "SJOB_STORE" not in variables else {}
    settings = read_settings({}, variables)
    given = {key: value for key, value in SETS[name].get("settings", {}).items() if value is not None}
    for setting in every_setting():
        if setting.key in given:
            written = given[setting.key]
            words = [str(written).lower() if isinstance(written, bool) else str(written)]
            read = setting.type.read(written if isinstance(written, list) else words)
            assert getattr(settings, setting.name) == read, setting.key
    grace = the(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= settings.grace + 8


def test_every_setting_has_a_value() -> None:
    """What the chart works out itself stands elsewhere, or makes no sense in a Pod."""
    own = {"store", "instance", "namespaces", "namespace", "memoryLease", "kubeconfig", "context", "listen"}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {each.key for each in every_setting()} - own == set(values["settings"])


def test_the_defaults_that_the_values_name_are_the_operators() -> None:
    sections = read_keys((CHART / "values.yaml").read_text())
    comments = {key.path: key.comment for section in sections for key in section.children}
    for setting in every_setting():
        found = re.search(r"The operator's default: (\S+)\.$", comments.get(f"settings.{setting.key}", ""))
        if found:
            assert f"`{found[1]}`" == setting.default_text, setting.key


async def test_the_url_of_postgres_is_built_from_its_parts() -> None:
    odd: dict[str, Any] = {
        "database": "jobs of a/b",
        "user": "me@here",
        "port": 6432,
        "parameters": {"sslmode": "a b&c"},
    }
    store = {"type": "postgresql", "postgresql": {"host": "db.example.com", **odd, "passwordSecret": {"name": "pw"}}}
    objects = await render({"store": store, "instance": "a"})
    url = environment(objects)["SJOB_STORE"]
    assert url == "postgresql://me%40here@db.example.com:6432/jobs%20of%20a%2Fb?sslmode=a%20b%26c"
    assert parse_address(url).shown.startswith("db.example.com:6432/")
    password = next(each for each in container(objects)["env"] if each["name"] == "PGPASSWORD")
    assert password["valueFrom"] == {"secretKeyRef": {"name": "pw", "key": "password"}}


async def test_a_release_of_another_name_has_a_lease_of_its_own() -> None:
    objects = await render(name="other")
    lease = environment(objects)["SJOB_MEMORY_LEASE"]
    assert lease == "other-scheduledjob"
    named = [rule for rule in the(objects, "Role", "other-scheduledjob-lease")["rules"] if "resourceNames" in rule]
    assert [rule["resourceNames"] for rule in named] == [[lease]]


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ("", {(None, "watched"), ("sjobs", "own"), (None, "cluster")}),
        ("namespaces: [a, sjobs]", {("a", "watched"), ("sjobs", "watched"), ("sjobs", "own"), (None, "cluster")}),
        (
            "{namespaces: [a, b], rbac: {secrets: [a], configMaps: ['*']}}",
            {("a", "watched"), ("b", "watched"), ("sjobs", "own"), (None, "cluster"),
             ("a", "secrets"), ("a", "configMaps"), ("b", "configMaps")},
        ),
        (
            "rbac: {secrets: ['*'], configMaps: [c]}",
            {(None, "watched"), ("sjobs", "own"), (None, "cluster"), (None, "secrets"), ("c", "configMaps")},
        ),
    ],
)  # fmt: skip
async def test_the_operators_rights_are_the_rules_that_are_shipped(
    values: str, pairs: set[tuple[str | None, str]]
) -> None:
    objects = await render(values_of(values))
    account = {"kind": "ServiceAccount", "name": "scheduledjob", "namespace": "sjobs"}
    roles = {
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]): each["rules"]
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
    }
    granted = []
    for each in objects:
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert each["subjects"] == [account] or "test" in each["metadata"]["name"]
            if each["subjects"] == [account]:
                where = each["metadata"].get("namespace")
                granted.append((where, roles[each["roleRef"]["kind"], where, each["roleRef"]["name"]]))
    wanted = [(where, RULES[part]) for where, part in pairs]
    assert sorted(granted, key=str) == sorted(wanted, key=str)


async def test_names_without_a_namespace_differ_by_the_releases_namespace() -> None:
    one, other = [await render(namespace=namespace) for namespace in ("one", "other")]
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in objects if "namespace" not in each["metadata"]}
        for objects in (one, other)
    ]
    assert names[0] & names[1] == {(CRD, "scheduledjobs.scheduledjobs.dev")}


@pytest.mark.parametrize(("keep", "policy"), [(True, "keep"), (False, None)])
async def test_the_definition_is_kept_or_not(keep: bool, policy: str | None) -> None:
    values = {"crds": {"keep": keep, "annotations": {"a": "b"}}}
    made = the(await render(values), CRD)
    annotations = made["metadata"]["annotations"]
    assert annotations.pop("a") == "b"
    assert annotations.get("helm.sh/resource-policy") == policy
    shipped = yaml.load((ROOT / "crds" / f"{made['metadata']['name']}.yaml").read_text(), yaml.CSafeLoader)
    assert made["spec"] == shipped["spec"]


async def test_several_replicas_are_spread_and_guarded() -> None:
    objects = await render(set_of("postgresql with three replicas"))
    pod = the(objects, "Deployment")["spec"]["template"]
    spread = pod["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    budget = the(objects, "PodDisruptionBudget")["spec"]
    for selector in (budget["selector"], *(each["labelSelector"] for each in spread)):
        assert selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert the(objects, "Deployment")["spec"]["strategy"]["type"] == "RollingUpdate"


async def test_what_finds_the_operator_finds_its_pods() -> None:
    objects = await render(set_of("everything of monitoring") | {"networkPolicy": {"enabled": True}})
    labels = the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    service = the(objects, "Service")
    assert service["spec"]["selector"].items() <= labels.items()
    assert the(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    monitor = the(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert the(objects, "ServiceMonitor")["metadata"]["labels"]["release"] == "prometheus"


async def test_the_migration_has_the_store_and_no_token() -> None:
    objects = await render(set_of("a store's URL in a Secret, and a migration before"))
    job = the(objects, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    store = {"name": "SJOB_STORE", "valueFrom": {"secretKeyRef": {"name": "store", "key": "uri"}}}
    assert store in pod["containers"][0]["env"]
    assert store in container(objects)["env"]
    deployment = the(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    assert not deployment.items() <= job["spec"]["template"]["metadata"]["labels"].items()


async def test_the_log_of_helm_test_can_be_read_after_it_and_is_one() -> None:
    """`helm test --logs` asks for the log of a Pod by the name of each hook, of whatever kind, and fails where there is
    none: also where its Pod is deleted as soon as it has succeeded."""
    objects = await render()
    hooks = [each for each in objects if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    assert [each["kind"] for each in hooks] == ["Pod"]
    assert hooks[0]["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
    of_it = {each["kind"] for each in objects if of_the_test(each)}
    assert of_it == {"Pod", "ServiceAccount", "Role", "RoleBinding"}


async def test_the_pod_may_be_put_where_one_wants() -> None:
    objects = await render(set_of("where Pods are put"))
    deployment = the(objects, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["tolerations"][0]["key"] == "batch"
    assert "podAntiAffinity" in pod["affinity"]
    (constraint,) = pod["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"] == deployment["selector"]["matchLabels"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


async def test_extras_are_passed_through() -> None:
    objects = await render(set_of("extras"))
    made = container(objects)
    assert made["args"] == ["--log-level=debug"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in made["env"]
    assert made["envFrom"] == [{"secretRef": {"name": "more"}}]
    assert {"name": "jobs", "mountPath": "/etc/jobs"} in made["volumeMounts"]
    volumes = the(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "scratch", "emptyDir": {"sizeLimit": "5Gi", "medium": "Memory"}} in volumes
    assert {"name": "jobs", "configMap": {"name": "jobs"}} in volumes


# ---------------------------------------------------------------- monitoring


def series() -> set[str]:
    """The names under which Prometheus has the operator's metrics."""
    found = {"up", *(f"process_{name}" for name in ("cpu_seconds_total", "resident_memory_bytes"))}
    for family in Metrics("0").registry.collect():
        name = family.name
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {name + end for end in ends}
    return found


def named_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:scheduledjob|process)_\w+", re.sub(r'"[^"]*"', "", expression)))


async def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    objects = await render(set_of("everything of monitoring"))
    rules = the(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    dashboard = json.loads(the(objects, "ConfigMap", "scheduledjob-dashboard")["data"]["scheduledjob.json"])
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    known = series()
    for expression in expressions:
        assert named_in(expression) <= known, expression
    without_variables = [re.sub(r"\$__rate_interval", "5m", each).replace("$job", ".*") for each in expressions]
    assert await answers(PROMQL, [json.dumps(each) for each in without_variables]) == ""
    assert len(rules) >= 8
    for rule in rules:
        assert 'job="scheduledjob-metrics",namespace="sjobs"' in rule["expr"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


async def test_prometheus_finds_fault_with_what_is_wrong() -> None:
    assert "unclosed left parenthesis" in await answers(PROMQL, [json.dumps("sum(rate(up[5m])")])


# ---------------------------------------------------------------- stale


def test_the_readme_is_not_stale() -> None:
    assert (CHART / "README.md").read_text(encoding="utf-8") == readme(CHART), "run: make chart"


def test_a_value_that_nobody_describes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no comment on a\.c: write one"):
        read_keys("a:\n  # Said.\n  b: 1\n\n  c: 2\n")


def test_the_chart_has_the_definition_of_this_version() -> None:
    (shipped,) = (ROOT / "crds").iterdir()
    assert (CHART / "files" / "crd.yaml").read_bytes() == shipped.read_bytes(), "run: make crds"


def test_install_yaml_is_not_stale() -> None:
    made = install_yaml(program())
    assert (ROOT / "install.yaml").read_text(encoding="utf-8") == made, "run: make install-yaml"


def test_every_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: Object, part: Object, path: str) -> None:
        assert set(values) <= set(part["properties"]), path
        for key, value in values.items():
            below = part["properties"][key]
            if isinstance(value, dict) and "properties" in below and below.get("additionalProperties") is False:
                compare(value, below, f"{path}.{key}")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(values, schema, "")
    assert set(schema["properties"]) - {"global"} == set(values)
