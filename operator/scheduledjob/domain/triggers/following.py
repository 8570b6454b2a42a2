"""Following: a run whenever a run of another job ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .stored_trigger import StoredTrigger

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

_ENDS: Final = {"Succeeded": "succeeds", "Failed": "fails", "Cancelled": "is cancelled"}


class FollowingTrigger(StoredTrigger, frozen=True, tag="following"):
    """It has no slots of its own: each end of a run of ``name`` with that ``outcome`` makes one."""

    name: str
    outcome: str = "Succeeded"

    def bind(self, seed: str, created: Instant) -> FollowingTrigger:
        """Return itself, because it depends on no creation. Raises ``ValueError`` for an unknown outcome."""
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
        """That it starts at times that are not known in advance."""
        return f"it also runs {self.long('')}, which is not known in advance"
