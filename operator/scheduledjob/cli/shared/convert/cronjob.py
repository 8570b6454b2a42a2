"""Converts a CronJob to the manifest of a ScheduledJob, with notes about what changes.

What the CronJob sets is carried over. For what it does not set, the defaults of a ScheduledJob apply; if these change
the Pod or its start times, a note says so. The manifest is always valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.jobs.container.pod_names import CONTAINER
from scheduledjob.manifests.loader import load_text
from scheduledjob.resource_names import API_VERSION, KIND

from .cron_dialect import trigger_of, without_zone
from .failure_policy import not_on
from .template import Template, template_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.manifests.models import ScheduledJob

_ENDLESS = 1_000_000
"""Retries: a larger number means "without limit"."""
_KUBECTL = "kubectl.kubernetes.io/last-applied-configuration"

_KNOWN = frozenset(
    {
        "schedule", "timeZone", "startingDeadlineSeconds", "concurrencyPolicy", "suspend", "jobTemplate",
        "successfulJobsHistoryLimit", "failedJobsHistoryLimit",
    }
)  # fmt: skip
_KNOWN_OF_JOB = frozenset(
    {
        "template", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished",
        "podFailurePolicy",
        "podReplacementPolicy",  # a retry always waits until the previous Pod has ended
    }
)  # fmt: skip

_INSTEAD = {
    "parallelism": "a run has one Pod at a time; write several ScheduledJobs, or divide the work inside the job",
    "completions": "a run is one Pod that succeeds; write several ScheduledJobs, or divide the work inside the job",
    "completionMode": "there is no index; write several ScheduledJobs with different arguments",
    "successPolicy": "a run succeeds with its one Pod",
    "backoffLimitPerIndex": "there is no index; retry.maxRetries applies to the run",
    "maxFailedIndexes": "there is no index",
    "suspend": "a run starts at its slot; spec.suspend suspends the schedule",
    "managedBy": "the ScheduledJob operator runs it",
    "manualSelector": "the operator selects its Pods by uid",
    "selector": "the operator selects its Pods by uid",
}
"""Fields of a Job that a ScheduledJob does not have, and what to do instead."""
_HARMLESS: Mapping[str, Any] = {
    "parallelism": 1,
    "completions": 1,
    "completionMode": "NonIndexed",
    "suspend": False,
    "manualSelector": False,
    "managedBy": "kubernetes.io/job-controller",
}
"""Values of these fields that change nothing, so that no note is needed."""


@dataclass(slots=True)
class Converted:
    """A valid manifest as plain data, and the notes about it."""

    manifest: dict[str, Any]
    job: ScheduledJob
    template: Template
    notes: list[str]


def convert(cronjob: Mapping[str, Any]) -> Converted:
    """Convert a CronJob (``batch/v1``). Raises ``ValueError`` if it can't be converted."""
    metadata = _mapping(cronjob, "metadata")
    spec = _mapping(cronjob, "spec")
    notes: list[str] = []
    if not metadata.get("name"):
        raise ValueError("metadata.name: a ScheduledJob needs a name")
    schedule = spec.get("schedule")
    if not isinstance(schedule, str):
        raise ValueError("spec.schedule is missing")
    job_template = _mapping(spec, "jobTemplate")
    job_spec = _mapping(job_template, "spec")
    status = cronjob.get("status") or {}
    anchor = status.get("lastScheduleTime") or metadata.get("creationTimestamp")
    trigger = trigger_of(schedule, spec.get("timeZone"), anchor)
    _note_schedule(schedule, trigger, notes)
    if "cron" in trigger and "timeZone" not in trigger and not spec.get("timeZone"):
        notes.append("without a timeZone, the schedule is in UTC; a CronJob uses the zone of the controller manager")
    template = template_of(_mapping(job_spec, "template"))
    notes.append("an attempt fails if its Pod has not started within timeouts.pending (default 5m)")
    found: dict[str, Any] = {"triggers": [trigger]}
    if spec.get("suspend"):
        found["suspend"] = True
    found["job"] = {"container": template.container}
    if template.pod:
        found["execution"] = {"pod": template.pod}
    found["concurrencyPolicy"] = spec.get("concurrencyPolicy") or "Allow"
    if found["concurrencyPolicy"] == "Forbid":
        notes.append(
            "concurrencyPolicy Forbid: slots that come while a run is active are skipped; a CronJob starts the newest "
            "of them when that run ends; for that, write concurrencyPolicy: Queue"
        )
    _carry_limits(spec, job_spec, found, notes)
    if policy := _mapping(job_spec, "podFailurePolicy"):
        main = next((old for old, new in template.renamed.items() if new == CONTAINER), CONTAINER)
        if codes := not_on(policy, main, notes):
            found.setdefault("retry", {})["notOn"] = {"exitCodes": codes}
    _note_unsupported(cronjob, spec, job_template, job_spec, notes)
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": _metadata(metadata, notes), "spec": found}
    return Converted(manifest, _valid(manifest), template, [*template.notes, *notes])


