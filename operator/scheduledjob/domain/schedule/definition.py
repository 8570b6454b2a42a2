"""Definition: what a user wants of one schedule, checked and with the defaults filled in.

A manifest, a call of the library and a ScheduledJob in a cluster all become a ``Definition``, and the code after this
point does not know which it was. It is a value: frozen, compared by content, and stored as canonical JSON, so whether a
user changed anything is a comparison of two texts. Only the executor knows what the job does; here it is plain JSON.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from scheduledjob.domain.time.instants import DAY, MINUTE, SECOND, Instant, Micros
from scheduledjob.domain.triggers.registry import Trigger

from .backoff import Backoff, Exponential


class ExcludeWindow(msgspec.Struct, frozen=True, omit_defaults=True, tag="window", tag_field="exclude"):
    """Excludes the slots from ``start`` (inclusive) to ``end`` (exclusive)."""

    start: Instant
    end: Instant


class ExcludeCron(msgspec.Struct, frozen=True, omit_defaults=True, tag="cron", tag_field="exclude"):
    """Excludes the slots that match the expression."""

    expression: str
    time_zone: str = "UTC"


Exclude: TypeAlias = ExcludeWindow | ExcludeCron


class Concurrency(StrEnum):
    FORBID = "Forbid"
    QUEUE = "Queue"
    REPLACE = "Replace"
    ALLOW = "Allow"


class CatchUp(StrEnum):
    SKIP = "Skip"
    LAST = "Last"
    ALL = "All"


SKIP_DEADLINE: Micros = 10 * SECOND
"""With ``Skip`` and no ``startingDeadline``, how late a slot may still start."""


class Misfire(msgspec.Struct, frozen=True, omit_defaults=True):
    catch_up: CatchUp = CatchUp.LAST
    max_catch_up: int = 5
    starting_deadline: Micros | None = None

    @property
    def deadline(self) -> Micros | None:
        """How late a slot may start; None: no limit."""
        if self.starting_deadline is None and self.catch_up is CatchUp.SKIP:
            return SKIP_DEADLINE
        return self.starting_deadline


class Timeouts(msgspec.Struct, frozen=True, omit_defaults=True):
    attempt: Micros | None = None
    pending: Micros = 5 * MINUTE
    total: Micros | None = None


class Keep(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much history is kept: the newest runs with each kind of outcome, none longer than ``ttl``."""

    succeeded: int = 3
    failed: int = 5
    ttl: Micros = 7 * DAY


class Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    """One schedule as its user defined it. Durations are in microseconds."""

    kind: str
    """Which executor runs it. A replica claims only the kinds that it knows."""
    job: Any = None
    """What the executor runs, as plain JSON; None for a job registered in Python."""
    triggers: tuple[Trigger, ...] = ()
    exclude: tuple[Exclude, ...] = ()
    start_at: Instant | None = None
    end_at: Instant | None = None
    max_runs: int | None = None
    jitter: Micros = 0
    suspend: bool = False
    concurrency: Concurrency = Concurrency.FORBID
    max_concurrent: int | None = None
    """None: one with Queue, ``MAX_CONCURRENT`` with Allow."""
    queue_depth: int = 1
    misfire: Misfire = Misfire()
    retry: Backoff = Exponential()
    timeouts: Timeouts = Timeouts()
    pause_after_failures: int = 0
    expect_success_within: Micros | None = None
    keep: Keep = Keep()
    on_failure: tuple[Any, ...] = ()
    """Hooks, each the plain JSON of an HTTP job."""
    on_success: tuple[Any, ...] = ()
    payload_from: Any = None
    """A reference (``{"secret": [name, key]}`` or ``{"config_map": [name, key]}``) resolved when an attempt starts."""

    @property
    def when(self) -> tuple[object, ...]:
        """Everything that the slots depend on. A change of it is an edit of the triggers."""
        return (self.triggers, self.exclude, self.start_at, self.end_at, self.jitter)

    @property
    def when_digest(self) -> str:
        """A digest of ``when``; empty if the triggers are registered in code."""
        if not self.triggers:
            return ""
        return hashlib.blake2b(msgspec.json.encode(self.when), digest_size=8).hexdigest()

    def encode(self) -> str:
        """Return canonical JSON: equal definitions have equal texts."""
        return _encoder.encode(self).decode()

    @staticmethod
    def decode(text: str) -> Definition:
        """Read what ``encode`` returned. Raises ``msgspec.ValidationError`` for text that no version wrote."""
        return _decoder.decode(text)


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Definition)
