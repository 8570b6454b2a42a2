"""The Pod of an attempt: what is in it, what a template may change, and what it may not."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.container.pod_builder import Blueprint, build_pod
from scheduledjob.jobs.container.pod_names import is_of, is_of_job, pod_name, timeout_of
from scheduledjob.jobs.container.pod_spec import ContainerSpec, CustomSpec, PodSettings, PodSpec
from scheduledjob.jobs.container.runner_order import read_order
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from tests.jobs.container.pod_support import (
    IMAGE,
    RESTRICTED,
    SETTINGS,
    SLOT,
    UID,
    attempt,
    container,
    job_of,
    variables_of,
    with_template,
)

SECRET = Value(secret=("team-a/db", "password"))


def test_a_container() -> None:
    assert build_pod(attempt(payload=b"a $(HOME) b"), container(), SETTINGS) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "nightly-report-6u6o16m3dloh-1",
            "namespace": "team-a",
            "labels": {
                "app.kubernetes.io/managed-by": "scheduledjob",
                "scheduledjobs.dev/name": "nightly-report",
                "scheduledjobs.dev/uid": UID,
                "scheduledjobs.dev/slot": "20261201T100000Z",
            },
            "annotations": {
                "kubectl.kubernetes.io/default-container": "job",
                "scheduledjobs.dev/run-id": f"{UID}-{SLOT}",
                "scheduledjobs.dev/attempt": "1",
            },
            "ownerReferences": [
                {
                    "apiVersion": "scheduledjobs.dev/v1beta1",
                    "kind": "ScheduledJob",
                    "name": "nightly-report",
                    "uid": UID,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 30,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "job",
                    "image": "busybox:1",
                    "command": ["sh", "-c"],
                    "args": ["true"],
                    "securityContext": {"allowPrivilegeEscalation": False},
                    "env": [
                        {"name": "SCHEDULEDJOB_NAME", "value": "nightly-report"},
                        {"name": "SCHEDULEDJOB_NAMESPACE", "value": "team-a"},
                        {"name": "SCHEDULEDJOB_UID", "value": UID},
                        {"name": "SCHEDULEDJOB_SLOT", "value": "2026-12-01T10:00:00Z"},
                        {"name": "SCHEDULEDJOB_ATTEMPT", "value": "1"},
                        {"name": "SCHEDULEDJOB_RUN_ID", "value": f"{UID}-{SLOT}"},
                        {"name": "SCHEDULEDJOB_VERSION", "value": "7"},
                        {"name": "SCHEDULEDJOB_PAYLOAD", "value": "a $$(HOME) b"},
                    ],
                }
            ],
        },
    }


def test_a_shell_command_in_an_image_of_the_user() -> None:
    shell = ShellSpec("echo $$ $(date)", "/bin/bash", {"A": Value("$(B)"), "P": SECRET}, "/srv")
    pod = build_pod(attempt(payload=b"x"), PodSpec(shell=shell, image="alpine"), SETTINGS)
    job = job_of(pod)
    assert job["image"] == "alpine"
    assert job["command"] == ["/bin/bash", "-c", "echo $$$$ $$(date)"]
    assert "args" not in job
    assert job["workingDir"] == "/srv"
    variables = variables_of(pod)
    assert variables["SCHEDULEDJOB_PAYLOAD"] == "x"
    assert variables["A"] == "$$(B)"
    assert variables["P"] == {"secretKeyRef": {"name": "db", "key": "password"}}
    assert "SJOB_RUN" not in variables


def test_references_of_runner_jobs_are_left_to_the_kubelet() -> None:
    curl = CurlSpec("https://example.com", headers={"X-A": SECRET, "X-B": Value("$1")}, bearer=SECRET)
    curl.ca = Value(config_map=("team-a/ca", "pem"), optional=True)
    pod = build_pod(attempt(timeout=60.0), PodSpec(curl=curl), SETTINGS)
    variables = variables_of(pod)
    assert variables["SJOB_REF_0"] == {"secretKeyRef": {"name": "db", "key": "password"}}
    assert variables["SJOB_REF_1"] == {"configMapKeyRef": {"name": "ca", "key": "pem", "optional": True}}
    order = read_order({name: text.replace("$$", "$") for name, text in variables.items() if isinstance(text, str)})
    assert order.kind == "curl"
    assert msgspec.convert(order.job, CurlSpec) == curl
    assert order.timeout == 60.0
    assert order.references == [("Secret", "team-a/db", "password"), ("ConfigMap", "team-a/ca", "pem")]


def test_the_runner_is_restricted_whatever_the_template_says() -> None:
    context = {"privileged": True, "readOnlyRootFilesystem": False, "runAsUser": 1000}
    template = {
        "spec": {
            "automountServiceAccountToken": True,
            "containers": [
                {"name": "job", "image": "evil", "command": ["sh"], "args": ["x"], "securityContext": context}
            ],
            "volumes": [{"name": "sjob-tmp", "hostPath": {"path": "/"}}],
        }
    }
    spec = PodSpec(shell=ShellSpec("true"), template=template, service_account="robot")
    pod = build_pod(attempt(), spec, SETTINGS)
    job = job_of(pod)
    assert job["image"] == IMAGE
    assert job["command"] == ["scheduledjob", "run-one"]
    assert "args" not in job
    assert job["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["spec"]["volumes"] == [{"name": "sjob-tmp", "emptyDir": {}}]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["serviceAccountName"] == "robot"


def test_a_job_that_needs_the_operators_image_says_so() -> None:
    with pytest.raises(ValueError, match=r"execution\.pod\.image"):
        build_pod(attempt(), PodSpec(shell=ShellSpec("true")), PodSettings())
    build_pod(attempt(), container(), PodSettings())


def test_plugins_are_loaded_if_the_administrator_allows_it() -> None:
    settings = PodSettings(image=IMAGE, plugins=True, image_pull_policy="IfNotPresent")
    job = job_of(build_pod(attempt(), PodSpec(custom=CustomSpec("report", {"a": 1})), settings))
    assert job["command"] == ["scheduledjob", "run-one", "--plugins"]
    assert job["imagePullPolicy"] == "IfNotPresent"
    other = job_of(build_pod(attempt(), PodSpec(custom=CustomSpec("report"), image="mine"), settings))
    assert other["image"] == "mine"
    assert "imagePullPolicy" not in other


def test_a_payload_from_a_secret_is_left_to_the_kubelet() -> None:
    pod = build_pod(attempt(), container(payload_from=SECRET), SETTINGS)
    assert variables_of(pod)["SCHEDULEDJOB_PAYLOAD"] == {"secretKeyRef": {"name": "db", "key": "password"}}
    given = build_pod(attempt(payload=b"by hand"), container(payload_from=SECRET), SETTINGS)
    assert variables_of(given)["SCHEDULEDJOB_PAYLOAD"] == "by hand"


def test_a_payload_that_a_variable_can_not_hold() -> None:
    with pytest.raises(ValueError, match="the payload can't be a variable"):
        build_pod(attempt(payload=b"\xff"), container(), SETTINGS)
    pod = build_pod(attempt(payload=b"\xff\0"), PodSpec(custom=CustomSpec("report")), SETTINGS)
    assert read_order(variables_of(pod)).payload == b"\xff\0"
    assert "SCHEDULEDJOB_PAYLOAD" not in variables_of(pod)


def test_a_token_comes_with_a_service_account() -> None:
    assert with_template({})["spec"]["automountServiceAccountToken"] is False
    assert with_template({"automountServiceAccountToken": True})["spec"]["automountServiceAccountToken"] is False
    named = build_pod(attempt(), container(service_account="robot"), SETTINGS)
    assert named["spec"]["serviceAccountName"] == "robot"
    assert "automountServiceAccountToken" not in named["spec"]
    assert "automountServiceAccountToken" not in with_template({"serviceAccountName": "robot"})["spec"]


def test_the_backstop_comes_after_everything_else() -> None:
    blueprint = Blueprint(container(), SETTINGS)
    assert "activeDeadlineSeconds" not in blueprint.pod(attempt())["spec"]
    assert timeout_of(blueprint.pod(attempt())) is None
    assert timeout_of(blueprint.pod(attempt(timeout=10.5))) == 10.5
    assert blueprint.pod(attempt(timeout=10.5), pending=300.0)["spec"]["activeDeadlineSeconds"] == 311 + 30 + 60
    own = Blueprint(container(template={"spec": {"activeDeadlineSeconds": 5}}), SETTINGS)
    assert own.pod(attempt(timeout=10.5))["spec"]["activeDeadlineSeconds"] == 5


def test_a_template_adds_fields() -> None:
    pod = with_template(
        {
            "nodeSelector": {"disk": "ssd"},
            "initContainers": [{"name": "setup", "image": "busybox"}],
            "containers": [
                {"name": "proxy", "image": "proxy"},
                {
                    "name": "job",
                    "image": "other",
                    "env": [
                        {"name": "A", "value": "$(SCHEDULEDJOB_SLOT)"},
                        {"name": "SCHEDULEDJOB_SLOT", "value": "x"},
                    ],
                    "resources": {"limits": {"memory": "1Gi"}},
                },
            ],
        },
        labels={"team": "a", "scheduledjobs.dev/uid": "x", "scheduledjobs.dev/other": "x"},
        annotations={"note": "yes", "scheduledjobs.dev/run-id": "x"},
        finalizers=["a/b"],
        ownerReferences=[{"uid": "x"}],
    )
    assert [container["name"] for container in pod["spec"]["containers"]] == ["job", "proxy"]
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    job = job_of(pod)
    assert job["image"] == "busybox:1"
    assert job["resources"] == {"limits": {"memory": "1Gi"}}
    assert job["env"][-1] == {"name": "A", "value": "$(SCHEDULEDJOB_SLOT)"}
    assert variables_of(pod)["SCHEDULEDJOB_SLOT"] == "2026-12-01T10:00:00Z"
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["scheduledjobs.dev/uid"] == UID
    assert "scheduledjobs.dev/other" not in pod["metadata"]["labels"]
    assert pod["metadata"]["annotations"]["note"] == "yes"
    assert "finalizers" not in pod["metadata"]
    assert [owner["uid"] for owner in pod["metadata"]["ownerReferences"]] == [UID]
    for one in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        assert one["securityContext"] == {"allowPrivilegeEscalation": False}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"containers": {"name": "job"}}, r"template.spec.containers is an object: a list belongs here"),
        ({"containers": ["job"]}, r"containers\[0\] is text: an object belongs here"),
        ({"containers": [{"image": "x"}]}, r"containers\[0\] has no name: give it one"),
        ({"containers": [{"name": "job"}, {"name": "job"}]}, 'two items with name "job"'),
        ({"securityContext": []}, "securityContext is a list: an object belongs here"),
        ({"terminationGracePeriodSeconds": "10"}, "terminationGracePeriodSeconds must be a whole number"),
        ({"containers": [{"name": "job", "env": [{"name": "A"}, {"name": "A"}]}]}, 'two items with name "A"'),
    ],
)
def test_a_template_that_can_not_be_merged(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_template(spec)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"sepc": {}}, 'template has no field "sepc"'),
        ({"metadata": {"lables": {"a": "b"}}}, 'template.metadata has no field "lables"'),
    ],
)
def test_a_field_of_the_template_that_would_be_dropped_is_refused(template: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_pod(attempt(), container(template=template), SETTINGS)
    build_pod(attempt(), container(template={"metadata": {"creationTimestamp": None}}), SETTINGS)


def test_the_restricted_setting_on_an_ordinary_container() -> None:
    pod = build_pod(attempt(), container(), RESTRICTED)
    assert pod["spec"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True}
    assert job_of(pod)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


# ---------------------------------------------------------------- properties

_LEAVES = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "job", "x", "Always", "robot"])
_NAMES = st.sampled_from(
    [
        "name",
        "containers",
        "initContainers",
        "env",
        "volumes",
        "restartPolicy",
        "serviceAccountName",
        "automountServiceAccountToken",
        "image",
        "args",
        "command",
        "metadata",
        "ownerReferences",
        "securityContext",
        "privileged",
        "labels",
        "restartPolicyRules",
        "hostPath",
        "value",
        "volumeMounts",
        "mountPath",
        "enableServiceLinks",
        "runAsNonRoot",
        "ephemeralContainers",
        "terminationMessagePath",
    ]
)
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4))
_CONTAINERS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["job", "a", "b"])}, optional={"env": _JSON, "image": _LEAVES})
    | st.dictionaries(_NAMES, _JSON, max_size=5),
    max_size=3,
)
_TEMPLATES = st.fixed_dictionaries(
    {"spec": st.dictionaries(_NAMES, _JSON, max_size=6) | st.fixed_dictionaries({"containers": _CONTAINERS})},
    optional={"metadata": st.dictionaries(_NAMES, _JSON, max_size=3)},
)
_SPECS = st.sampled_from(
    [
        container(),
        PodSpec(shell=ShellSpec("true"), image="alpine"),
        PodSpec(shell=ShellSpec("true", env={"P": SECRET})),
        PodSpec(curl=CurlSpec("https://example.com")),
    ]
)


def test_the_stored_job_of_an_earlier_version_is_read() -> None:
    """It also said how many Pods are kept, which the definition says now."""
    stored = {"container": {"image": "busybox:1"}, "keep": {"succeeded": 0, "ttl": 60}}
    assert msgspec.convert(stored, PodSpec) == PodSpec(container=ContainerSpec("busybox:1"))


@given(_SPECS, _TEMPLATES, st.booleans())
def test_no_template_overrides_the_operator(spec: PodSpec, template: dict[str, Any], restricted: bool) -> None:
    settings = RESTRICTED if restricted else SETTINGS
    plain = build_pod(attempt(), spec, settings)
    before = copy.deepcopy(template)
    mine = msgspec.convert(msgspec.to_builtins(spec), PodSpec)
    mine.template = template
    try:
        pod = build_pod(attempt(), mine, settings)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "template" in refused
        return
    assert template == before
    for name in ("name", "namespace", "ownerReferences"):
        assert pod["metadata"][name] == plain["metadata"][name]
    assert pod["metadata"]["labels"].items() >= plain["metadata"]["labels"].items()
    assert pod["metadata"]["annotations"].items() >= plain["metadata"]["annotations"].items()
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["enableServiceLinks"] is False
    job, own = job_of(pod), job_of(plain)
    assert "restartPolicy" not in job
    for name in ("image", "command"):
        assert job[name] == own[name]
    assert variables_of(pod).items() >= variables_of(plain).items()
    assert len(variables_of(pod)) == len(job["env"])
    if spec.by_runner:
        assert job["securityContext"] == own["securityContext"]
        assert pod["spec"]["automountServiceAccountToken"] is False


@given(st.text(max_size=80), st.text(min_size=1, max_size=80), st.integers(1, 10**7))
def test_a_name_is_a_dns_label(name: str, run_id: str, number: int) -> None:
    found = pod_name(name, run_id, number)
    assert len(found) <= 63
    assert found.isascii()
    assert all(part.islower() or part.isdigit() or part == "-" for part in found)
    assert found[0] != "-"
    assert found == pod_name(name, run_id, number)
    assert found != pod_name(name, run_id, number + 1)


JOB = {"metadata": {"namespace": "team-a", "name": "nightly-report", "uid": UID}}


def test_a_pod_belongs_to_its_attempt_only() -> None:
    pod = build_pod(attempt(), container(), SETTINGS)
    assert is_of(pod, attempt())
    assert not is_of(pod, attempt(attempt=2))
    assert not is_of(pod, attempt(run_id=f"{UID}-1"))
    assert not is_of(pod, attempt(uid="other"))
    assert not is_of(pod, attempt(namespace="team-b"))
    assert not is_of(pod, attempt(name="other"))
    assert is_of_job(pod, JOB)
    for part, other in (("namespace", "team-b"), ("name", "other"), ("uid", "other")):
        assert not is_of_job(pod, {"metadata": {**JOB["metadata"], part: other}})


@pytest.mark.parametrize(
    ("token", "label"), [("deploy-7", "deploy-7"), ("a/b c", None), ("x" * 64, None), ("-a", None)]
)
def test_a_manual_run_has_a_label_with_its_token(token: str, label: str | None) -> None:
    pod = build_pod(attempt(run_id=f"{UID}-{token}"), container(), SETTINGS)
    found = pod["metadata"]["labels"]["scheduledjobs.dev/token"]
    assert found == label if label is not None else (found != token and found.isalnum())
    assert "scheduledjobs.dev/slot" not in pod["metadata"]["labels"]
