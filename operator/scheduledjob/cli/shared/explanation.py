"""``explain``: a ScheduledJob in words: when it runs, and what happens when runs overlap, are late or fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.backoff import Backoff, Exponential
from scheduledjob.domain.schedule.definition import ExcludeCron
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import from_seconds, rfc3339
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.domain.triggers.registry import runs_only_by_hand

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.definition import Definition

    from .planned_schedule import PlannedSchedule


def explanation(schedule: PlannedSchedule) -> dict[str, Any]:
    """Explain a schedule: by heading, a sentence or a list of them."""
    definition = schedule.definition
    seed = f"{schedule.namespace}/{schedule.name}"
    only = "only " if runs_only_by_hand(definition.triggers) else ""
    sentences: dict[str, Any] = {"Runs": [only + trigger.long(seed) for trigger in definition.triggers]}
    if definition.exclude:
        sentences["Except"] = [
            Cron(excluded.expression, excluded.time_zone, seed=seed).explain()
            if isinstance(excluded, ExcludeCron)
            else f"from {rfc3339(excluded.start)} until {rfc3339(excluded.end)}"
            for excluded in definition.exclude
        ]
    window = []
    if definition.start_at is not None:
        window.append(f"not before {rfc3339(definition.start_at)}")
    if definition.end_at is not None:
        window.append(f"not after {rfc3339(definition.end_at)}")
    if definition.max_runs is not None:
        window.append(f"at most {definition.max_runs} runs")
    if window:
        sentences["Bounds"] = window
    if definition.jitter:
        longest = format_duration(definition.jitter)
        sentences["Jitter"] = f"Each run starts up to {longest} after its slot; a slot always has the same delay."
    sentences["Overlap"] = _overlap(definition)
    sentences["When late"] = _misfire(definition)
    sentences["On failure"] = _retry(definition)
    if schedule.inactive_reason:
        sentences["But"] = schedule.inactive_reason
    return sentences


def _overlap(definition: Definition) -> str:
    limit = definition.max_concurrent
    return {
        "Forbid": "If a run is still active when a slot comes, that slot is skipped.",
        "Queue": f"If {limit or 1} {'run is' if limit in (None, 1) else 'runs are'} still active when a slot comes, "
        f"that slot waits. At most {definition.queue_depth} may wait; further slots are skipped.",
        "Replace": "If a run is still active when a slot comes, it is cancelled and the new run takes its place.",
        "Allow": "Any number of runs may be active at once."
        if limit is None
        else f"Up to {limit} runs may be active at once; further slots are skipped.",
    }[definition.concurrency.value]


def _misfire(definition: Definition) -> str:
    misfire = definition.misfire
    deadline = misfire.starting_deadline
    if misfire.catch_up.value == "All":
        which = f"the newest {misfire.max_catch_up} run" if misfire.max_catch_up > 1 else "only the newest one runs"
        order = ", oldest first" if misfire.max_catch_up > 1 else ""
        late = "" if deadline is None else f", if they are at most {format_duration(deadline)} late"
        return f"If slots are missed, {which}{order}{late}. The others are recorded as Missed."
    if misfire.catch_up.value == "Skip" and deadline is None:
        late = ", and only if it is at most 10s late"
    else:
        late = "" if deadline is None else f", and only if it is at most {format_duration(deadline)} late"
    return f"If slots are missed, only the newest one runs{late}. The others are recorded as Missed."


def _retry(definition: Definition) -> str:
    retry = definition.retry
    if not retry.not_on or not retry.max_retries:
        return _waits(retry)
    codes = [str(code) for code in retry.not_on]
    shown = ", ".join(codes[:8]) + (f" and {len(codes) - 8} others" if len(codes) > 8 else "")
    return f"{_waits(retry)} The result {shown} is not retried."


def _waits(retry: Backoff) -> str:
    if isinstance(retry, Exponential):
        if not retry.max_retries:
            return "A failed run is not retried."
        first, longest = _length(retry.initial), _length(retry.max)
        growth = (
            "" if retry.multiplier == 1 else f", then {retry.multiplier:g} times as long each time, up to {longest}"
        )
        return f"A failed attempt is retried {_count(retry.max_retries)}: after {first}{growth}."
    waits = ", ".join(map(_length, retry.intervals))
    if retry.max_retries is None:
        return f"A failed attempt is retried after {waits}."
    if not retry.max_retries:
        return "A failed run is not retried."
    return f"A failed attempt is retried {_count(retry.max_retries)}, after {waits}."


def _length(seconds: float) -> str:
    return format_duration(from_seconds(seconds))


def _count(retries: int) -> str:
    if retries < 0:
        return "without limit"
    return "once" if retries == 1 else f"up to {retries} times"
