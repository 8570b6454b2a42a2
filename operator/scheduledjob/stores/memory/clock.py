"""The memory store's clock: the wall clock at the start of the process, advanced by the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from scheduledjob.domain.time.instants import Instant

Clock: TypeAlias = Callable[[], Instant]


def steady_clock() -> Clock:
    """Return a clock that starts at the current time and does not move when somebody sets the system's clock."""
    start = time.time_ns() - time.monotonic_ns()
    return lambda: (start + time.monotonic_ns()) // 1000
