"""Run one schedule through the domain's state machine with a simulated clock, and record what happens.

A picture gives the spec, the duration and the end of each attempt, and the times without a replica. This module finds
out which slots run, when they run, and which slots don't.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from scheduledjob.domain.schedule import machine, runs
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.time.instants import SECOND, Instant, Micros
from scheduledjob.manifests.loader import load_text
from scheduledjob.manifests.translate import to_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.misfire import Slots
    from scheduledjob.domain.schedule.state import Run

    Ending = Callable[[Run], tuple[Micros, AttemptEnd]]
    """Returns how long an attempt of the run takes, and how it ends."""

TICK: Micros = SECOND


@dataclass
class Attempt:
    """One attempt: when it started, when it ended and how."""

    slot: Instant
    number: int
    started: Instant
    ends: Instant
    end: AttemptEnd


@dataclass
class Story:
    """What happened to a schedule."""

    slots: list[Instant]
    """The slots of its triggers."""
    attempts: list[Attempt] = field(default_factory=list)
    missed: list[Instant] = field(default_factory=list)
    skipped: list[Instant] = field(default_factory=list)


def tell(
    spec: str,
    created: Instant,
    until: Instant,
    ending: Ending,
    away: Sequence[tuple[Instant, Instant]] = (),
) -> Story:
    """Return what happens to a schedule with this ``spec`` (YAML). ``away``: the times without a replica."""
    schedule, slots = _new(spec, created)
    story = Story(_slots_between(slots, created, until))
    running: list[tuple[Run, Attempt]] = []
    now = created
    while now <= until:
        if not any(begin <= now < end for begin, end in away):
            for run, attempt in [pair for pair in running if pair[1].ends <= now]:
                running.remove((run, attempt))
                runs.attempt_ended(schedule, run, attempt.end, now)
            while _step(schedule, now, running, story, ending):
                pass
        now += TICK
    _find_passed_over(story, schedule, away, until)
    return story


def slots_between(spec: str, created: Instant, until: Instant) -> list[Instant]:
    """Return the slots that a schedule with this ``spec`` has after its creation."""
    return _slots_between(_new(spec, created)[1], created, until)


def _new(spec: str, created: Instant) -> tuple[Schedule, Slots]:
    manifest = {"apiVersion": "scheduledjobs.dev/v1beta1", "kind": "ScheduledJob", "metadata": {"name": "job"}}
    manifest["spec"] = {"job": {"custom": {"kind": "print"}}} | yaml.safe_load(spec)
    loaded = load_text(yaml.safe_dump(manifest))
    if loaded.problems:
        raise ValueError("; ".join(str(problem) for problem in loaded.problems))
    (job,) = loaded.jobs.values()
    definition = to_definition(job.job)
    slots = slots_of(Plan(definition), seed="default/job", created=created)
    assert slots is not None
    state = first_state(definition, slots, "uid", created)
    return Schedule("default/job", "uid", definition, slots, state), slots


def _step(schedule: Schedule, now: Instant, running: list[tuple[Run, Attempt]], story: Story, ending: Ending) -> bool:
    """Do what is due now, and return whether there may be more to do. States count as stored immediately."""
    actions = machine.step(schedule, now)
    for run in actions.cancel:
        (attempt,) = [attempt for active, attempt in running if active is run]
        attempt.ends, attempt.end = now, AttemptEnd.CANCELLED
        running[:] = [pair for pair in running if pair[0] is not run]
        runs.attempt_ended(schedule, run, AttemptEnd.CANCELLED, now)
    for run in actions.start:
        takes, end = ending(run)
        attempt = Attempt(run.slot, run.attempt, now, now + takes, end)
        runs.attempt_started(schedule, run, now)
        running.append((run, attempt))
        story.attempts.append(attempt)
    if schedule.writes.changed:
        schedule.writes.begin(schedule.state)
        schedule.writes.answered()
        return True
    return bool(actions.cancel or actions.start)


def _slots_between(slots: Slots, after: Instant, until: Instant) -> list[Instant]:
    found: list[Instant] = []
    slot = slots.next(after)
    while slot is not None and slot <= until:
        found.append(slot)
        slot = slots.next(slot)
    return found


def _find_passed_over(
    story: Story, schedule: Schedule, away: Sequence[tuple[Instant, Instant]], until: Instant
) -> None:
    """Find out why each remaining slot did not run, and check the result against the schedule's counters."""
    ran = {attempt.slot for attempt in story.attempts} | {run.slot for run in schedule.state.waiting}
    for slot in story.slots:
        if slot in ran or slot > until:
            continue
        absent = any(begin <= slot < end for begin, end in away)
        (story.missed if absent else story.skipped).append(slot)
    counted = schedule.state.missed, schedule.state.skipped
    if counted != (len(story.missed), len(story.skipped)):
        raise AssertionError(f"the schedule counts {counted} missed and skipped, the picture {story}")
