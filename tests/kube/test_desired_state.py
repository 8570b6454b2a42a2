"""The desired state of an object: what it asks for, how it runs, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.jobs.container.pod_spec import PodSettings
from scheduledjob.kube.reconcile.desired_state import (
    KIND_INVALID,
    TOKEN_LIMIT,
    DesiredState,
    ObjectRules,
    problem_of,
    read_object,
    requests_key,
    requests_of,
    unknown_kind,
)
from tests.support import costly

GROUP = "scheduledjobs.dev"
KIND_POD = "cluster.pod"
SHELL = {"shell": {"command": "true"}}
CURL = {"curl": {"url": "http://example.com"}}
OPEN = ObjectRules(allows_shell=lambda namespace: namespace == "team-a")
WITH_IMAGE = ObjectRules(PodSettings(image="registry/operator:1"))


def an_object(job: dict[str, Any] = CURL, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "team-a",
        "name": "job",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "annotations": {f"{GROUP}/{name}": text for name, text in (annotations or {}).items()},
    }
    return {"metadata": metadata, "spec": {"triggers": [{"every": "1m"}], "job": job, **spec}}


def kind(job: dict[str, Any], rules: ObjectRules = OPEN, **spec: Any) -> str:
    desired = read_object(an_object(job, **spec), rules)
    assert desired.problem == ""
    return desired.kind


def problem(job: dict[str, Any], rules: ObjectRules = OPEN, **spec: Any) -> str:
    desired = read_object(an_object(job, **spec), rules)
    assert desired.kind == KIND_INVALID
    assert problem_of(desired.definition) == desired.problem
    assert desired.slots is None or desired.slots.next(0) is None, "it has no slots"
    return desired.problem


def test_an_unknown_kind_is_named() -> None:
    report = an_object({"custom": {"kind": "report"}})
    assert read_object(report, OPEN).unknown_kind == ""
    assert read_object(report, replace(OPEN, kinds={"cluster.custom.report"})).unknown_kind == ""
    known = {"cluster.custom.print", "cluster.curl", "cluster.custom.mail"}
    desired = read_object(report, replace(OPEN, kinds=known))
    assert (desired.kind, desired.problem) == ("cluster.custom.report", "")
    words = 'spec.job.custom.kind: no job "report" is installed in the operator (known: mail, print)'
    assert desired.unknown_kind == words
    assert "does not run such jobs inline" in unknown_kind("cluster.shell", known)


def test_an_object_is_translated_to_its_desired_state() -> None:
    desired = read_object(an_object(payload="p"), OPEN)
    assert (desired.slug, desired.uid, desired.generation, desired.payload) == ("team-a/job", "u", 3, b"p")
    assert desired.definition.triggers == (EveryTrigger(60 * SECOND),)
    assert desired.slots is not None
    assert desired.slots.next(desired.created_at) == desired.created_at + 60 * SECOND


@pytest.mark.parametrize(
    ("job", "execution", "rules", "found"),
    [
        (CURL, None, OPEN, "cluster.curl"),
        (CURL, {"mode": "Pod"}, WITH_IMAGE, KIND_POD),
        ({"custom": {"kind": "report"}}, None, OPEN, "cluster.custom.report"),
        ({"container": {"image": "i"}}, None, OPEN, KIND_POD),
        (SHELL, None, OPEN, "cluster.shell"),
        (SHELL, {"mode": "Inline"}, OPEN, "cluster.shell"),
        (SHELL, {"pod": {"image": "i"}}, OPEN, KIND_POD),
        (SHELL, {"mode": "Pod", "pod": {"image": "i"}}, OPEN, KIND_POD),
        (SHELL, None, WITH_IMAGE, KIND_POD),
        (SHELL, {"pod": {"image": "i"}}, ObjectRules(), KIND_POD),
    ],
)
def test_the_execution_mode_decides_where_a_job_runs(
    job: dict[str, Any], execution: dict[str, Any] | None, rules: ObjectRules, found: str
) -> None:
    assert kind(job, rules, **({"execution": execution} if execution else {})) == found


def test_forbidden_inline_shell_is_explained() -> None:
    closed = ObjectRules(PodSettings(image="i"))
    found = problem(SHELL, closed, execution={"mode": "Inline"})
    assert found.startswith('spec.execution.mode: inline shell is not allowed in namespace "team-a"')
    assert "write Pod" in found
    unconfined = ObjectRules(allows_shell=lambda _: True, shell_off="the kernel has no Landlock")
    assert "the kernel has no Landlock" in problem(SHELL, unconfined, execution={"mode": "Inline"})


def test_a_pod_without_an_image_is_explained() -> None:
    assert problem(SHELL, ObjectRules()).startswith("spec.execution.pod.image: this job needs a Pod")
    assert "SJOB_POD_IMAGE" in problem(CURL, ObjectRules(), execution={"mode": "Pod"})


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"triggers": [{"cron": "0 0 31 2 *"}]}, "spec.triggers[0].cron: "),
        ({"triggers": [{"cron": "@daily", "timeZone": "Europe/Nowhere"}]}, "spec.triggers[0].timeZone: "),
        ({"triggers": []}, "spec.triggers: "),
        ({"triggers": [{"every": "1m"}] * 17}, "spec.triggers: "),
        ({"maxConcurrent": 2}, "spec.maxConcurrent: "),
        ({"retry": {"maxRetries": -2}}, "spec.retry.maxRetries: "),
        ({"unheardOf": 1}, "spec.unheardOf: "),
    ],
)
def test_an_invalid_spec_is_reported_with_its_field(spec: dict[str, Any], field: str) -> None:
    assert problem(CURL, **spec).startswith(field)


def test_many_problems_are_counted() -> None:
    found = problem(CURL, triggers=[{"cron": "61 * * * *"}] * 6)
    assert found.count("spec.triggers[") == 3
    assert found.endswith("; and 3 more")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(_JSON)
def test_any_json_in_a_spec_has_a_desired_state(spec: Any) -> None:
    body = an_object()
    body["spec"] = spec
    desired = read_object(body, OPEN)
    assert desired.kind == KIND_INVALID
    assert desired.problem


def requests(**annotations: str) -> DesiredState:
    named = {name.replace("_", "-"): text for name, text in annotations.items()}
    body = an_object(annotations=named)
    desired = read_object(body, OPEN)
    assert requests_of(body) == desired.requests
    assert requests_key(body) == desired.requests_key
    return desired


def test_annotations_are_read_as_requests() -> None:
    assert requests().requests == Requests()
    assert requests(run_now="t", run_now_payload="p").requests == Requests(run="t", payload=b"p")
    assert requests(run_now="t", run_now_payload="").requests == Requests(run="t", payload=b"")
    assert requests(run_now="t").requests == Requests(run="t", payload=None)
    assert requests(run_now_payload="p").requests == Requests(), "a payload alone is not a request"
    assert requests(cancel="c", resume="r").requests == Requests(cancel="c", resume="r")


def test_an_invalid_request_is_ignored_and_reported() -> None:
    assert requests(run_now="t" * TOKEN_LIMIT).request_problem == ""
    desired = requests(run_now="t" * (TOKEN_LIMIT + 1), cancel="c")
    assert desired.requests == Requests()
    assert f"{GROUP}/run-now: more than {TOKEN_LIMIT} characters" in desired.request_problem
    for payload in ("x" * 65_537, "a\0b", "ä" * 40_000):
        desired = requests(run_now="t", run_now_payload=payload, cancel="c")
        assert desired.requests == Requests(cancel="c"), "the other requests are kept"
        assert f"{GROUP}/run-now-payload" in desired.request_problem
    assert requests(run_now="t", run_now_payload="x" * 65_536).request_problem == ""


def test_the_requests_key_changes_with_requests_and_their_problems() -> None:
    assert requests(run_now="t" * 300).requests_key != requests().requests_key
    assert requests(run_now="a").requests_key != requests(run_now="b").requests_key
    assert requests().requests_key == ""


def test_an_object_whose_slots_take_too_long_to_find_is_invalid() -> None:
    words = problem(CURL, triggers=costly.TRIGGERS, exclude=costly.EXCLUDE)
    assert words.startswith("triggers and exclude: the search for slots takes up to ")
    assert words.endswith("write cron expressions without seconds, or exclude windows")


@pytest.mark.parametrize(
    "template",
    [
        {"spec": {"containers": [{"name": f"c{number}", "image": "i"} for number in range(10_000)]}},
        {"spec": {"nested": [[[]]] * 10_000}},
    ],
)
def test_an_object_with_too_many_values_is_invalid_as_it_is_in_a_file(template: dict[str, Any]) -> None:
    words = problem(CURL, execution={"mode": "Pod", "pod": {"template": template}})
    assert words == (
        "spec: contains more than 20000 values, aliases expanded: make payload, params and template smaller"
    )


@pytest.mark.parametrize("levels", [60, 900, 5000])
def test_an_object_that_is_nested_too_deeply_is_invalid_as_it_is_in_a_file(levels: int) -> None:
    nested: Any = 1
    for _ in range(levels):
        nested = {"a": nested}
    words = problem(CURL, execution={"mode": "Pod", "pod": {"template": {"spec": nested}}})
    assert words == "spec: nested too deeply: at most 64 levels: remove some from params or template"
