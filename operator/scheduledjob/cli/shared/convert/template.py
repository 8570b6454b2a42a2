"""A CronJob's Pod template as a ScheduledJob has it: the job's container by itself, the rest as it was.

The container whose end is the job's is called ``job`` in a ScheduledJob's Pod. So one container of the template gets
that name, and so does everything that refers to it by its own. What the API server had written into the template as
defaults is left out: it would write the same again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scheduledjob.jobs.container.pod_names import CONTAINER

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_BY_CONTAINER = ("container.apparmor.security.beta.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/")
"""Annotations that end with a container's name."""
_OF_JOBS = ("job-name", "controller-uid", "batch.kubernetes.io/")
"""Labels that a Job's controller writes."""
_PRIVILEGES = frozenset({"SYS_ADMIN", "CAP_SYS_ADMIN"})

_OF_POD = {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30}
_OF_CONTAINER = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}


@dataclass(slots=True)
class Template:
    """What of a template goes where, and what is to be told of it."""

    container: dict[str, Any]
    """``spec.job.container``."""
    pod: dict[str, Any]
    """``spec.execution.pod``."""
    renamed: dict[str, str]
    """Containers by their names in the CronJob."""
    notes: list[str] = field(default_factory=list)


def template_of(template: dict[str, Any]) -> Template:
    """Takes a template apart. Raises ``ValueError`` where there is no container in it."""
    template = copy.deepcopy(template)
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    containers = spec.get("containers") or []
    if not containers or not all(isinstance(one, dict) and _is_name(one.get("name")) for one in containers):
        raise ValueError("spec.jobTemplate.spec.template.spec.containers: each needs a name, and one there must be")
    notes: list[str] = []
    main = _main(containers, metadata.get("annotations") or {}, notes)
    renamed = _rename(spec, main, notes)
    for one in [*(spec.get("initContainers") or []), *containers]:
        _ready(one, notes)
    for name, value in _OF_POD.items():
        if spec.get(name) == value:
            del spec[name]
    if not spec.get("securityContext"):
        spec.pop("securityContext", None)
    spec.pop("restartPolicy", None)  # always Never
    pod: dict[str, Any] = {}
    account = spec.pop("serviceAccountName", None) or spec.get("serviceAccount")
    spec.pop("serviceAccount", None)
    job = next(one for one in containers if one["name"] == CONTAINER)
    if resources := _resources(job):
        pod["resources"] = resources
    if account:
        pod["serviceAccountName"] = account
    container = {name: job.pop(name) for name in ("image", "command", "args") if name in job}
    container = {name: value for name, value in container.items() if value}
    if len(job) == 1 and len(containers) == 1:
        del spec["containers"]
    kept = {"metadata": _metadata(metadata, renamed, notes), "spec": spec}
    if whole := {name: part for name, part in kept.items() if part}:
        pod["template"] = whole
    if any(_speaks_of_jobs(value) for value in _texts(spec)):
        notes.append(
            "the Pod refers to labels of its Job (job-name, controller-uid): there is no Job; use "
            "SCHEDULEDJOB_RUN_ID, or the labels scheduledjobs.dev/name and scheduledjobs.dev/slot"
        )
    return Template(container, pod, renamed, notes)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _main(containers: list[dict[str, Any]], annotations: dict[str, Any], notes: list[str]) -> str:
    """The container that is the job."""
    names = [str(one["name"]) for one in containers]
    told = annotations.get(DEFAULT_CONTAINER)
    main = told if told in names else names[0]
    if len(names) > 1:
        others = ", ".join(name for name in names if name != main)
        notes.append(
            f'container "{main}" is taken for the job: its end is the end of the run, and {others} ends with it (a '
            f"CronJob waits for all of them); where another is the job, name it in the template's annotation "
            f"{DEFAULT_CONTAINER}"
        )
    return str(main)


def _rename(spec: dict[str, Any], main: str, notes: list[str]) -> dict[str, str]:
    """Give the job's container its name, and another of that name a new one."""
    of_kinds = [one for kind in ("containers", "initContainers") for one in spec.get(kind) or []]
    taken = {one.get("name") for one in of_kinds}
    renamed: dict[str, str] = {}
    if main != CONTAINER:
        renamed[main] = CONTAINER
        notes.append(f'container "{main}" is called "{CONTAINER}" (kubectl logs -c {CONTAINER})')
        if CONTAINER in taken:
            free = next(name for number in range(2, 100) if (name := f"{CONTAINER}-{number}") not in taken)
            renamed[CONTAINER] = free
            notes.append(f'container "{CONTAINER}" is called "{free}", because "{main}" has its name')
    for one in of_kinds:
        one["name"] = renamed.get(one["name"], one["name"])
    for reference in field_references(spec):
        if (owner := reference.get("containerName")) in renamed:
            reference["containerName"] = renamed[owner]
    return renamed


