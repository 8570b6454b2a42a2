"""Manual: no slots, only runs that somebody starts by hand.

Every schedule can be run by hand. This trigger is for a schedule that runs only by hand. A schedule with this trigger
never completes for lack of slots, even if its other triggers have none left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stored_trigger import StoredTrigger

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant


class ManualTrigger(StoredTrigger, frozen=True, tag="manual"):
    """It has no slots."""

    def bind(self, seed: str, created: Instant) -> ManualTrigger:
        """Return itself, because it depends on nothing."""
        return self

    def short(self) -> str:
        """Return ``manual``."""
        return "manual"

    def long(self, seed: str) -> str:
        """Return ``by hand, when somebody starts a run``."""
        return "by hand, when somebody starts a run"
