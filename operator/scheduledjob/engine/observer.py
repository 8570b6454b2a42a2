"""What a replica tells of itself while it works: for logs, metrics and the live table. All calls are in its event loop
and must return quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.state import Outcome, RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros

    from .executor import Attempt
    from .store import Row, Settlement


class Observer:
    """Override what is of interest; each does nothing here."""

    def claimed(self, row: Row) -> None:
        """A row is ours now."""

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        """An attempt starts, ``late`` after it was due by the store's clock."""

    def adopted(self, attempt: Attempt) -> None:
        """An attempt that an earlier owner started goes on with this replica."""

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        """An attempt failed, the next starts at ``due``."""

    def recorded(self, records: Sequence[RunRecord]) -> None:
        """Runs ended, and history has them."""

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        """So many more slots did not run, for that reason, and the store has it."""

    def settled(self, row: Row, settlement: Settlement) -> None:
        """The state of a row was written: what anybody shows of it may be out of date."""

    def released(self, slug: str, wake_at: Instant | None) -> None:
        """A row is nobody's now, and due at ``wake_at``."""

    def fenced(self, slug: str, why: str) -> None:
        """A row was lost to somebody else; what ran under it was stopped and does not count."""

    def overdue(self, slug: str) -> None:
        """No success for longer than ``expectSuccessWithin``."""
