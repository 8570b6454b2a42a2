"""Triggers: everything that can make a schedule fire, under one roof.

A trigger as a user writes it may still lack what only its schedule knows, its creation; ``bind`` fills that in, and
a ``Timetable`` is the union of bound triggers. Slots are instants; the public methods of ``Cron``, ``Every`` and
``At`` speak in aware datetimes.
"""

from __future__ import annotations

from typing import TypeAlias

from scheduledjob.domain.schedule.misfire import jitter_of

from .cron import Cron, CronError
from .every import Every
from .once import After, At, Following
from .timetable import Bound, Timetable, Window

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
