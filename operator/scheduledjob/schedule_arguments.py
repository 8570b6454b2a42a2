"""The arguments of ``Scheduler.schedule`` and ``Scheduler.schedule_many``: checks them, and makes rows of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeGuard

from msgspec import UNSET

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import slots_of
from scheduledjob.domain.time.durations import in_seconds, is_number
from scheduledjob.domain.time.instants import Instant, from_seconds, to_instant
from scheduledjob.engine.stored_row import DEFAULT_TENANT, NewRow, Origin

if TYPE_CHECKING:
    from scheduledjob.engine.kinds import JobKind

MAX_SLUG = 253
ALLOWED_NAME = f"1 to {MAX_SLUG} characters of UTF-8 without NUL"
ARGUMENTS = frozenset({"slug", "kind", "payload", "delay", "at", "tenant"})
MANY_EXAMPLE = 'as in [{"slug": "a", "kind": "report", "delay": 5.0}]'
AWARE_EXAMPLE = "as in datetime(2026, 12, 1, 10, tzinfo=UTC)"

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, and half of a surrogate pair: no store keeps them."""


def row_of(
    schedule: Mapping[str, Any], now: Instant, kinds: Mapping[str, JobKind], *, only_these: bool, max_payload: int
) -> NewRow:
    """Return the row of one schedule, whose keys are ``ARGUMENTS``. Raises TypeError or ValueError.

    ``only_these``: the kind has to be one of ``kinds``. ``max_payload``: bytes.
    """
    if not isinstance(schedule, Mapping):
        raise TypeError(f"a schedule is {type(schedule).__name__}: give a mapping, {MANY_EXAMPLE}")
    unknown = set(schedule) - ARGUMENTS
    if unknown:
        raise ValueError(
            f"{min(map(str, unknown))!r} is not an argument of schedule(): give {', '.join(sorted(ARGUMENTS))}"
        )
    slug, kind = schedule.get("slug"), schedule.get("kind")
    if not is_name(slug):
        raise ValueError(f"slug {slug!r:.80} is not allowed: {ALLOWED_NAME}")
    if not isinstance(kind, str) or not kind or not _is_text(kind):
        raise ValueError(f"schedule {slug!r}: kind {kind!r:.80} is not allowed: the name of a registered job")
    payload = schedule.get("payload", UNSET)
    if keep_payload := payload is UNSET:
        payload = None
    _check_payload(slug, payload, max_payload)
    tenant = schedule.get("tenant", DEFAULT_TENANT)
    if not isinstance(tenant, str) or len(tenant) > MAX_SLUG or not _is_text(tenant):
        allowed = f"up to {MAX_SLUG} characters of UTF-8 without NUL"
        raise ValueError(f"schedule {slug!r}: tenant {tenant!r:.80} is not allowed: {allowed}")
    known = kinds.get(kind)
    if known is None and only_these:
        names = ", ".join(sorted(kinds)) or "none"
        raise ValueError(
            f"schedule {slug!r}: no job {kind!r} is registered here: register it first (registered: {names})"
        )
    first = _first_slot(slug, schedule.get("delay"), schedule.get("at"), now)
    definition = known.plan.definition if known and known.plan else Definition(kind=kind)
    if first is None and not definition.triggers:
        raise ValueError(
            f"schedule {slug!r}: job {kind!r} has no trigger here: give delay=0.0 to run it now, delay= or at="
        )
    slots = slots_of(known.plan, seed=slug, created=now) if known and known.plan else None
    uid = uuid.uuid4().hex
    state = first_state(definition, slots, uid, now, first)
    return NewRow(
        slug=slug,
        uid=uid,
        kind=kind,
        origin=Origin.LIBRARY,
        definition="",
        state=state.encode(),
        wake_at=state.next.due if state.next else now,
        first=first,
        payload=payload,
        created_at=now,
        keep_payload=keep_payload,
        tenant=tenant,
    )


def is_name(name: object) -> TypeGuard[str]:
    """Return whether this may be a slug or the name of a job."""
    return isinstance(name, str) and 0 < len(name) <= MAX_SLUG and _is_text(name)


def checked_slug(slug: object) -> str:
    """Return a slug with which a schedule may be found. Raises TypeError or ValueError."""
    if not isinstance(slug, str):
        raise TypeError(f"slug is {type(slug).__name__}: give text")
    if not _is_text(slug):
        raise ValueError(f"slug {slug!r:.80} is not allowed: give UTF-8 without NUL")
    return slug


def _is_text(text: str) -> bool:
    return _UNSTORABLE.search(text) is None


def _check_payload(slug: str, payload: object, max_payload: int) -> None:
    if payload is None:
        return
    if not isinstance(payload, bytes):
        raise TypeError(f"schedule {slug!r}: payload is {type(payload).__name__}: give bytes, as in b'text'")
    if len(payload) > max_payload:
        raise ValueError(
            f"schedule {slug!r}: payload has {len(payload)} bytes, and {max_payload} are allowed "
            "(max_result, and what this store keeps): store it elsewhere, and give a reference to it"
        )


def _first_slot(slug: str, delay: float | None, at: datetime | None, now: Instant) -> Instant | None:
    """Return the slot that the caller named; None: the trigger decides."""
    if delay is not None and at is not None:
        raise ValueError(f"schedule {slug!r}: delay and at are both given: give only one of them")
    if delay is not None:
        if not is_number(delay) or not 0 <= delay < 1e10:
            allowed = f"a number of seconds from now, 0 or more{in_seconds(delay)}"
            raise ValueError(f"schedule {slug!r}: delay {delay!r:.60} is not allowed: {allowed}")
        return now + from_seconds(delay)
    if at is not None:
        if not isinstance(at, datetime):
            raise TypeError(f"schedule {slug!r}: at is {type(at).__name__}: give an aware datetime, {AWARE_EXAMPLE}")
        return to_instant(at)
    return None
