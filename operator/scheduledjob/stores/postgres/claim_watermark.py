"""The floor: from which ``wake_at`` on a claim looks.

Every claim leaves dead entries at the front of the index of due rows. As long as somebody holds an old snapshot (a
long report, a backup) they can't be cleared away, and each claim would walk over all of them. So a claim remembers up
to where everything was taken, and the next begins there. That is an optimisation which may be wrong, because a commit
may bring a row below the floor: what this process hears of lowers it, and once a second a claim looks without it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import SECOND, Instant, Micros

if TYPE_CHECKING:
    from collections.abc import Callable

BOTTOM: Instant = -(2**63)

SLACK: Micros = SECOND // 10
"""A transaction that began this long before a claim may commit after it and is still seen by the next."""

INTERVAL = 1.0
"""Seconds after which a claim looks without the floor."""


class ClaimWatermark:
    """The floor of one replica, for the kinds that it claims."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watermark = BOTTOM
        self._kinds: frozenset[str] = frozenset()
        self._looked_below = float("-inf")
        self._lowered = 0

    def begin(self, kinds: frozenset[str]) -> tuple[Instant, int]:
        """From where a claim that starts now looks, and a token for ``finish``."""
        now = self._clock()
        if kinds != self._kinds:
            self._kinds = kinds
            self.lower(BOTTOM)
        if now - self._looked_below >= INTERVAL:
            self._looked_below = now
            return BOTTOM, self._lowered
        return self._watermark, self._lowered

    @property
    def known(self) -> Instant:
        return self._watermark

    def finish(self, token: int, upto: Instant) -> None:
        """A claim took everything due before ``upto``. Counts for nothing if the floor was lowered meanwhile."""
        if token == self._lowered:
            self._watermark = max(self._watermark, upto - SLACK)

    def lower(self, due: Instant) -> None:
        """Something is due at that instant which a claim under way may not see."""
        self._lowered += 1
        self._watermark = min(self._watermark, due)
