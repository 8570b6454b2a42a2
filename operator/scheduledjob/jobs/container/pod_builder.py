"""Builds the Pod of an attempt: pure, and the same on every replica.

What is the same for all attempts (the merged template, the security context, the order to the runner) is made once for
each definition, as a ``Blueprint``. An attempt adds its name, its labels and a dozen variables. So even if a thousand
Pods are due in the same second, each costs little more than its encoding.

Kubernetes replaces ``$(NAME)`` in commands and variables. This is what the user of ``container`` expects. In all other
jobs ``$`` is doubled, so that the shell gets a command as it was written.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.built_in_kind import values_of
from scheduledjob.jobs.curl.curl_kind import CURL
from scheduledjob.jobs.job_registry import BUILT_IN
from scheduledjob.jobs.shell.environment import LONGEST_STRING, PREFIX, as_string, describe, given
from scheduledjob.jobs.shell.shell_kind import SHELL
from scheduledjob.resource_names import GROUP

from . import pod_names
from .pod_security import (
    OF_RUNNER,
    PodSecurity,
    refuse_credentials,
    refuse_other_profiles,
    refuse_violations,
    with_defaults,
)
from .runner_order import ORDER, REFERENCE, grace_of, variables
from .strategic_merge import as_list, as_object, by_key, merge

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from scheduledjob.engine.executor import Attempt
    from scheduledjob.jobs.shell.shell_spec import ShellSpec

    from .pod_spec import PodSettings, PodSpec

GRACE = 30
"""Seconds between TERM and KILL if the template does not say; the default of Kubernetes."""
MOST_SECONDS = 2**31 - 1
"""The largest ``activeDeadlineSeconds`` that the API server accepts. A job may have a longer timeout."""
_TMP = "sjob-tmp"
_IN_TEMPLATE = "execution.pod.template"
_TEMPLATE = frozenset({"metadata", "spec"})
_METADATA = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""The fields that Kubernetes knows. Only labels and annotations are used."""


def build_pod(attempt: Attempt, spec: PodSpec, settings: PodSettings) -> dict[str, Any]:
    """Return the Pod of an attempt, as JSON. Raises ``ValueError`` if the template or the spec is wrong."""
    return Blueprint(spec, settings).pod(attempt)


