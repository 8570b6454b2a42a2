"""Compares the Pod of a CronJob with the Pod of its ScheduledJob, and describes every difference.

The comparison does not trust the conversion. One Pod is what Kubernetes' Job controller would create from the CronJob's
template. The other is what the operator's own builder creates from the converted manifest. The defaults that the API
server would set are added to both, and then they are compared field by field.
"""

from __future__ import annotations

import copy
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.executor import Attempt
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_security import PodSecurity
from scheduledjob.jobs.container.pod_spec import PodSettings, PodSpec
from scheduledjob.manifests.pod_translation import pod_description

from .template import field_references, pull_policy_of, renamed_annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .cronjob import Converted

_SAMPLE = 1_796_119_200_000_000
_UID = "00000000-0000-4000-8000-000000000000"
_PENDING = 300.0
_SETTINGS = PodSettings(security=PodSecurity.PRIVILEGED)
"""The two Pods are compared whatever an administrator would allow."""
_ABSENT = object()
_KEYED = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
}  # fmt: skip
_SHOWN = 60


class Difference(NamedTuple):
    """The path of a field, and its value before and after the conversion; None if it is absent."""

    path: str
    was: Any
    now: Any


def pod_of_cronjob(cronjob: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Pod that a Job of this CronJob would create, without the labels that name the Job."""
    template = copy.deepcopy(cronjob["spec"]["jobTemplate"]["spec"]["template"])
    metadata = template.get("metadata") or {}
    kept = {name: metadata[name] for name in ("labels", "annotations") if metadata.get(name)}
    return {"metadata": kept, "spec": template.get("spec") or {}}


def pod_of_scheduledjob(converted: Converted, settings: PodSettings | None = None) -> dict[str, Any]:
    """Return the Pod of the converted job's first attempt at a sample slot. Raises ``ValueError`` if it is invalid."""
    job = converted.job
    namespace, name = job.key
    timeouts = job.spec.timeouts
    limit = None if timeouts is None or timeouts.total is None else parse_duration(timeouts.total) / SECOND
    attempt = Attempt(f"{_UID}-{_SAMPLE}", _UID, namespace, name, _SAMPLE, 1, 1, math.inf, timeout=limit)
    attempt.pending = _PENDING
    spec = msgspec.convert(pod_description(job), PodSpec)
    return build_pod(attempt, spec, settings or _SETTINGS)


def differences(cronjob: Mapping[str, Any], converted: Converted) -> list[Difference]:
    """Return every field in which the two Pods differ. Containers are compared under their new names."""
    before, after = pod_of_cronjob(cronjob), pod_of_scheduledjob(converted)
    _rename(before, converted.template.renamed)
    after = {"metadata": {name: after["metadata"][name] for name in ("labels", "annotations")}, "spec": after["spec"]}
    return list(compare(with_defaults(before), with_defaults(after)))


def compare(was: Any, now: Any, path: str = "", name: str = "") -> Iterator[Difference]:
    """Yield the differences of two values. Lists whose items have a name are compared item by item."""
    if name == "securityContext":  # the API server writes an empty one
        was, now = (part if isinstance(part, dict) else {} for part in (was, now))
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            below = f"{path}[{key}]" if "/" in key or "." in key else f"{path}.{key}" if path else key
            yield from compare(was.get(key, _ABSENT), now.get(key, _ABSENT), below, key)
        return
    key = _KEYED.get(name)
    if key is not None and isinstance(was, list | type(_ABSENT)) and isinstance(now, list | type(_ABSENT)):
        before = {item.get(key): item for item in was} if isinstance(was, list) else {}
        after = {item.get(key): item for item in now} if isinstance(now, list) else {}
        for item_name in [*before, *(item_name for item_name in after if item_name not in before)]:
            yield from compare(before.get(item_name, _ABSENT), after.get(item_name, _ABSENT), f"{path}[{item_name}]")
        return
    if was != now and not (_is_empty(was) and _is_empty(now)):
        yield Difference(path, None if was is _ABSENT else was, None if now is _ABSENT else now)


def _is_empty(value: Any) -> bool:
    return value is _ABSENT or value is None or value == {} or value == []


def with_defaults(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Pod with the defaults that the API server would set."""
    whole: dict[str, Any] = copy.deepcopy(dict(pod))
    spec = whole["spec"]
    if spec.get("serviceAccount") and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    spec.pop("serviceAccount", None)
    for name, value in (
        ("restartPolicy", "Always"),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("terminationGracePeriodSeconds", 30),
        ("enableServiceLinks", True),
        ("serviceAccountName", "default"),
    ):
        spec.setdefault(name, value)
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind) or []:
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            container.setdefault("terminationMessagePolicy", "File")
            container.setdefault("imagePullPolicy", pull_policy_of(str(container.get("image", ""))))
            env = container.get("env") or []
            if len({variable["name"] for variable in env}) < len(env):  # of equal names, the last one counts
                container["env"] = list({variable["name"]: variable for variable in env}.values())
            for amounts in (container.get("resources") or {}).values():
                if isinstance(amounts, dict):
                    amounts |= {name: _quantity(amount) for name, amount in amounts.items()}
    return whole


def _quantity(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _rename(pod: dict[str, Any], renamed: Mapping[str, str]) -> None:
    metadata, spec = pod["metadata"], pod["spec"]
    if "annotations" in metadata:
        metadata["annotations"] = renamed_annotations(metadata["annotations"], renamed)
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind) or []:
            container["name"] = renamed.get(container["name"], container["name"])
    for reference in field_references(spec):
        if isinstance(owner := reference.get("containerName"), str):
            reference["containerName"] = renamed.get(owner, owner)


def in_words(difference: Difference) -> str:
    """Return what a difference means, or the two values if that is not known."""
    path, was, now = difference
    if path == "spec.enableServiceLinks":
        return "no variables for the namespace's Services (enableServiceLinks is false): use their DNS names"
    if path == "spec.automountServiceAccountToken":
        return (
            "no service account token: a ScheduledJob gets one only if it names a service account; for a job that "
            "calls the API server, write execution.pod.serviceAccountName"
        )
    if path == "spec.securityContext.seccompProfile":
        return "seccompProfile is RuntimeDefault, because the template sets none; if that is too strict, set Unconfined"
    if path.endswith("securityContext.allowPrivilegeEscalation") and was is None:
        return (
            "allowPrivilegeEscalation is false, because the template does not set it; if the job needs sudo, ping or "
            "another set-user-id program, set it to true"
        )
    if path == "spec.restartPolicy":
        return (
            f"restartPolicy is Never, not {was}: a retry is a new Pod instead of a restarted container, so emptyDir "
            "volumes start empty and init containers run again"
        )
    if path == "spec.activeDeadlineSeconds" and was is None:
        return (
            "the Pod has an activeDeadlineSeconds a little longer than timeouts.total, in case the operator is not "
            "there to stop it"
        )
    if ".env[SCHEDULEDJOB_" in path and was is None:
        return "the job gets variables that describe its run: SCHEDULEDJOB_NAME, _SLOT, _ATTEMPT ..."
    if path.startswith(("metadata.labels", "metadata.annotations")) and was is None:
        return (
            "Pods have the labels scheduledjobs.dev/name, /slot and /uid instead of a Job's (job-name, "
            "controller-uid): select them with -l scheduledjobs.dev/name=NAME"
        )
    return f"{path} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
