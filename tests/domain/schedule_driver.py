"""Turns one schedule by hand, without a store: what the tests of its rules have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduledjob.domain.schedule import machine, runs
from scheduledjob.domain.schedule.actions import Actions, AttemptEnd, EndDetails
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import RunRecord, State
from scheduledjob.domain.time.instants import MINUTE, SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger

T: Instant = 1_790_000_000 * SECOND
"""When the schedules here are created; a whole minute."""
EVERY_MINUTE = (EveryTrigger(MINUTE, T),)


def defined(**fields: Any) -> Definition:
    return Definition(**{"kind": "k", "triggers": EVERY_MINUTE} | fields)


@dataclass
class Driver:
    """A schedule whose every write arrives at once; time is in seconds after ``T``."""

    definition: Definition
    first: Instant | None = None
    schedule: Schedule = field(init=False)
    revision: int = 1
    written: list[RunRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        slots = slots_of(Plan(self.definition), seed="s", created=T)
        state = first_state(self.definition, slots, "u", T, self.first)
        self.schedule = Schedule("s", "u", self.definition, slots, state, "me")

    @property
    def state(self) -> State:
        return self.schedule.state

    @property
    def records(self) -> list[RunRecord]:
        """Runs that have ended, oldest first, written or not."""
        return [*self.written, *self.schedule.writes.records]

    def write(self) -> None:
        """Write what is to be stored, and have the answer at once."""
        _, records = self.schedule.writes.begin(self.schedule.state)
        self.written += records
        self.schedule.writes.answered()

    def at(self, seconds: float) -> Actions:
        """Everything that is due at that time is started and stored."""
        now = T + round(seconds * SECOND)
        actions = machine.step(self.schedule, now)
        started = actions.start
        for run in started:
            runs.attempt_started(self.schedule, run, now)
        while (wake := machine.wake_at(self.schedule)) is not None and wake <= now:
            self.write()
            more = machine.step(self.schedule, now)
            for run in more.start:
                runs.attempt_started(self.schedule, run, now)
            started = (*started, *more.start)
            if self.schedule.poll_at is not None and self.schedule.poll_at <= now:
                break  # only a poll is due
        self.write()
        return Actions(started, actions.cancel, actions.became_overdue)

    def starts(self, seconds: float) -> list[float]:
        """The slots, in seconds after ``T``, of the runs that start at that time."""
        return [(run.slot - T) / SECOND for run in self.at(seconds).start]

    def end(
        self, seconds: float, end: AttemptEnd = AttemptEnd.SUCCEEDED, which: int = 0, **details: Any
    ) -> RunRecord | None:
        run = self.schedule.executing[which]
        return runs.attempt_ended(self.schedule, run, end, T + round(seconds * SECOND), EndDetails(**details))

    def run(self, seconds: float, end: AttemptEnd = AttemptEnd.SUCCEEDED) -> RunRecord | None:
        """One attempt that starts at that time and ends a second later."""
        assert len(self.at(seconds).start) == 1
        return self.end(seconds + 1, end)

    def edit(self, seconds: float, **changes: Any) -> None:
        self.definition = msgspec.structs.replace(self.definition, **changes)
        self.revision += 1
        machine.replace_definition(self.schedule, self.definition, slots_of(Plan(self.definition), seed="s", created=T))
        machine.apply_revision(self.schedule, self.revision, T + round(seconds * SECOND), None)

    def die(self, seconds: float) -> None:
        """The owner dies, and another one takes over what was stored last."""
        old = self.schedule
        self.schedule = Schedule("s", "u", old.definition, old.slots, State.decode(old.state.encode()), "other")
        machine.recover(self.schedule, T + round(seconds * SECOND))
