"""Following: a run whenever a run of another job ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .stored_trigger import StoredTrigger

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

_ENDS: Final = {"Succeeded": "succeeds", "Failed": "fails", "Cancelled": "is cancelled"}


class FollowingTrigger(StoredTrigger, frozen=True, tag="following"):
    """Has a slot whenever a run of the job ``name`` ends with ``outcome``, and no others."""

    name: str
    outcome: str = "Succeeded"

    def bind(self, seed: str, created: Instant) -> FollowingTrigger:
        """Return itself, because it does not depend on the schedule. Raises ``ValueError`` for an unknown outcome."""
        if self.outcome not in _ENDS:
            *most, last = _ENDS
            raise ValueError(f"the outcome {self.outcome!r} is unknown: write {', '.join(most)} or {last}")
        return self

    def short(self) -> str:
        """Return ``following extract``."""
        return f"following {self.name}"

    def long(self, seed: str) -> str:
        """Return ``when a run of extract succeeds``."""
        return f"when a run of {self.name} {_ENDS.get(self.outcome, self.outcome)}"

    @property
    def unlisted(self) -> str:
        """The runs that follow the other job, whose times are not known in advance."""
        return f"it also runs {self.long('')}, which is not known in advance"
