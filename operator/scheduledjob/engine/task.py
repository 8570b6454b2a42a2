"""The task: what a Python job is given, and what it gives back.

It stands in the engine, because the library's front door, the executor of Python jobs and the jobs themselves all
speak of it. One is made for each attempt, tens of thousands a second, so it is a plain dataclass with slots: what
costs something to make (the slot as a datetime, JSON) is made when it is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.time.instants import Instant, rfc3339, to_datetime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(slots=True, repr=False)
class Task:
    """One attempt as its job sees it.

    A job that goes on returns its task: ``payload`` and ``result`` are kept as it left them, and the next run finds
    that payload. ``version`` is the fencing token: larger for each later start, so a system that remembers the
    largest it saw can refuse a job that lost its lease. ``run_id`` is the same for each attempt of a run.
    """

    slug: str
    kind: str
    payload: bytes | None
    slot_instant: Instant
    """The slot in microseconds since the epoch, UTC."""
    attempt: int
    """Counted from 1."""
    version: int
    run_id: str
    namespace: str = ""
    uid: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest of a ``custom`` job gives as ``params``."""
    result: bytes | None = None
    output: bytes = b""
    """What history shows as the run's output (its last 4 KiB)."""
    payload_is_secret: bool = False
    """The payload came out of a Secret: it is masked in the output, and what is put in its place is not kept."""

    def __repr__(self) -> str:
        # The slot as people read it, and of the payload nothing that must not be seen.
        payload = "***" if self.payload_is_secret else repr(self.payload)
        return (
            f"Task(slug={self.slug!r}, kind={self.kind!r}, slot={rfc3339(self.slot_instant)}, attempt={self.attempt}, "
            f"version={self.version}, run_id={self.run_id!r}, payload={payload}, result={self.result!r})"
        )

    @property
    def slot(self) -> datetime:
        """The instant this run is for, as an aware UTC datetime."""
        return to_datetime(self.slot_instant)

    def json(self) -> Any:
        """The payload read as JSON; None without one. A payload that is no JSON is a ``ValueError``."""
        if self.payload is None:
            return None
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'the payload of "{self.slug}" is not JSON: {error}') from None

    def set_json(self, value: Any) -> None:
        """Make ``value``, written as JSON, the payload from now on; what JSON can't say is an error."""
        self.payload = _as_json(value)

    def set_result_json(self, value: Any) -> None:
        """Make ``value``, written as JSON, the result; what JSON can't say is an error."""
        self.result = _as_json(value)


def _as_json(value: Any) -> bytes:
    # NaN and Infinity are no JSON: whoever reads the payload in another language would stumble over them.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
