"""TriggerPart: the fields that one kind of trigger has in a manifest, and what they mean to the engine."""

from typing import ClassVar

from scheduledjob.domain.time.instants import Instant, to_instant
from scheduledjob.domain.triggers.registry import Trigger

from .. import checks
from ..base import Model


class TriggerPart(Model):
    """A part of ``Trigger``, which has the fields of all parts. Give each validator a name of its own."""

    key: ClassVar[str]
    """The key that chooses this kind; the tag of what ``to_stored`` returns."""

    def to_stored(self) -> Trigger:
        """Return what the engine stores, with every default in place. The key has a value."""
        raise NotImplementedError


def instant_of(text: str) -> Instant:
    """Return the instant of a text that was checked already."""
    return to_instant(checks.parse_instant(text))
