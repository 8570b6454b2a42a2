"""The claim watermark: a claim does not read index entries below it.

Every claim leaves dead entries at the front of the index of due rows. As long as a transaction holds an old snapshot (a
long report, a backup), they cannot be removed, and each claim would walk over all of them. So a claim remembers up to
which ``wake_at`` it has taken everything, and the next claim starts there.

The watermark is an optimisation and may be wrong, because a later commit may add a row below it. Each such row that
this process hears of lowers it, and once a second a claim ignores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import SECOND, Instant, Micros
from scheduledjob.engine.clock import boot_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

BOTTOM: Instant = -(2**63)

SLACK: Micros = SECOND // 10
"""The watermark stays this far behind a claim, for transactions that began before the claim and commit after it."""

INTERVAL = 1.0
"""Seconds after which a claim ignores the watermark."""


class ClaimWatermark:
    """The watermark of one replica, for the kinds that it claims."""

    def __init__(self, clock: Callable[[], float] = boot_seconds) -> None:
        self._clock = clock
        self._watermark = BOTTOM
        self._kinds: frozenset[str] = frozenset()
        self._ignored_at = float("-inf")
        self._lowered = 0

    def begin(self, kinds: frozenset[str]) -> tuple[Instant, int]:
        """Return the ``wake_at`` from which a claim reads that starts now, and a token for ``finish``."""
        now = self._clock()
        if kinds != self._kinds:
            self._kinds = kinds
            self.lower(BOTTOM)
        if now - self._ignored_at >= INTERVAL:
            self._ignored_at = now
            return BOTTOM, self._lowered
        return self._watermark, self._lowered

    @property
    def known(self) -> Instant:
        return self._watermark

    def finish(self, token: int, upto: Instant) -> None:
        """Raise the watermark after a claim that took every row due before ``upto``.

        Does nothing if the watermark was lowered since ``begin``.
        """
        if token == self._lowered:
            self._watermark = max(self._watermark, upto - SLACK)

    def lower(self, due: Instant) -> None:
        """Lower the watermark for a row that is due at ``due``, which a claim in flight may not see."""
        self._lowered += 1
        self._watermark = min(self._watermark, due)
