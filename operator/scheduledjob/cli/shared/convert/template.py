"""Splits the Pod template of a CronJob into the parts of a ScheduledJob: the container of the job, and the rest.

In the Pod of a ScheduledJob, the container that decides the run is called ``job``. So one container of the template is
renamed, with everything that refers to it. Defaults that the API server wrote into the template are removed, because it
would write them again.
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
"""Prefixes of annotations that end with the name of a container."""
_OF_JOBS = ("job-name", "controller-uid", "batch.kubernetes.io/")
"""Labels that the Job controller writes."""
_PRIVILEGES = frozenset({"SYS_ADMIN", "CAP_SYS_ADMIN"})

_OF_POD = {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30}
_OF_CONTAINER = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}


@dataclass(slots=True)
class Template:
    """The parts of a template, and the notes about them."""

    container: dict[str, Any]
    """``spec.job.container``."""
    pod: dict[str, Any]
    """``spec.execution.pod``."""
    renamed: dict[str, str]
    """By the old name of a container: its new name."""
    notes: list[str] = field(default_factory=list)


def template_of(template: dict[str, Any]) -> Template:
    """Split a template. Raises ``ValueError`` if it has no containers, or one without a name."""
    template = copy.deepcopy(template)
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    containers = spec.get("containers") or []
    if not containers or not all(isinstance(item, dict) and _is_name(item.get("name")) for item in containers):
        raise ValueError(
            "spec.jobTemplate.spec.template.spec.containers: at least one container is needed, each with a name"
        )
    notes: list[str] = []
    main = _main(containers, metadata.get("annotations") or {}, notes)
    renamed = _rename(spec, main, notes)
    for container in [*(spec.get("initContainers") or []), *containers]:
        _clean(container, notes)
    for name, value in _OF_POD.items():
        if spec.get(name) == value:
            del spec[name]
    if not spec.get("securityContext"):
        spec.pop("securityContext", None)
    spec.pop("restartPolicy", None)  # always Never
    pod: dict[str, Any] = {}
    account = spec.pop("serviceAccountName", None) or spec.get("serviceAccount")
    spec.pop("serviceAccount", None)
    job = next(container for container in containers if container["name"] == CONTAINER)
    if resources := _resources(job):
        pod["resources"] = resources
    if account:
        pod["serviceAccountName"] = account
    program = {name: job.pop(name) for name in ("image", "command", "args") if name in job}
    program = {name: value for name, value in program.items() if value}
    if len(job) == 1 and len(containers) == 1:
        del spec["containers"]
    kept = {"metadata": _metadata(metadata, renamed, notes), "spec": spec}
    if whole := {name: part for name, part in kept.items() if part}:
        pod["template"] = whole
    if any(_names_job_label(value) for value in _texts(spec)):
        notes.append(
            "the Pod refers to labels of its Job (job-name, controller-uid), but there is no Job: use "
            "SCHEDULEDJOB_RUN_ID, or the labels scheduledjobs.dev/name and scheduledjobs.dev/slot"
        )
    return Template(program, pod, renamed, notes)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _main(containers: list[dict[str, Any]], annotations: dict[str, Any], notes: list[str]) -> str:
    """Return the name of the container that is the job: the annotated one, or the first."""
    names = [str(container["name"]) for container in containers]
    default = annotations.get(DEFAULT_CONTAINER)
    main = default if default in names else names[0]
    if len(names) > 1:
        others = ", ".join(name for name in names if name != main)
        notes.append(
            f'container "{main}" is the job: when it ends, the run ends and {others} is stopped (a CronJob waits for '
            f"all containers); if another container is the job, name it in the template's annotation "
            f"{DEFAULT_CONTAINER}"
        )
    return str(main)


def _rename(spec: dict[str, Any], main: str, notes: list[str]) -> dict[str, str]:
    """Rename the container of the job to ``job``, and another container of that name to a free name."""
    containers = [container for kind in ("containers", "initContainers") for container in spec.get(kind) or []]
    taken = {container.get("name") for container in containers}
    renamed: dict[str, str] = {}
    if main != CONTAINER:
        renamed[main] = CONTAINER
        notes.append(f'container "{main}" is renamed to "{CONTAINER}" (kubectl logs -c {CONTAINER})')
        if CONTAINER in taken:
            free = next(name for number in range(2, 100) if (name := f"{CONTAINER}-{number}") not in taken)
            renamed[CONTAINER] = free
            notes.append(f'container "{CONTAINER}" is renamed to "{free}", because "{main}" takes its name')
    for container in containers:
        container["name"] = renamed.get(container["name"], container["name"])
    for reference in field_references(spec):
        if (owner := reference.get("containerName")) in renamed:
            reference["containerName"] = renamed[owner]
    return renamed


def field_references(part: Any) -> list[dict[str, Any]]:
    """Return all references to the resources of a container, which contain its name."""
    found: list[dict[str, Any]] = []
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        found += field_references(value)
    if isinstance(part, dict) and isinstance(reference := part.get("resourceFieldRef"), dict):
        found.append(reference)
    return found


def _clean(container: dict[str, Any], notes: list[str]) -> None:
    """Remove defaults, and variables that are set again later."""
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
        # The operator would set it to false, which the API server does not allow for a privileged container.
        container["securityContext"] = {**context, "allowPrivilegeEscalation": True}


def pull_policy_of(image: str) -> str:
    """Return the ``imagePullPolicy`` that is the API server's default for an image."""
    if "@" in image:
        return "IfNotPresent"
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return "Always" if not colon or tag == "latest" else "IfNotPresent"


