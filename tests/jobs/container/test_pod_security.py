"""The checks of the Pod Security Standards, for the Pod and each kind of container, at each level."""

from __future__ import annotations

from typing import Any

import pytest

from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_security import PodSecurity, refuse_violations
from scheduledjob.jobs.container.pod_spec import PodSettings, PodSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from tests.jobs.container.pod_support import IMAGE, SETTINGS, attempt, container, job_of, with_template
from tests.jobs.container.security_cases import APPARMOR, OF_CONTAINER, OF_POD

EACH_LEVEL = list(PodSecurity)


def settings(level: PodSecurity) -> PodSettings:
    return PodSettings(image=IMAGE, security=level)


def check(template: dict[str, Any], level: PodSecurity, first: PodSecurity, words: str) -> None:
    """Build a Pod at a level, and compare what happens with the first level that forbids it."""
    spec = container(template=template)
    if level < first:
        build_pod(attempt(), spec, settings(level))
        return
    with pytest.raises(ValueError, match=rf"template: .*{words}.*Pod Security Standard {level.word},"):
        build_pod(attempt(), spec, settings(level))


@pytest.mark.parametrize("level", EACH_LEVEL)
@pytest.mark.parametrize(("first", "spec", "words"), OF_POD)
def test_what_a_level_forbids_of_a_pod(
    first: PodSecurity, spec: dict[str, Any], words: str, level: PodSecurity
) -> None:
    check({"spec": spec}, level, first, words)


@pytest.mark.parametrize("level", EACH_LEVEL)
@pytest.mark.parametrize(
    ("kind", "name"), [("containers", "job"), ("containers", "other"), ("initContainers", "setup")]
)
@pytest.mark.parametrize(("first", "part", "words"), OF_CONTAINER)
def test_what_a_level_forbids_of_a_container(
    first: PodSecurity, part: dict[str, Any], words: str, kind: str, name: str, level: PodSecurity
) -> None:
    check({"spec": {kind: [{"name": name, "image": "x", **part}]}}, level, first, words)
    ephemeral = {"ephemeralContainers": [{"name": "debug", **part}]}
    if level >= first:
        with pytest.raises(ValueError, match=words):
            refuse_violations(ephemeral, {}, level)


@pytest.mark.parametrize("level", EACH_LEVEL)
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (APPARMOR, "unconfined", False),
        (APPARMOR, "runtime/default", True),
        (APPARMOR, "localhost/mine", True),
        ("seccomp.security.alpha.kubernetes.io/pod", "unconfined", False),
        ("container.seccomp.security.alpha.kubernetes.io/job", "unconfined", False),
        ("container.seccomp.security.alpha.kubernetes.io/job", "runtime/default", True),
        ("example.com/apparmor", "unconfined", True),
    ],
)
def test_annotations(name: str, value: str, allowed: bool, level: PodSecurity) -> None:
    template = {"metadata": {"annotations": {name: value}}}
    if allowed:
        build_pod(attempt(), container(template=template), settings(level))
    else:
        check(template, level, PodSecurity.BASELINE, f"the annotation {name} is {value}")


LOCAL = {"type": "Localhost", "localhostProfile": "mine.json"}
OWN = PodSpec(shell=ShellSpec("true"))
TOKEN = {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}


@pytest.mark.parametrize("level", EACH_LEVEL)
@pytest.mark.parametrize(
    "template",
    [
        {"metadata": {"annotations": {APPARMOR: "unconfined"}}},
        {"spec": TOKEN},
        {"spec": {"volumes": [{"name": "t", "projected": {"sources": [{"podCertificate": {}}]}}]}},
        {"spec": {"hostUsers": True, "hostPID": True}},
        {"spec": {"initContainers": [{"name": "a", "image": "b", "securityContext": {"runAsUser": 0}}]}},
        {"spec": {"ephemeralContainers": [{"name": "debug"}]}},
        {"spec": {"securityContext": {"seccompProfile": LOCAL}}},
        {"spec": {"initContainers": [{"name": "a", "image": "b", "securityContext": {"seccompProfile": LOCAL}}]}},
        {"spec": {"containers": [{"name": "a", "image": "b", "securityContext": {"seccompProfile": LOCAL}}]}},
        {"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "localhost/mine.json"}}},
    ],
)
def test_a_pod_with_the_operators_image_keeps_what_is_promised(template: dict[str, Any], level: PodSecurity) -> None:
    build_pod(attempt(), OWN, settings(level))
    named = PodSpec(shell=ShellSpec("true"), service_account="robot", template=template)
    for spec in (PodSpec(shell=ShellSpec("true"), template=template), named):
        with pytest.raises(ValueError, match=r"execution\.pod\.template"):
            build_pod(attempt(), spec, settings(level))


def test_a_projected_token_needs_a_service_account() -> None:
    with pytest.raises(ValueError, match="volume t contains a serviceAccountToken, and this Pod has no token"):
        with_template(TOKEN)
    with_template({**TOKEN, "serviceAccountName": "robot"})
    with_template({**TOKEN, "serviceAccountName": "robot", "automountServiceAccountToken": False})
    with_template(TOKEN, settings(PodSecurity.PRIVILEGED))


def test_defaults_do_not_contradict_the_template() -> None:
    """The API server refuses allowPrivilegeEscalation: false together with these."""
    for context in ({"privileged": True}, {"capabilities": {"add": ["SYS_ADMIN"]}}):
        spec = {"containers": [{"name": "job", "securityContext": context}]}
        assert job_of(with_template(spec, settings(PodSecurity.PRIVILEGED)))["securityContext"] == context
    assert job_of(with_template({}, SETTINGS))["securityContext"] == {"allowPrivilegeEscalation": False}