class Blueprint:
    """The parts of a Pod that follow from the definition. Raises ``ValueError`` like ``build_pod``."""

    def __init__(self, spec: PodSpec, settings: PodSettings) -> None:
        self.spec = spec
        self._settings = settings
        template = as_object(spec.template, _IN_TEMPLATE)
        self._metadata = as_object(template.get("metadata"), f"{_IN_TEMPLATE}.metadata")
        _refuse_unknown(template, _TEMPLATE, _IN_TEMPLATE)
        _refuse_unknown(self._metadata, _METADATA, f"{_IN_TEMPLATE}.metadata")
        under = as_object(template.get("spec"), f"{_IN_TEMPLATE}.spec")
        self._references: list[tuple[str, str, str]] = []
        self._own: list[dict[str, Any]] = []
        over = self._container()
        whole = self._merged(under, over)
        containers = whole.pop("containers")
        self._job = next(container for container in containers if container["name"] == pod_names.CONTAINER)
        self._env = [variable for variable in self._job.pop("env", ()) if not _is_reserved(variable)]
        self._others = [container for container in containers if container["name"] != pod_names.CONTAINER]
        self._whole = whole
        self.grace: int = _whole_number(
            whole.setdefault("terminationGracePeriodSeconds", GRACE), "terminationGracePeriodSeconds"
        )

    # ---------------------------------------------------------------- for each attempt

    def pod(self, attempt: Attempt, pending: float = 0.0) -> dict[str, Any]:
        """Return the Pod of an attempt, which may take ``pending`` seconds to start."""
        job = {**self._job, "env": [*self._description(attempt), *self._orders(attempt), *self._own, *self._env]}
        spec = {**self._whole, "containers": [job, *self._others]}
        if attempt.timeout is not None:
            backstop = min(MOST_SECONDS, math.ceil(attempt.timeout + pending) + self.grace + self._settings.slack)
            given_seconds = self._whole.get("activeDeadlineSeconds")
            spec["activeDeadlineSeconds"] = min(backstop, given_seconds) if isinstance(given_seconds, int) else backstop
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod_names.pod_name(attempt.name, attempt.run_id, attempt.attempt),
                "namespace": attempt.namespace,
                "labels": self._labels | pod_names.pod_labels(attempt),
                "annotations": self._annotations | pod_names.pod_annotations(attempt),
                "ownerReferences": [pod_names.owner_reference(attempt)],
            },
            "spec": spec,
        }

    def _description(self, attempt: Attempt) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"name": name, "value": _literal(text)} for name, text in describe(attempt).items()
        ]
        if attempt.payload is not None:
            # A manual run may have a payload of its own, which replaces the reference of the spec.
            text = self._as_text(attempt.payload)
            if text is not None:
                found.append({"name": f"{PREFIX}PAYLOAD", "value": _literal(text)})
        elif self.spec.payload_from is not None:
            found.append(_variable(f"{PREFIX}PAYLOAD", self.spec.payload_from))
        return found

    def _as_text(self, payload: bytes) -> str | None:
        """Return the payload as the value of a variable; None: the order to the runner contains it."""
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" not in text and len(payload) + len(f"{PREFIX}PAYLOAD=") <= LONGEST_STRING:
            return text
        if self.spec.by_runner:
            return None
        raise ValueError(
            "the payload can't be a variable in the Pod's environment: it is not UTF-8, has a NUL or more than 128 KiB"
        )

    def _orders(self, attempt: Attempt) -> list[dict[str, Any]]:
        if not self.spec.by_runner:
            return []
        of_attempt: dict[str, Any] = {}
        if attempt.timeout is not None:
            of_attempt["timeout"] = attempt.timeout
        if attempt.payload and self._as_text(attempt.payload) is None:
            of_attempt["payload"] = attempt.payload
        elif attempt.payload is None and (self.spec.payload_from or Value()).secret is not None:
            of_attempt["payload_is_secret"] = True
        text = self._ordered
        if of_attempt:
            text = f"{text[:-1]},{msgspec.json.encode(of_attempt).decode()[1:]}"
        return [{"name": name, "value": _literal(part)} for name, part in variables(text).items()]

    # ---------------------------------------------------------------- once

    @cached_property
    def _ordered(self) -> str:
        spec = self.spec
        if spec.custom is not None:
            kind, job = spec.custom.kind, spec.custom.params
        else:
            kind = CURL.name if spec.curl is not None else SHELL.name
            job = msgspec.to_builtins(spec.shell or spec.curl)
        order = {"kind": kind, "job": job, "grace": grace_of(self.grace), "references": self._references}
        return msgspec.json.encode(order).decode()

    @cached_property
    def _labels(self) -> dict[str, str]:
        return {"app.kubernetes.io/managed-by": "scheduledjob"} | _texts(self._metadata, "labels")

    @cached_property
    def _annotations(self) -> dict[str, str]:
        return {"kubectl.kubernetes.io/default-container": pod_names.CONTAINER} | _texts(self._metadata, "annotations")

    def _container(self) -> dict[str, Any]:
        """Return the operator's fields of the container ``job``, except for those that an attempt adds."""
        spec = self.spec
        if (spec.container, spec.shell, spec.curl, spec.custom).count(None) != 3:
            raise ValueError("a Pod runs exactly one of container, shell, curl and custom")
        found: dict[str, Any] = {"name": pod_names.CONTAINER}
        if spec.container is not None:
            found["image"] = spec.container.image
            if spec.container.command is not None:
                found["command"] = spec.container.command
            if spec.container.args is not None:
                found["args"] = spec.container.args
        elif spec.by_runner:
            found |= self._runner()
        else:
            assert spec.shell is not None
            found["image"] = spec.image
            found |= self._shell(spec.shell)
        if spec.resources:
            found["resources"] = spec.resources
        return found

    def _shell(self, shell: ShellSpec) -> dict[str, Any]:
        given({name: value.value or "" for name, value in shell.env.items()})  # raises for what can't be a variable
        self._own = [_variable(name, value) for name, value in shell.env.items()]
        as_string("command", shell.command)
        found: dict[str, Any] = {"command": [_literal(shell.shell), "-c", _literal(shell.command)], "args": []}
        if shell.working_dir is not None:
            found["workingDir"] = shell.working_dir
        return found

    def _runner(self) -> dict[str, Any]:
        spec, settings = self.spec, self._settings
        described = spec.shell or spec.curl
        if spec.custom is not None and (built_in := BUILT_IN.get(spec.custom.kind)) and built_in.spec is not None:
            described = built_in.params(spec.custom.params)
        self._own = [{"name": "HOME", "value": "/tmp"}, {"name": "TMPDIR", "value": "/tmp"}]  # noqa: S108  # its own
        for value in values_of(described) if described is not None else ():
            kind, reference = _reference(value)
            if reference is not None and (kind, *reference) not in self._references:
                self._own.append(_variable(f"{REFERENCE}{len(self._references)}", value))
                self._references.append((kind, *reference))
        image = spec.image or settings.image
        if not image:
            raise ValueError(
                "the operator does not know its own image (--pod-image), in which this job would run as a Pod: "
                "give the job one, execution.pod.image"
            )
        found: dict[str, Any] = {
            "image": image,
            "command": ["scheduledjob", "run-one", *(["--plugins"] if spec.custom and settings.plugins else [])],
            "args": [],
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "volumeMounts": [{"name": _TMP, "mountPath": "/tmp"}],  # noqa: S108  # of the container
        }
        if settings.image_pull_policy is not None and spec.image is None:
            found["imagePullPolicy"] = settings.image_pull_policy
        return found

    def _merged(self, under: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
        spec = self.spec
        where = f"{_IN_TEMPLATE}.spec"
        over: dict[str, Any] = {"restartPolicy": "Never", "enableServiceLinks": False, "containers": [job]}
        if spec.by_runner:
            over["volumes"] = [{"name": _TMP, "emptyDir": {}}]
        if spec.service_account is not None:
            over["serviceAccountName"] = spec.service_account
        whole = merge(under, over, where)
        if as_list(whole.pop("ephemeralContainers", None), f"{where}.ephemeralContainers"):
            raise ValueError(f"{where}.ephemeralContainers: only a Pod that runs can have them: leave them out")
        if spec.service_account is not None:
            whole.pop("serviceAccount", None)  # its old name
        has_token = not spec.by_runner and bool(whole.get("serviceAccountName") or whole.get("serviceAccount"))
        if not has_token:
            whole["automountServiceAccountToken"] = False
        level = PodSecurity.RESTRICTED if spec.by_runner else self._settings.security
        for kind in ("containers", "initContainers"):
            items = as_list(whole.get(kind), f"{where}.{kind}")
            by_key(items, kind, f"{where}.{kind}")
            if items:
                whole[kind] = [dict(item) for item in items]
        for container in whole["containers"]:
            if container["name"] == pod_names.CONTAINER:
                self._claim(container)
        whole = with_defaults(whole, restricted=level is PodSecurity.RESTRICTED)
        refuse_violations(whole, self._annotations, level)
        if spec.by_runner:
            refuse_other_profiles(whole, self._annotations)
        if not has_token and level is not PodSecurity.PRIVILEGED:
            refuse_credentials(whole)
        return whole

    def _claim(self, container: dict[str, Any]) -> None:
        """Remove the fields of the template's container ``job`` that conflict with the operator's."""
        for name in ("restartPolicy", "restartPolicyRules"):
            container.pop(name, None)
        env = as_list(container.get("env"), f"{_IN_TEMPLATE}.spec.containers[job].env")
        container["env"] = list(by_key(env, "env", f"{_IN_TEMPLATE}.spec.containers[job].env").values())
        own = {variable["name"] for variable in self._own}
        container["env"] = [variable for variable in container["env"] if variable["name"] not in own]
        if self.spec.by_runner:
            container["securityContext"] = dict(OF_RUNNER)
        if not container.get("args"):
            container.pop("args", None)


def _is_reserved(variable: Mapping[str, Any]) -> bool:
    name = str(variable["name"])
    return name.startswith((PREFIX, ORDER, REFERENCE))


def _variable(name: str, value: Value) -> dict[str, Any]:
    """Return a variable of a container. A reference is left to the kubelet."""
    kind, reference = _reference(value)
    if reference is None:
        return {"name": name, "value": _literal(value.value or "")}
    qualified, key = reference
    selector: dict[str, Any] = {"name": qualified.rpartition("/")[2], "key": key}
    if value.optional:
        selector["optional"] = True
    return {"name": name, "valueFrom": {"secretKeyRef" if kind == "Secret" else "configMapKeyRef": selector}}


def _reference(value: Value) -> tuple[str, tuple[str, str] | None]:
    return ("Secret", value.secret) if value.secret is not None else ("ConfigMap", value.config_map)


def _literal(text: str) -> str:
    return text.replace("$", "$$")


def _refuse_unknown(part: Mapping[str, Any], known: Container[str], where: str) -> None:
    """Raise ``ValueError`` for a field that does not exist. Those of the PodSpec are checked by the API server."""
    for name in part:
        if name not in known:
            raise ValueError(f'{where} has no field "{name}": correct its name, or leave it out')


def _texts(metadata: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the labels or annotations of the template, without those that only the operator may write."""
    found: dict[str, str] = {}
    for key, value in as_object(metadata.get(name), f"{_IN_TEMPLATE}.metadata.{name}").items():
        if not isinstance(value, str):
            raise ValueError(f'{_IN_TEMPLATE}.metadata.{name}.{key} is not text: put it in quotes ("...")')
        if key.partition("/")[0] != GROUP:
            found[key] = value
    return found


def _whole_number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{_IN_TEMPLATE}.spec.{name} must be a whole number of seconds, 0 or more")
    return value
