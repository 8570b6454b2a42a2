"""Trigger: an entry of ``spec.triggers``, with the fields of every kind of trigger."""

from typing import Any, Final

from scheduledjob.domain.triggers.registry import Trigger as StoredTrigger

from .cron_part import CronPart
from .every_part import EveryPart
from .following_part import FollowingPart
from .manual_part import ManualPart
from .once_part import AfterPart, AtPart
from .trigger_part import TriggerPart


# The bases are in the reverse order of the fields: pydantic collects the fields of the last base first.
class Trigger(
    ManualPart,
    FollowingPart,
    AfterPart,
    AtPart,
    EveryPart,
    CronPart,
):  # fmt: skip
    """One rule that gives slots; the job's slots are the union of those of all its triggers."""


_PARTS: Final = tuple(part for part in reversed(Trigger.__bases__) if issubclass(part, TriggerPart))

Trigger.one_of = tuple(part.key for part in _PARTS)
Trigger.one_of_unless = {"at": "every"}
Trigger.rules = tuple(rule for part in _PARTS for rule in part.rules)


def stored(trigger: Trigger) -> StoredTrigger:
    """Return a trigger of a manifest as the engine stores it."""
    return next(part.to_stored(trigger) for part in _PARTS if part.key in trigger.keys_given)


def stored_of_manifest(given: Any) -> StoredTrigger:
    """Return an entry of ``spec.triggers`` as the engine stores it. Raises ``ValueError`` if it is invalid."""
    return stored(Trigger.model_validate(given))
