"""Reading the JSON of ScheduledJobs: their key, their times, their conditions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.time.instants import to_instant

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

Object = dict[str, Any]
"""An object of the API server, as JSON."""


def instant_of(text: str | None) -> Instant | None:
    """Parse a time of status or metadata; None if it is missing or unreadable."""
    from scheduledjob.manifests.checks import parse_instant

    if not text:
        return None
    try:
        return to_instant(parse_instant(text))
    except ValueError:
        return None


def key_of(body: Object) -> tuple[str, str]:
    """Return (namespace, name)."""
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def status_of(body: Object) -> Object:
    found: Object = body.get("status") or {}
    return found


def condition_of(body: Object, kind: str) -> Object:
    """Return a condition by its type; empty if there is none."""
    return next(
        (condition for condition in status_of(body).get("conditions") or () if condition.get("type") == kind), {}
    )


def now() -> Instant:
    """Return this machine's clock, which is good enough for what people read."""
    return time.time_ns() // 1000


def is_suspended(body: Object) -> str:
    """Return ``suspended`` if the spec says so, ``paused`` after too many failures, else an empty string."""
    if body["spec"].get("suspend"):
        return "suspended"
    return "paused" if condition_of(body, "Suspended").get("reason") == "AutoPaused" else ""
