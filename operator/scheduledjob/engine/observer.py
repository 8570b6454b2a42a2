"""What a replica reports of its work, for logs, metrics and the live table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.state import Outcome, RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros

    from .executor import Attempt
    from .stored_row import Row, Settlement


@dataclass(slots=True)
class Stats:
    """Counts of what one replica owns at one moment."""

    owned: int = 0
    """Rows that it owns."""
    ahead: int = 0
    """Rows of which nothing runs: claimed a little before they are due."""
    executing: int = 0
    """Running attempts."""
    detached: int = 0
    """Running attempts that live outside the replica."""
    waiting: int = 0
    """Runs that wait for another run of their schedule."""
    retrying: int = 0
    """Runs that wait for their next attempt. A row with a long backoff is not owned meanwhile."""


class Observer:
    """Does nothing: override the methods that you need. The replica calls them in its event loop, so they must return
    quickly."""

    def claimed(self, row: Row) -> None:
        """This replica owns a row now."""

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        """An attempt starts, ``late`` microseconds after it was due by the store's clock."""

    def adopted(self, attempt: Attempt) -> None:
        """This replica continues an attempt that an earlier owner started."""

    def lacked_capacity(self, slug: str, active: int) -> None:
        """A slot was skipped because ``active`` runs of the schedule are all that the replica has room for."""

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        """An attempt failed; the next one is due at ``due``."""

    def recorded(self, records: Sequence[RunRecord]) -> None:
        """Runs ended, and the store has their records."""

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        """``count`` more slots did not run, for the reason that ``outcome`` names, and the store has that count."""

    def settled(self, row: Row, settlement: Settlement) -> None:
        """The store has a new state of a row, so what is shown of it may be out of date."""

    def released(self, slug: str, wake_at: Instant | None) -> None:
        """No replica owns a row any more; it is due at ``wake_at``."""

    def fenced(self, slug: str, why: str) -> None:
        """A row was lost. Its attempts were stopped, and their results do not count."""

    def lease_thread_failed(self, error: BaseException) -> None:
        """The thread that renews this replica's leases failed, and starts again. Leases that it can't renew in time are
        given up."""

    def hook_given_up(self, slug: str, uid: str, attempts: int, reason: str) -> None:
        """A hook of a schedule failed so often that it is not called again."""

    def overdue(self, slug: str) -> None:
        """A schedule had no success for longer than ``expectSuccessWithin``."""
