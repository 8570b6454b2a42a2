"""WriteTracker: which part of a schedule's state is not stored yet.

The state machine changes the state in memory, and the owner writes it to the store later. In between, this module keeps
track of what is not stored, so that the policies need not. The rule on which "nothing runs twice silently" depends is
checked here: *a run may start only if the stored state already says so*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from .actions import has, without
from .state import Run, RunRecord

if TYPE_CHECKING:
    from .state import State


_Runs: TypeAlias = tuple[Run, ...] | dict[int, Run]
"""Up to so many runs are searched one by one, more of them by their ``id``."""
FEW = 16


class WriteTracker(msgspec.Struct, eq=False, gc=False):
    """What is not stored yet, and whether a write is in flight.

    A run is *unstored* from the moment that it is added until the store has answered the write that contains it.
    """

    changed: bool = False
    """The state differs from the one that was written last."""
    in_flight: bool = False
    """The store has not answered the last write. The next write waits for the answer."""
    records: tuple[RunRecord, ...] = ()
    """Runs that ended and are in no write yet."""
    _unstored: _Runs = ()
    """Unstored runs that are in no write yet."""
    _being_stored: _Runs = ()
    """Unstored runs in the write that is in flight."""

    def add(self, run: Run) -> None:
        """Remember that the stored state does not know this run, or this attempt of it."""
        unstored = self._unstored
        if isinstance(unstored, dict):
            unstored[id(run)] = run
        elif len(unstored) >= FEW:
            self._unstored = {id(other): other for other in (*unstored, run)}
        elif not has(unstored, run):
            self._unstored = (*unstored, run)
        self.changed = True

    def drop(self, run: Run) -> None:
        """Forget a run that has ended."""
        unstored = self._unstored
        if isinstance(unstored, dict):
            unstored.pop(id(run), None)
        elif unstored:
            self._unstored = without(unstored, run)

    def is_unstored(self, run: Run) -> bool:
        """Whether the stored state does not know this run, or this attempt of it."""
        if not self._unstored and not self._being_stored:  # nearly always: worth 0.3 us a run in drain-1
            return False
        return _contains(self._unstored, run) or _contains(self._being_stored, run)

    def begin(self, state: State) -> tuple[bytes, tuple[RunRecord, ...]]:
        """Return the state and the records to write now. Call ``answered`` when the store has answered."""
        assert not self.in_flight, "a write is in flight already"
        records, self.records = self.records, ()
        self._being_stored, self._unstored = self._unstored, ()
        self.changed, self.in_flight = False, True
        return state.encode(), records

    def answered(self) -> None:
        """Note that the store has answered the write. If it refused the write, the row is lost, and nothing starts."""
        assert self.in_flight, "no write is in flight"
        self.in_flight = False
        self._being_stored = ()


def _contains(runs: _Runs, run: Run) -> bool:
    return id(run) in runs if isinstance(runs, dict) else has(runs, run)
