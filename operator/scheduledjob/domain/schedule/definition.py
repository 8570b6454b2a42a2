"""Definition: what a user said about one schedule, checked and with the defaults in place.

A manifest, a library call and (in a cluster) a ScheduledJob all become a ``Definition``; nothing behind this
point knows which it was. It is a value: frozen, compared by content, written to the store as canonical JSON, so
that "did the user change anything" is a comparison of two texts. What a job does is for its executor alone and
travels as plain JSON in ``job``.
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
    """Slots from ``start`` (inclusive) to ``end`` (exclusive) are left out."""

    start: Instant
    end: Instant


class ExcludeCron(msgspec.Struct, frozen=True, omit_defaults=True, tag="cron", tag_field="exclude"):
    """Slots that match the expression are left out."""

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
        """How late a slot may start; None: without limit."""
        if self.starting_deadline is None and self.catch_up is CatchUp.SKIP:
            return SKIP_DEADLINE
        return self.starting_deadline


class Timeouts(msgspec.Struct, frozen=True, omit_defaults=True):
    attempt: Micros | None = None
    pending: Micros = 5 * MINUTE
    total: Micros | None = None


class Keep(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much history stays: the newest runs of each kind, none longer than ``ttl``."""

    succeeded: int = 3
    failed: int = 5
    ttl: Micros = 7 * DAY


class Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str
    """Which executor runs it; a replica claims the kinds that it knows."""
    job: Any = None
    """What the executor is to run, as plain JSON; None for a job registered in Python."""
    triggers: tuple[Trigger, ...] = ()
    exclude: tuple[Exclude, ...] = ()
    start_at: Instant | None = None
    end_at: Instant | None = None
    max_runs: int | None = None
    jitter: Micros = 0
    suspend: bool = False
    concurrency: Concurrency = Concurrency.FORBID
    max_concurrent: int | None = None
    """None: one with Queue, no limit with Allow."""
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
        """Everything that decides which slots there are: a change of it is a trigger edit."""
        return (self.triggers, self.exclude, self.start_at, self.end_at, self.jitter)

    @property
    def when_digest(self) -> str:
        """Names the triggers; empty where they are registered in code."""
        if not self.triggers:
            return ""
        return hashlib.blake2b(msgspec.json.encode(self.when), digest_size=8).hexdigest()

    def encode(self) -> str:
        """Canonical JSON: equal definitions have equal texts."""
        return _encoder.encode(self).decode()

    @staticmethod
    def decode(text: str) -> Definition:
        """Raises ``msgspec.ValidationError`` for a text that no version of this product wrote."""
        return _decoder.decode(text)


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Definition)
