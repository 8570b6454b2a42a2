"""A hold: one row in the hands of this replica, from its claim to its release.

Its parts are the row as claimed, the schedule that decides what follows, the lease that it is held under, and a
``RunningAttempt`` for each attempt that runs now. What is done with holds is in ``owner.py``.

Thousands of them are made and dropped each second, and the garbage collector would look at each again and again, so
they are kept out of its sight (``gc=False``, tuples in place of lists). They may be, because each cycle that they are
part of is broken when an attempt ends, which every attempt does.
"""

from __future__ import annotations

import asyncio

import msgspec

from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.machine import Schedule
from scheduledjob.domain.schedule.state import Run
from scheduledjob.domain.time.instants import Instant

from .executor import Attempt
from .kinds import JobKind
from .leases import Lease
from .store import Row


class RunningAttempt(msgspec.Struct, eq=False, gc=False):
    """One attempt that this replica runs."""

    run: Run
    run_id: str
    attempt: Attempt
    kind: JobKind
    definition: Definition
    """As it was when the attempt started; an edit holds from the next one on."""
    task: asyncio.Task[None] | None = None
    begun: bool = False
    """Its coroutine has been entered: before that, a cancellation would never reach it."""
    telling: bool = False
    """It has ended, and the hooks of its run are called."""
    end: AttemptEnd | None = None
    """What a cancellation that we asked for means."""
    reason: str = ""


class OwnedSchedule(msgspec.Struct, eq=False, gc=False):
    row: Row
    kind: JobKind
    schedule: Schedule
    lease: Lease
    counted: tuple[int, int, int] = (0, 0, 0)
    """Slots skipped, missed and excluded, as far as the observer knows of them."""
    counting: tuple[int, int, int] = (0, 0, 0)
    """The same, with what the write on its way says."""
    attempts: tuple[RunningAttempt, ...] = ()
    timer_at: Instant | None = None
    timer: int = 0
    """Token of the timer that counts; another one is out of date."""
    settling: bool = False
    """A write is on its way; the next waits for its answer."""
    leaving: bool = False
    """To be given back as soon as nothing of it runs, due or not."""
    released: bool = False
    """Its last write is on its way or done: nothing of it may start any more."""
    gone: bool = False
    """Lost: nothing is written for it but what had ended before."""
    deleted: bool = False
    """Its schedule is known to have been deleted: that the row is there no longer is as it should be."""
    payload: bytes | None = None
    """To be written with the next settlement; None: as it is."""
    result: bytes | None = None
