"""Translates the models of a manifest into the definition that the engine runs.

A model has what the user wrote, and a ``Definition`` what applies: this module puts the defaults in place. The job
becomes the plain JSON of its executor's spec (``ShellSpec``, ``CurlSpec``). Fields that have their
default are left out of it, so that it is short in the store. ``msgspec.convert`` turns it into the spec again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.backoff import Backoff, Exponential, Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Definition, Keep, Misfire, Timeouts
from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.domain.time.instants import SECOND, Instant, Micros, to_instant
from scheduledjob.jobs.built_in_kind import Place, ResultCode
from scheduledjob.jobs.job_registry import result_code_of

from .checks import parse_instant
from .jobs.job_model import default_timeout, place_of, stored_job
from .jobs.job_part import short, value_of
from .triggers.trigger_model import stored

if TYPE_CHECKING:
    from .jobs.curl_job import Hook
    from .models import ScheduledJob, Spec
    from .policies import MisfireModel, Retry
    from .sources import ValueFrom


def to_definition(job: ScheduledJob) -> Definition:
    """Return the definition of a job that runs inline, with all defaults. ``payload_of`` returns its payload."""
    spec = job.spec
    namespace, _ = job.key
    kind, description = plain_job(spec, namespace)
    optional: dict[str, Any] = {}
    if spec.queue_depth is not None:
        optional["queue_depth"] = spec.queue_depth
    return Definition(
        kind=kind,
        job=description,
        triggers=tuple(stored(trigger) for trigger in spec.triggers),
        exclude=tuple(exclude.to_stored() for exclude in spec.exclude or ()),
        start_at=_instant(spec.start_at),
        end_at=_instant(spec.end_at),
        max_runs=spec.max_runs,
        jitter=_duration(spec.jitter) or 0,
        suspend=bool(spec.suspend),
        concurrency=Concurrency(spec.concurrency_policy or Concurrency.FORBID),
        max_concurrent=spec.max_concurrent,
        misfire=_misfire(spec.misfire),
        retry=_retry(spec.retry, kind),
        timeouts=_timeouts(spec),
        pause_after_failures=spec.pause_after_failures or 0,
        expect_success_within=_duration(spec.expect_success_within),
        keep=keep_of(spec),
        on_failure=_hooks(spec.on_failure, namespace),
        on_success=_hooks(spec.on_success, namespace),
        payload_from=None if spec.payload_from is None else plain_payload_from(spec.payload_from, namespace),
        **optional,
    )


def payload_of(job: ScheduledJob) -> bytes | None:
    """Return the payload in the manifest; None if it has none."""
    return None if job.spec.payload is None else job.spec.payload.encode()


def needs_pod(job: ScheduledJob) -> str | None:
    """Return why a job can run only in a cluster, as in "job.container runs as a Pod"; None if it can run inline."""
    spec = job.spec
    mode = spec.execution.mode if spec.execution is not None else None
    place = place_of(spec.job)
    if place is Place.POD:
        return f"job.{min(spec.job.keys_given)} runs as a Pod"
    if mode == "Pod":
        return "execution.mode is Pod"
    pod = spec.execution.pod if spec.execution is not None else None
    if mode is None and place is Place.INLINE_IF_ALLOWED and pod is not None and pod.image is not None:
        return "execution.pod.image runs the command in a Pod"
    return None


def _duration(text: str | None) -> Micros | None:
    return None if text is None else parse_duration(text)


def _seconds(text: str) -> float:
    return parse_duration(text) / SECOND


def _instant(text: str | None) -> Instant | None:
    return None if text is None else to_instant(parse_instant(text))


def _misfire(misfire: MisfireModel | None) -> Misfire:
    if misfire is None:
        return Misfire()
    given: dict[str, Any] = {}
    if misfire.max_catch_up is not None:
        given["max_catch_up"] = misfire.max_catch_up
    return Misfire(
        catch_up=CatchUp(misfire.catch_up or CatchUp.LAST),
        starting_deadline=_duration(misfire.starting_deadline),
        **given,
    )


def _retry(retry: Retry | None, kind: str) -> Backoff:
    if retry is None:
        return Exponential()
    not_on: tuple[int, ...] = ()
    if retry.not_on is not None:
        by_status = result_code_of(kind) is ResultCode.HTTP_STATUS
        codes = retry.not_on.http_status if by_status else retry.not_on.exit_codes
        not_on = tuple(sorted(set(codes or ())))
    if retry.fixed is not None:
        intervals = [_seconds(interval) for interval in retry.fixed.intervals]
        return Fixed(intervals, retry.max_retries, not_on)
    given: dict[str, Any] = {"not_on": not_on}
    if retry.max_retries is not None:
        given["max_retries"] = retry.max_retries
    growth = retry.exponential
    if growth is not None:
        if growth.initial is not None:
            given["initial"] = _seconds(growth.initial)
        if growth.max is not None:
            given["max"] = _seconds(growth.max)
        if growth.multiplier is not None:
            given["multiplier"] = growth.multiplier
    return Exponential(**given)


def _timeouts(spec: Spec) -> Timeouts:
    timeouts = spec.timeouts
    attempt = _duration(timeouts.attempt) if timeouts is not None else None
    if attempt is None:
        attempt = default_timeout(spec.job)
    if timeouts is None:
        return Timeouts(attempt=attempt)
    given = {} if timeouts.pending is None else {"pending": parse_duration(timeouts.pending)}
    return Timeouts(attempt=attempt, total=_duration(timeouts.total), **given)


def keep_of(spec: Spec) -> Keep:
    """Return how much history is kept."""
    history = spec.history
    if history is None:
        return Keep()
    given = {"succeeded": history.succeeded, "failed": history.failed, "ttl": _duration(history.ttl)}
    return Keep(**{name: value for name, value in given.items() if value is not None})


def plain_job(spec: Spec, namespace: str) -> tuple[str, Any]:
    """Return the kind of a job, and the spec that its executor receives, as plain JSON."""
    return stored_job(spec.job, spec.complete_on, namespace)


def plain_payload_from(source: ValueFrom, namespace: str) -> Any:
    """Return the reference to a payload, as plain JSON."""
    return short(value_of(source, namespace))


def _hooks(hooks: list[Hook] | None, namespace: str) -> tuple[Any, ...]:
    return tuple(hook.to_stored(namespace) for hook in hooks or ())