def field_references(part: Any) -> list[dict[str, Any]]:
    """Everywhere a container's name stands in a reference to its resources."""
    found: list[dict[str, Any]] = []
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        found += field_references(value)
    if isinstance(part, dict) and isinstance(reference := part.get("resourceFieldRef"), dict):
        found.append(reference)
    return found


def _ready(container: dict[str, Any], notes: list[str]) -> None:
    """Leave out defaults, and variables that a later one of their name takes the place of."""
    for name, value in _OF_CONTAINER.items():
        if container.get(name) == value:
            del container[name]
    for name in ("resources", "securityContext"):
        if name in container and not container[name]:
            del container[name]
    if container.get("imagePullPolicy") == pull_policy_of(str(container.get("image", ""))):
        del container["imagePullPolicy"]
    _drop_repeated(container, notes)
    context = container.get("securityContext") or {}
    added = set((context.get("capabilities") or {}).get("add") or ())
    if "allowPrivilegeEscalation" not in context and (context.get("privileged") or added & _PRIVILEGES):
        # Unset, it would become false here, which the API server refuses beside these.
        container["securityContext"] = {**context, "allowPrivilegeEscalation": True}


def pull_policy_of(image: str) -> str:
    """What the API server writes where nothing is said."""
    if "@" in image:
        return "IfNotPresent"
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return "Always" if not colon or tag == "latest" else "IfNotPresent"


def _drop_repeated(container: dict[str, Any], notes: list[str]) -> None:
    env = container.get("env") or []
    last = {one.get("name"): index for index, one in enumerate(env) if isinstance(one, dict)}
    if len(last) < len(env) and all(isinstance(one, dict) for one in env):
        twice = [one["name"] for index, one in enumerate(env) if last[one.get("name")] != index]
        container["env"] = [one for index, one in enumerate(env) if last[one.get("name")] == index]
        notes.append(
            f'container "{container["name"]}": the variable {", ".join(sorted(set(twice)))} stood there twice; the '
            "last, which holds, is kept"
        )


def _resources(job: dict[str, Any]) -> dict[str, Any]:
    """Limits and requests; anything else of resources stays in the template."""
    resources = job.get("resources") or {}
    found: dict[str, Any] = {}
    for kind in ("limits", "requests"):
        amounts = resources.get(kind)
        if isinstance(amounts, dict) and amounts:
            found[kind] = {name: f"{one:g}" if isinstance(one, float) else one for name, one in amounts.items()}
            del resources[kind]
    if not resources:
        job.pop("resources", None)
    return found


def _metadata(metadata: dict[str, Any], renamed: dict[str, str], notes: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if labels := metadata.get("labels"):
        kept["labels"] = labels
    annotations = renamed_annotations(metadata.get("annotations") or {}, renamed)
    annotations.pop(DEFAULT_CONTAINER, None)  # which is the job's here, always
    if annotations:
        kept["annotations"] = annotations
    if lost := sorted({"finalizers", "ownerReferences"} & metadata.keys()):
        notes.append(f"not carried over: {', '.join(lost)} of the Pod template; the operator writes its own")
    return kept


def renamed_annotations(annotations: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Annotations in which containers have their new names."""
    found: dict[str, Any] = {}
    for name, value in annotations.items():
        front = next((front for front in _BY_CONTAINER if name.startswith(front)), "")
        container = name.removeprefix(front)
        new = renamed.get(value, value) if name == DEFAULT_CONTAINER else value
        found[front + renamed.get(container, container) if front else name] = new
    return found


def _speaks_of_jobs(text: str) -> bool:
    return any(text == name or f"['{name}" in text for name in _OF_JOBS) or text.startswith(_OF_JOBS[2])


def _texts(part: Any) -> list[str]:
    """Keys and values of what selects by label, or reads the Pod's own fields."""
    found: list[str] = []
    for key, value in part.items() if isinstance(part, dict) else ():
        if key in ("fieldPath", "matchLabelKeys", "key"):
            found += [value] if isinstance(value, str) else value if isinstance(value, list) else []
        elif key == "matchLabels" and isinstance(value, dict):
            found += value
        else:
            found += _texts(value)
    for value in part if isinstance(part, list) else ():
        found += _texts(value)
    return [text for text in found if isinstance(text, str)]
