"""``validate``: prints every fault of some manifests, each in one line that an editor turns into a link."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.time.instants import Instant, rfc3339, to_instant
from scheduledjob.jobs.built_in_kind import ResultCode
from scheduledjob.jobs.job_registry import result_code_of
from scheduledjob.manifests.loader import load
from scheduledjob.manifests.problems import plain
from scheduledjob.manifests.translate import plain_job, to_definition
from scheduledjob.resource_names import GROUP

from .formats import print_value
from .printing import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.manifests.loader import Loaded
    from scheduledjob.manifests.models import ScheduledJob
    from scheduledjob.manifests.problems import Problem


def print_faults(paths: Sequence[str], output: str) -> bool:
    """Print the faults, warnings, and a summary; return whether there are faults.

    With output ``name``, print the valid jobs.
    """
    loaded = load(with_pipe(paths))
    never = never_runs(loaded, to_instant(datetime.now(UTC)))
    warnings = [(loaded.jobs[key], f"never runs: {reason}") for key, reason in never.items()]
    warnings += [(item, words) for item in loaded.jobs.values() for words in without_effect(item.job)]
    if output == "name":
        for _, name in sorted(loaded.jobs):
            print(f"scheduledjob.{GROUP}/{name}")  # noqa: T201  # a command prints
        for problem in loaded.problems:
            print(problem, file=sys.stderr)  # noqa: T201  # a command prints
    elif output == "table":
        for problem in loaded.problems:
            print(problem)  # noqa: T201  # a command prints
        for item, words in warnings:
            say(f"{plain(item.file)}:{item.line}: warning: {plain(item.job.metadata.name)} {words}")
        print(summary(loaded), file=sys.stderr if loaded.problems else sys.stdout)
    else:
        faults = [_as_json(problem) for problem in loaded.problems]
        warned = [
            {"file": item.file, "line": item.line, "name": item.job.metadata.name, "message": words}
            for item, words in warnings
        ]
        counts = {"files": len(loaded.files), "jobs": len(loaded.jobs)}
        print_value(counts | {"faults": faults, "warnings": warned}, output)
    return bool(loaded.problems)


def never_runs(loaded: Loaded, at: Instant) -> dict[tuple[str, str], str]:
    """Return why jobs never run if they are created at an instant, by (namespace, name)."""
    reasons: dict[tuple[str, str], str] = {}
    following: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for key, item in loaded.jobs.items():
        definition, seed = to_definition(item.job), "/".join(key)
        slots = slots_of(Plan(definition), seed=seed, created=at)
        if slots is None or slots.by_hand or slots.next(at) is not None:
            continue
        if definition.end_at is not None and definition.end_at <= at:
            reasons[key] = f"endAt is past ({rfc3339(definition.end_at)})"
        elif slots.following:
            following[key] = {(key[0], trigger.name) for trigger in slots.following}
        else:
            reasons[key] = _without_slots(definition, seed, at)
    while stopped := [key for key, upstreams in following.items() if upstreams <= reasons.keys()]:
        for key in stopped:
            names = ", ".join(sorted(name for _, name in following.pop(key)))
            reasons[key] = f"it follows only jobs that never run ({names})"
    return reasons


def _without_slots(definition: Definition, seed: str, at: Instant) -> str:
    """Return why a job without slots from ``at`` on has none."""

    def has_slots(**without: Any) -> bool:
        slots = slots_of(Plan(msgspec.structs.replace(definition, **without)), seed=seed, created=at)
        return slots is not None and slots.next(at) is not None

    if definition.exclude and has_slots(exclude=()):
        return "exclude leaves out every slot"
    if has_slots(exclude=(), start_at=None, end_at=None):
        return "no slot is between startAt and endAt"
    return "all its slots are past"


def without_effect(job: ScheduledJob) -> list[str]:
    """Return what a job says about results that its kind never has."""
    kind, _ = plain_job(job.spec, "")
    by_status = result_code_of(kind) is ResultCode.HTTP_STATUS
    retry = job.spec.retry
    lists = {"retry.notOn": retry.not_on if retry is not None else None, "completeOn": job.spec.complete_on}
    found = []
    for field, results in lists.items():
        if results is None:
            continue
        if by_status and results.exit_codes and not results.http_status:
            found.append(f"has {field}.exitCodes, which has no effect: a curl job has httpStatus")
        elif not by_status and results.http_status and not results.exit_codes:
            found.append(f"has {field}.httpStatus, which has no effect: only a curl job has one")
    return found


def with_pipe(paths: Sequence[str]) -> list[str]:
    """Replace ``-`` among the paths with standard input."""
    return ["/dev/stdin" if path == "-" else path for path in paths]


def summary(loaded: Loaded) -> str:
    """Return the result in one line."""
    faults = _counted(len(loaded.problems), "fault") if loaded.problems else "no faults"
    found = f"{_counted(len(loaded.jobs), 'valid job')} in {_counted(len(loaded.files), 'file')}"
    ignored = len(loaded.ignored)
    others = f", {_counted(ignored, 'document')} of other kinds ignored" if ignored else ""
    return f"{faults}; {found}{others}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "field": problem.field,
        "message": problem.message,
        "allowed": problem.allowed,
    }
