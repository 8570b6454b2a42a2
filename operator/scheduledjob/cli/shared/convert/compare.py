"""The Pod of a CronJob beside the Pod of its ScheduledJob: every field in which they differ, in words.

Nothing here trusts the conversion. The one Pod is what Kubernetes' Job controller would make of the CronJob's template,
the other what the operator's own builder makes of the converted manifest; both are compared field by field, with what
the API server would write into either as a default put in.
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
from scheduledjob.jobs.container.pod_spec import PodSettings, PodSpec
from scheduledjob.manifests.pod_translation import pod_description

from .template import field_references, pull_policy_of, renamed_annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .cronjob import Converted

_SAMPLE = 1_796_119_200_000_000
_UID = "00000000-0000-4000-8000-000000000000"
_PENDING = 300.0
_ABSENT = object()
_KEYED = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
}  # fmt: skip
_SHOWN = 60


class Difference(NamedTuple):
    """A field by its path, as it was and as it is; None where it is absent."""

    path: str
    was: Any
    now: Any


def pod_of_cronjob(cronjob: Mapping[str, Any]) -> dict[str, Any]:
    """The Pod that a Job of this CronJob would create, without what names the Job."""
    template = copy.deepcopy(cronjob["spec"]["jobTemplate"]["spec"]["template"])
    metadata = template.get("metadata") or {}
    kept = {name: metadata[name] for name in ("labels", "annotations") if metadata.get(name)}
    return {"metadata": kept, "spec": template.get("spec") or {}}


def pod_of_scheduledjob(converted: Converted, settings: PodSettings | None = None) -> dict[str, Any]:
    """The Pod of the converted job's first attempt at some slot. Raises ``ValueError`` where it can't be built."""
    job = converted.job
    namespace, name = job.key
    timeouts = job.spec.timeouts
    limit = None if timeouts is None or timeouts.total is None else parse_duration(timeouts.total) / SECOND
    attempt = Attempt(f"{_UID}-{_SAMPLE}", _UID, namespace, name, _SAMPLE, 1, 1, math.inf, timeout=limit)
    attempt.pending = _PENDING
    spec = msgspec.convert(pod_description(job), PodSpec)
    return build_pod(attempt, spec, settings or PodSettings())


def differences(cronjob: Mapping[str, Any], converted: Converted) -> list[Difference]:
    """Every field in which the two Pods differ; containers are compared under the names that they have now."""
    theirs, ours = pod_of_cronjob(cronjob), pod_of_scheduledjob(converted)
    _rename(theirs, converted.template.renamed)
    ours = {"metadata": {name: ours["metadata"][name] for name in ("labels", "annotations")}, "spec": ours["spec"]}
    return list(compare(with_defaults(theirs), with_defaults(ours)))


def compare(was: Any, now: Any, path: str = "", name: str = "") -> Iterator[Difference]:
    """Walks both; lists whose items have a name are compared by it, others as they are."""
    if name == "securityContext":  # the API server writes an empty one
        was, now = (part if isinstance(part, dict) else {} for part in (was, now))
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            below = f"{path}[{key}]" if "/" in key or "." in key else f"{path}.{key}" if path else key
            yield from compare(was.get(key, _ABSENT), now.get(key, _ABSENT), below, key)
        return
    key = _KEYED.get(name)
    if key is not None and isinstance(was, list | type(_ABSENT)) and isinstance(now, list | type(_ABSENT)):
        before = {one.get(key): one for one in was} if isinstance(was, list) else {}
        after = {one.get(key): one for one in now} if isinstance(now, list) else {}
        for item in [*before, *(item for item in after if item not in before)]:
            yield from compare(before.get(item, _ABSENT), after.get(item, _ABSENT), f"{path}[{item}]")
        return
    if was != now and not (_is_nothing(was) and _is_nothing(now)):
        yield Difference(path, None if was is _ABSENT else was, None if now is _ABSENT else now)


def _is_nothing(value: Any) -> bool:
    return value is _ABSENT or value is None or value == {} or value == []


def with_defaults(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The Pod with the defaults that the API server writes and that the two may have said or left out."""
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
            if len({one["name"] for one in env}) < len(env):  # the last one holds
                container["env"] = list({one["name"]: one for one in env}.values())
            for amounts in (container.get("resources") or {}).values():
                if isinstance(amounts, dict):
                    amounts |= {name: _quantity(one) for name, one in amounts.items()}
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
    """What is told of a difference: what it means, where that is known, else the two values."""
    path, was, now = difference
    if path == "spec.enableServiceLinks":
        return "no variables for the namespace's Services (enableServiceLinks is false): names are found by DNS"
    if path == "spec.automountServiceAccountToken":
        return (
            "no service account token: a ScheduledJob that names no service account gets none; for a job that talks to "
            "the API server write execution.pod.serviceAccountName"
        )
    if path == "spec.securityContext.seccompProfile":
        return "seccompProfile is RuntimeDefault, where nothing was said; write Unconfined into the template otherwise"
    if path.endswith("securityContext.allowPrivilegeEscalation") and was is None:
        return (
            "allowPrivilegeEscalation is false, where nothing was said (sudo, ping and other set-user-id programs): "
            "write true into the template otherwise"
        )
    if path == "spec.restartPolicy":
        return (
            f"restartPolicy is Never, not {was}: a failed container was started again in its Pod; here each attempt is "
            "a new Pod, so an emptyDir begins empty and init containers run again"
        )
    if path == "spec.activeDeadlineSeconds" and was is None:
        return "the Pod has an activeDeadlineSeconds, a little longer than timeouts.total, should the operator be away"
    if ".env[SCHEDULEDJOB_" in path and was is None:
        return "the job is told of its run in variables SCHEDULEDJOB_NAME, _SLOT, _ATTEMPT ..."
    if path.startswith(("metadata.labels", "metadata.annotations")) and was is None:
        return (
            "Pods bear labels scheduledjobs.dev/name, /slot, /uid instead of a Job's (job-name, controller-uid): "
            "select them with -l scheduledjobs.dev/name=NAME"
        )
    return f"{path} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