def _valid(manifest: dict[str, Any]) -> ScheduledJob:
    loaded = load_text(msgspec.json.encode(manifest).decode())
    if loaded.problems:
        problem = loaded.problems[0]
        raise ValueError(": ".join(part for part in (problem.field, problem.message, problem.allowed) if part))
    return next(iter(loaded.jobs.values())).job


def _mapping(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = part.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be a mapping")
    return found


def _metadata(metadata: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: metadata[name] for name in ("name", "namespace") if metadata.get(name)}
    if labels := metadata.get("labels"):
        kept["labels"] = labels
    if annotations := {key: text for key, text in (metadata.get("annotations") or {}).items() if key != _KUBECTL}:
        kept["annotations"] = annotations
    if lost := [name for name in ("ownerReferences", "finalizers") if metadata.get(name)]:
        notes.append(f"not carried over: metadata.{', metadata.'.join(lost)}, which belong to the CronJob")
    return kept


def _note_schedule(schedule: str, trigger: dict[str, Any], notes: list[str]) -> None:
    if "every" in trigger:
        since = trigger.get("anchor", "the object's creation")
        notes.append(f'schedule "{schedule}" becomes every: {trigger["every"]}, counted from {since}')
        return
    expression, zone = trigger["cron"], trigger.get("timeZone")
    zone_in_it, written = without_zone(schedule)
    if expression.split() != written.split():
        notes.append(f'schedule "{written}" becomes "{expression}", which has the same slots')
    if zone_in_it:
        notes.append(f"the time zone {zone_in_it} in the schedule becomes timeZone")
    if zone is not None and not expression.startswith("@hourly") and not expression.split()[0].startswith("*"):
        notes.append(
            f"{zone}: a local time that daylight saving skips or repeats has one slot; in a CronJob it has none or two"
        )


def _carry_limits(
    spec: Mapping[str, Any], job_spec: Mapping[str, Any], found: dict[str, Any], notes: list[str]
) -> None:
    deadline = _number(spec, "spec", "startingDeadlineSeconds")
    if deadline is not None:
        found["misfire"] = {"startingDeadline": _length(deadline)}
        if deadline < 1:
            notes.append("startingDeadlineSeconds 0 becomes startingDeadline: 1s, the shortest allowed")
    of_job = "spec.jobTemplate.spec"
    retries = _number(job_spec, of_job, "backoffLimit")
    if retries is not None and retries != 6:
        found["retry"] = {"maxRetries": -1 if retries > _ENDLESS else retries}
    total = _number(job_spec, of_job, "activeDeadlineSeconds")
    if total is not None:
        found["timeouts"] = {"total": _length(total)}
    history: dict[str, Any] = {}
    for name, field, default in (
        ("succeeded", "successfulJobsHistoryLimit", 3),
        ("failed", "failedJobsHistoryLimit", 5),
    ):
        limit = _number(spec, "spec", field)
        if limit is not None and limit != default:
            history[name] = min(limit, 10_000)
    ttl = _number(job_spec, of_job, "ttlSecondsAfterFinished")
    if ttl is not None:
        history["ttl"] = _length(ttl)
        notes.append(
            f"ttlSecondsAfterFinished {ttl} becomes history.ttl: {history['ttl']}, after which the record of the run "
            "is deleted too; a finished Pod stays for at least two minutes"
        )
    if history:
        found["history"] = history


def _number(part: Mapping[str, Any], where: str, name: str) -> int | None:
    value = part.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{where}.{name} must be a whole number, 0 or more")
    return value


def _note_unsupported(
    cronjob: Mapping[str, Any],
    spec: Mapping[str, Any],
    job_template: Mapping[str, Any],
    job_spec: Mapping[str, Any],
    notes: list[str],
) -> None:
    notes += [f"not carried over: spec.{name}, which is unknown" for name in sorted(spec.keys() - _KNOWN)]
    for name in sorted(job_spec.keys() - _KNOWN_OF_JOB):
        value = job_spec[name]
        if value is None or value == _HARMLESS.get(name):
            continue
        how = _INSTEAD.get(name, "it is unknown")
        notes.append(f"not carried over: spec.jobTemplate.spec.{name}: {how}")
    of_jobs = [name for name in ("labels", "annotations") if (job_template.get("metadata") or {}).get(name)]
    if of_jobs:
        notes.append(f"not carried over: {' and '.join(of_jobs)} of spec.jobTemplate.metadata, because there is no Job")
    if (cronjob.get("status") or {}).get("active"):
        notes.append("a Job of this CronJob is active now: wait for its end before you start the ScheduledJob")


def _length(seconds: int) -> str:
    return format_duration(max(1, seconds) * SECOND)
