"""Time zones in the simulation: replicas with different zone data for a while.

``ZONE`` is a zone whose offset from UTC each release of the data moves by some seconds. A replica has the release that
its machine has, and a client that of any replica.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

from scheduledjob.domain.schedule import due
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND, Segment, Zone, zone_of
from scheduledjob.domain.triggers import cron
from scheduledjob.engine import zone_refresh
from scheduledjob.engine.zone_refresh import ZoneRefresh

from .loop import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.domain.time.instants import Instant

    from .strikes import Strikes

ZONE = "Simulated/Moved"
OFFSETS = {"2026a": 0, "2026b": 9, "2026c": 17}
"""Seconds from UTC, by release."""
RELEASES = list(OFFSETS)
OFTEN, RARELY = "*/20 * * * * *", "30 15 * * * *"
"""The second comes once in a history, long after the faults."""
_PERIODS = {OFTEN: (20, 0), RARELY: (3600, 930)}
"""Seconds: by expression, the period and the first local second in it."""


class SimulatedZoneData:
    """The release that the running event loop has, or the clients."""

    def __init__(self, strikes: Strikes) -> None:
        self._strikes = strikes
        self.of_clients = RELEASES[0]

    @property
    def version(self) -> str:
        loop = asyncio._get_running_loop()
        return loop.zone_data if isinstance(loop, VirtualLoop) else self.of_clients

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the engine use these data."""
        _MOVED.data = self
        planned_by = ZoneRefresh.planned_by

        def count(refresh: ZoneRefresh, version: str) -> None:
            newer, older = ("here", "elsewhere") if version < self.version else ("elsewhere", "here")
            self._strikes.effect(f"update zones: newer data {newer}, older data {older}")
            planned_by(refresh, version)

        with ExitStack() as stack:
            for target, name, value in (
                (due, "ZONE_DATA", self),
                (zone_refresh, "ZONE_DATA", self),
                (zone_refresh, "ZONE_REFRESH_INTERVAL", 3.0),
                (zone_refresh, "ZONE_RECHECK_INTERVAL", 3.0),
                (zone_refresh, "_WHILE_WORKING", 3 * SECOND),
                (cron, "zone_of", _zone_of),
                (ZoneRefresh, "planned_by", count),
            ):
                stack.enter_context(patch.object(target, name, value))
            yield


class _MovedZone(Zone):
    data: SimulatedZoneData
    """Of the scenario that is played."""

    def at(self, second: int) -> Segment:
        offset = OFFSETS[self.data.version]
        return Segment(FIRST_SECOND, LAST_SECOND, offset, FIRST_SECOND + offset)


_MOVED = _MovedZone(ZONE, None)  # type: ignore[arg-type]  # it needs no ZoneInfo


def _zone_of(name: str) -> Zone:
    return _MOVED if name == ZONE else zone_of(name)


def slots_by(release: str, expression: str, after: Instant, until: Instant) -> list[Instant]:
    """Return the slots ``after < slot <= until`` by a release, without the engine's code."""
    period, first = _PERIODS[expression]
    return [
        second * SECOND
        for second in range(after // SECOND, until // SECOND + 1)
        if (second + OFFSETS[release]) % period == first and after < second * SECOND <= until
    ]