def _drop_repeated(container: dict[str, Any], notes: list[str]) -> None:
    env = container.get("env") or []
    last = {variable.get("name"): index for index, variable in enumerate(env) if isinstance(variable, dict)}
    if len(last) < len(env) and all(isinstance(variable, dict) for variable in env):
        twice = [variable["name"] for index, variable in enumerate(env) if last[variable.get("name")] != index]
        container["env"] = [variable for index, variable in enumerate(env) if last[variable.get("name")] == index]
        notes.append(
            f'container "{container["name"]}": the variable {", ".join(sorted(set(twice)))} is set twice; the last '
            "value, which counts, is kept"
        )


def _resources(job: dict[str, Any]) -> dict[str, Any]:
    """Take limits and requests out of the container. Anything else in ``resources`` stays in the template."""
    resources = job.get("resources") or {}
    found: dict[str, Any] = {}
    for kind in ("limits", "requests"):
        amounts = resources.get(kind)
        if isinstance(amounts, dict) and amounts:
            found[kind] = {
                name: f"{amount:g}" if isinstance(amount, float) else amount for name, amount in amounts.items()
            }
            del resources[kind]
    if not resources:
        job.pop("resources", None)
    return found


def _metadata(metadata: dict[str, Any], renamed: dict[str, str], notes: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if labels := metadata.get("labels"):
        kept["labels"] = labels
    annotations = renamed_annotations(metadata.get("annotations") or {}, renamed)
    annotations.pop(DEFAULT_CONTAINER, None)  # the operator writes it
    if annotations:
        kept["annotations"] = annotations
    if lost := sorted({"finalizers", "ownerReferences"} & metadata.keys()):
        notes.append(f"not carried over: {', '.join(lost)} of the Pod template; the operator writes its own")
    return kept


def renamed_annotations(annotations: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return the annotations with the new names of containers."""
    found: dict[str, Any] = {}
    for name, value in annotations.items():
        front = next((front for front in _BY_CONTAINER if name.startswith(front)), "")
        container = name.removeprefix(front)
        new = renamed.get(value, value) if name == DEFAULT_CONTAINER else value
        found[front + renamed.get(container, container) if front else name] = new
    return found


def _names_job_label(text: str) -> bool:
    return any(text == name or f"['{name}" in text for name in _OF_JOBS) or text.startswith(_OF_JOBS[2])


def _texts(part: Any) -> list[str]:
    """Return the keys and field paths in label selectors and in references to the Pod's own fields."""
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
