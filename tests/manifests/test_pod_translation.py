"""The description of a Pod that a manifest is translated to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.container.pod_spec import POD_KIND, ContainerSpec, CustomSpec, PodSpec
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from scheduledjob.manifests.models import ScheduledJob
from scheduledjob.manifests.pod_translation import pod_description, to_pod_definition


def described(job: dict[str, Any], **spec: Any) -> PodSpec:
    description = pod_description(manifest(job, **spec))
    assert msgspec.json.decode(msgspec.json.encode(description)) == description
    return msgspec.convert(description, PodSpec)


def manifest(job: dict[str, Any], **spec: Any) -> ScheduledJob:
    return ScheduledJob.model_validate(
        {
            "apiVersion": "scheduledjobs.dev/v1beta1",
            "kind": "ScheduledJob",
            "metadata": {"name": "a", "namespace": "team-a"},
            "spec": {"triggers": [{"every": "1m"}], "job": job, **spec},
        }
    )


def test_a_container() -> None:
    job = {"container": {"image": "busybox", "command": ["a"], "args": ["b"]}}
    found = described(job, completeOn={"exitCodes": [7, 7, 3]}, history={"succeeded": 0, "ttl": "1h"})
    assert found == PodSpec(
        container=ContainerSpec("busybox", ["a"], ["b"]),
        complete_exit_codes=frozenset({3, 7}),
    )
    assert pod_description(manifest({"container": {"image": "x"}})) == {"container": {"image": "x"}}


def test_a_shell() -> None:
    env = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}]
    pod: dict[str, Any] = {
        "image": "alpine",
        "serviceAccountName": "robot",
        "resources": {"limits": {"memory": "64Mi", "cpu": 1}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"disk": "ssd"}, "volumes": []}},
    }
    found = described(
        {"shell": {"command": "true", "env": env}},
        execution={"mode": "Pod", "pod": pod},
        payloadFrom={"configMapKeyRef": {"name": "c", "key": "k", "optional": True}},
        completeOn={"exitCodes": [100]},
    )
    assert found == PodSpec(
        shell=ShellSpec("true", env={"P": Value(secret=("team-a/db", "p"))}, complete_exit_codes=frozenset({100})),
        image="alpine",
        service_account="robot",
        resources={"limits": {"memory": "64Mi", "cpu": 1}},
        template=pod["template"],
        payload_from=Value(config_map=("team-a/c", "k"), optional=True),
        complete_exit_codes=frozenset({100}),
    )


def test_a_request_and_a_python_job() -> None:
    found = described({"curl": {"url": "https://example.com"}}, completeOn={"httpStatus": [410]})
    assert found == PodSpec(curl=CurlSpec("https://example.com", complete_status=frozenset({410})))
    assert described({"custom": {"kind": "report", "params": {"a": [1]}}}) == PodSpec(
        custom=CustomSpec("report", {"a": [1]})
    )
    assert described({"custom": {"kind": "report"}}) == PodSpec(custom=CustomSpec("report"))


@pytest.mark.parametrize("policy", ["Forbid", "Allow"])
def test_the_definition_of_a_pod_job(policy: str) -> None:
    job = manifest(
        {"container": {"image": "x"}},
        concurrencyPolicy=policy,
        payloadFrom={"secretKeyRef": {"name": "s", "key": "k"}},
    )
    definition = to_pod_definition(job)
    assert definition.kind == POD_KIND
    assert definition.concurrency == policy
    assert definition.payload_from is None
    assert definition.job["payload_from"] == {"secret": ["team-a/s", "k"]}
