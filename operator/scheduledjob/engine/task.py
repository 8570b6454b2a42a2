"""The task: what a Python job receives, and what it returns.

It is in the engine, because the library, the executor of Python jobs and the jobs themselves use it. The executor
creates a task for each attempt, tens of thousands a second. So it is a plain dataclass with slots, and computes what is
expensive (the slot as a datetime, JSON) only on demand.
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

    A job that returns its task continues its schedule. ``payload`` and ``result`` are then stored as the job left them,
    and the next run receives that payload. ``version`` is the fencing token. It grows with each start, so a system that
    remembers the largest version can refuse a job that has lost its lease. ``run_id`` is the same for all attempts of a
    run.
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
    """``params`` of the manifest of a ``custom`` job."""
    result: bytes | None = None
    output: bytes = b""
    """The output of the run that history shows (its last 4 KiB)."""
    payload_is_secret: bool = False
    """The payload is a value of a Secret. It is masked in the output, and a new payload is not stored."""

    def __repr__(self) -> str:
        # The slot is readable, and a secret payload is hidden.
        payload = "***" if self.payload_is_secret else repr(self.payload)
        return (
            f"Task(slug={self.slug!r}, kind={self.kind!r}, slot={rfc3339(self.slot_instant)}, attempt={self.attempt}, "
            f"version={self.version}, run_id={self.run_id!r}, payload={payload}, result={self.result!r})"
        )

    @property
    def slot(self) -> datetime:
        """The slot as an aware UTC datetime."""
        return to_datetime(self.slot_instant)

    def json(self) -> Any:
        """Return the payload parsed as JSON, or None if there is no payload. Raises ``ValueError`` for other text."""
        if self.payload is None:
            return None
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'the payload of "{self.slug}" is not JSON: {error}') from None

    def set_json(self, value: Any) -> None:
        """Store ``value`` as JSON for the next run. Raises ``TypeError`` or ``ValueError`` if JSON can't hold it."""
        self.payload = _as_json(value)

    def set_result_json(self, value: Any) -> None:
        """Store ``value`` as JSON as the result. Raises ``TypeError`` or ``ValueError`` if JSON can't hold it."""
        self.result = _as_json(value)


def _as_json(value: Any) -> bytes:
    # NaN and Infinity are not valid JSON, and other languages can't parse them.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
