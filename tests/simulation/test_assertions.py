"""A failed assertion in a replica fails the simulation, whichever task or callback it is raised in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from scheduledjob.domain.schedule.write_tracker import WriteTracker
from scheduledjob.engine.owned_schedule import OwnedSchedule, Phase
from scheduledjob.engine.ownership import Ownership

from .__main__ import check_seed
from .checker import check
from .scenario import play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduledjob.engine.stored_row import Disposition

MAX_SEEDS = 20


@contextmanager
def released_rows_become_active() -> Iterator[None]:
    """Raised in the callback of a timer, in the task of an attempt, and in the claimer's task."""
    write = Ownership._write

    def write_and_activate(self: Ownership, owned: OwnedSchedule, disposition: Disposition, wake: int | None) -> None:
        write(self, owned, disposition, wake)
        if owned.phase is Phase.RELEASED:
            owned.enter(Phase.ACTIVE)

    with patch.object(Ownership, "_write", write_and_activate):
        yield


@contextmanager
def lost_rows_are_drained() -> Iterator[None]:
    """Raised where the leases report that they expired, or that a renewal missed a row."""
    lose = Ownership._lose

    def lose_and_drain(self: Ownership, owned: OwnedSchedule, why: str) -> None:
        lose(self, owned, why)
        owned.enter(Phase.DRAINING)

    with patch.object(Ownership, "_lose", lose_and_drain):
        yield


@contextmanager
def answers_count_twice() -> Iterator[None]:
    """Raised in the task that writes to the store."""
    answered = WriteTracker.answered

    def twice(self: WriteTracker) -> None:
        answered(self)
        answered(self)

    with patch.object(WriteTracker, "answered", twice):
        yield


@contextmanager
def rows_are_released_too_early() -> Iterator[None]:
    """A row is released while its attempts run."""
    advance = Ownership._advance

    def release(self: Ownership, owned: OwnedSchedule, *now: Any) -> None:
        advance(self, owned, *now)
        if owned.attempts and owned.phase is Phase.ACTIVE and not owned.schedule.writes.in_flight:
            self._wait_or_release(owned, self._context.clock.now())

    with patch.object(Ownership, "_advance", release):
        yield


ILLEGAL: dict[str, tuple[Callable[[], Any], str]] = {
    "released rows become active": (released_rows_become_active, "RELEASED can't become ACTIVE"),
    "lost rows are drained": (lost_rows_are_drained, "LOST can't become DRAINING"),
    "answers count twice": (answers_count_twice, "no write is in flight"),
    "rows are released too early": (rows_are_released_too_early, "attempts run"),
}
"""By name: what is planted, and the message of the assertion that it violates."""


def test_assertions_are_on() -> None:
    with pytest.raises(AssertionError):
        WriteTracker().answered()


@pytest.mark.parametrize("name", ILLEGAL)
def test_a_failed_assertion_is_reported_as_a_failure(name: str) -> None:
    plant, message = ILLEGAL[name]
    with plant():
        for seed in range(MAX_SEEDS):
            failures = [line for line in check(play(seed)) if "AssertionError" in line]
            if failures:
                assert message in failures[0]
                return
    pytest.fail(f"no assertion failed in {MAX_SEEDS} seeds")


def test_the_command_reports_it_too() -> None:
    """``make simulate`` counts such a seed as failed."""
    with released_rows_become_active():
        _, wrong, *_ = check_seed(0)
    assert any("RELEASED can't become ACTIVE" in line for line in wrong)


def test_a_failed_assertion_ends_its_replica() -> None:
    """It is raised out of ``Replica.run`` if it is in a task, and is not taken for the failure of a job."""
    with lost_rows_are_drained(), released_rows_become_active():
        histories = [play(seed) for seed in range(3)]
    failures = [failure for history in histories for failure in history.failures]
    assert any(" failed: AssertionError" in failure for failure in failures), failures
    reasons = [record.reason for history in histories for record in history.records]
    assert not any("AssertionError" in reason for reason in reasons)
