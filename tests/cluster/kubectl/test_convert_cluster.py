"""Conversion checked by the API server: it accepts the result, and both Pods as it stores them are compared."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scheduledjob.cli.shared.convert.compare import _rename, compare, differences, in_words, pod_of_cronjob
from scheduledjob.cli.shared.convert.compare import pod_of_scheduledjob as build
from scheduledjob.cli.shared.convert.cronjob import convert
from tests.cli.kubectl.test_convert import SHAPES, cronjob_of, shape
from tests.cluster.crd.install import verdict
from tests.cluster.harness import SCHEDULED_JOBS, ApiClient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import Cluster
    from tests.cluster.kubectl.support import Plugin

pytestmark = pytest.mark.cluster

OF_ADMISSION = frozenset({"gvisor", "batch-low"})
OF_ACCOUNT = "kube-api-access-"


async def as_the_server_has_it(api: ApiClient, pod: dict[str, Any], namespace: str) -> dict[str, Any]:
    """A Pod with everything that the API server writes into it."""
    sent = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "pod",
            "labels": pod["metadata"].get("labels") or {},
            "annotations": pod["metadata"].get("annotations") or {},
        },
        "spec": pod["spec"],
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    found = await api.post(path, sent, dryRun="All", fieldValidation="Strict")
    spec = _without_account(found["spec"])
    kept = {name: found["metadata"].get(name) or {} for name in ("labels", "annotations")}
    return {"metadata": kept, "spec": spec}


def _without_account(spec: dict[str, Any]) -> dict[str, Any]:
    """Without the token's volume, which has a random name: automountServiceAccountToken says whether there is one."""
    spec["volumes"] = [one for one in spec.get("volumes") or () if not one["name"].startswith(OF_ACCOUNT)]
    for kind in ("containers", "initContainers"):
        for one in spec.get(kind) or ():
            mounts = [each for each in one.get("volumeMounts") or () if not each["name"].startswith(OF_ACCOUNT)]
            one["volumeMounts"] = mounts
    return spec


def _admissible(pod: dict[str, Any]) -> dict[str, Any]:
    """What only a cluster with classes of its own would admit is left out of both."""
    pod = copy.deepcopy(pod)
    for name in ("runtimeClassName", "priorityClassName"):
        if pod["spec"].get(name) in OF_ADMISSION:
            del pod["spec"][name]
    for name in ("serviceAccount", "serviceAccountName"):
        pod["spec"].pop(name, None)  # the accounts are not there; the pure tests compare their names
    return pod


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
async def test_the_pods_are_equal_or_the_difference_is_told(
    sjobs: Cluster, api: ApiClient, namespace: str, path: Path
) -> None:
    cronjob = cronjob_of(path)
    converted = convert(cronjob)
    manifest = copy.deepcopy(converted.manifest)
    manifest["metadata"]["namespace"] = namespace
    assert await verdict(api, manifest, namespace) == ""
    theirs, ours = pod_of_cronjob(cronjob), build(converted)
    _rename(theirs, converted.template.renamed)
    was = await as_the_server_has_it(api, _admissible(theirs), namespace)
    now = await as_the_server_has_it(api, _admissible(ours), namespace)
    reported = {*converted.notes, *map(in_words, differences(cronjob, converted))}
    for difference in compare(was, now):
        if difference.path == "spec.tolerations":
            continue
        assert in_words(difference) in reported, difference


async def test_of_the_cluster(plugin: Plugin, sjobs: Cluster, api: ApiClient, namespace: str) -> None:
    names = ("plain", "either-day", "env-from-secrets", "scheduling")
    for name in names:
        cronjob = shape(name)
        cronjob["metadata"]["namespace"] = namespace
        cronjob["spec"]["suspend"] = True
        cronjob["metadata"].setdefault("labels", {})["of"] = "test"
        await sjobs.apply(yaml.safe_dump(cronjob), "-n", namespace)
    one = await plugin("convert", "hello")
    assert one.code == 0
    manifest = yaml.safe_load(one.out)
    assert manifest["spec"] == {
        "triggers": [{"cron": "*/5 * * * *"}],
        "suspend": True,
        "job": convert(shape("plain")).manifest["spec"]["job"],
        "concurrencyPolicy": "Allow",
        "history": {"failed": 1},
    }
    everything = await plugin("convert", "--all", "-o", "json")
    items = json.loads(everything.out)["items"]
    assert [each["metadata"]["name"] for each in items] == ["either", "hello", "postgres-backup", "scheduling"]
    assert len(list(yaml.safe_load_all((await plugin("convert", "-A", "-l", "of=test")).out))) >= len(names)
    # What comes out can be applied as it is, and is what the ScheduledJob of the file would be.
    await sjobs.apply((await plugin("convert", "--all")).out, "-n", namespace)
    found = await api.list(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs")
    by_name = {each["metadata"]["name"]: each["spec"] for each in found}
    wanted = convert(shape("scheduling")).manifest["spec"]
    assert by_name["scheduling"] == wanted | {"suspend": True, "history": {"failed": 1}}
    shown = await plugin.on_a_terminal("convert", "hello")
    assert "\x1b[33mhello\x1b[0m: " in shown.out
    assert "kind: ScheduledJob" in shown.plain


async def test_nothing_to_convert(plugin: Plugin) -> None:
    done = await plugin("convert", "--all")
    assert (done.code, done.out, done.err) == (0, "", "no CronJobs found\n")
