"""Triggers: everything that can make a schedule fire, under one roof.

A trigger as a user writes it may still lack what only its schedule knows, its creation; ``bind`` fills that in, and
a ``Timetable`` is the union of bound triggers. Slots are instants; the public methods of ``Cron``, ``Every`` and
``At`` speak in aware datetimes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.domain.cron import Cron, CronError
from scheduledjob.domain.intervals import Every
from scheduledjob.domain.moments import After, At, Following
from scheduledjob.domain.timetable import Bound, Timetable, Window

if TYPE_CHECKING:
    from scheduledjob.domain.instants import Instant, Micros

__all__ = [
    "After",
    "At",
    "Bound",
    "Cron",
    "CronError",
    "Every",
    "Following",
    "Timetable",
    "Trigger",
    "Window",
    "jitter_of",
]

Trigger: TypeAlias = Cron | Every | At | After | Following


def jitter_of(uid: str, slot: Instant, jitter: Micros) -> Micros:
    """By how much a slot is put off: from 0 to ``jitter``, uniform, and the same on every replica and version."""
    digest = blake2b(f"{uid}\0{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) * (jitter + 1) >> 64
