"""Stored rows of the memory store: what it keeps of each, how clients and owners change it, and how callers see it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.state import RunRecord, State, cut_off
from scheduledjob.engine.capacity import LIBRARY, tenant_of
from scheduledjob.engine.stored_row import DEFAULT_TENANT, NewRow, Origin, Row, Settlement
from scheduledjob.stores.tombstones import decode_keep

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant


class Entry:
    """A stored row. There may be a million of them, so it is small."""

    __slots__ = (
        "created_at", "definition", "edited_at", "first", "generation", "key", "kind", "origin", "owner",
        "payload", "payload_revision", "requests", "result", "revision", "slug", "state", "tenant", "uid", "version",
        "wake_at",
    )  # fmt: skip

    def __init__(self, key: int, new: NewRow, now: Instant) -> None:
        self.key = key
        self.slug = new.slug
        self.uid = new.uid
        self.created_at = new.created_at
        self.state = new.state
        self.wake_at = new.wake_at
        self.result: bytes | None = None
        self.owner: str | None = None
        self.version = 0
        self.revision = self.payload_revision = 0
        self.write_definition(new, now)

    def write_definition(self, new: NewRow, now: Instant) -> None:
        self.kind = sys.intern(new.kind)
        self.origin = Origin(new.origin).value
        self.definition = sys.intern(new.definition)
        self.first = new.first
        self.generation = new.generation
        self.requests = sys.intern(new.requests)
        self.tenant = sys.intern(tenant_of(new))
        self.edited_at = now
        self.revision += 1
        if not (new.keep_payload and self.revision > 1):
            self.payload = new.payload
            self.payload_revision = self.revision

    def differs(self, new: NewRow) -> bool:
        """Return whether ``new`` differs from the row."""
        if new.first is not None or (self.payload != new.payload and not new.keep_payload):
            return True
        return (self.kind, self.definition, self.named_tenant) != (new.kind, new.definition, new.tenant)

    def schedule_again(self, new: NewRow) -> None:
        """Note that a client of the library has scheduled an owned row again as it is."""
        self.origin, self.generation, self.requests = Origin(new.origin).value, 0, ""
        self.tenant = sys.intern(tenant_of(new))
        self.revision += 1
        if not new.keep_payload:
            self.payload_revision = self.revision

    @property
    def named_tenant(self) -> str:
        """The tenant as ``NewRow`` and ``Row`` name it. ``tenant`` is the one whose capacity the row uses."""
        return self.tenant if self.origin == LIBRARY else DEFAULT_TENANT

    def write_state(self, settlement: Settlement) -> None:
        self.state = settlement.state
        if settlement.writes_payload and self.payload_revision <= settlement.payload_base:
            self.payload = settlement.payload
        if settlement.result is not None:
            self.result = settlement.result

    def cut_off(self, now: Instant) -> list[RunRecord]:
        """Return records of the runs that end if the row is deleted now; none if a newer version has written it."""
        try:
            state, keep = State.decode(self.state), decode_keep(self.definition)
        except ValueError:
            return []
        return cut_off(state, uid=self.uid, slug=self.slug, now=now, owned=self.owner is not None, keep=keep)

    def row(self, recovered: bool = False) -> Row:
        # Python 3.11 calls with more than 15 keywords at eight times the cost: 3 % of a run in `memory`.
        return Row(
            self.key,
            self.slug,
            self.uid,
            self.kind,
            self.origin,
            definition=self.definition,
            revision=self.revision,
            edited_at=self.edited_at,
            first=self.first,
            payload=self.payload,
            result=self.result,
            created_at=self.created_at,
            version=self.version,
            wake_at=self.wake_at,
            state=self.state,
            recovered=recovered,
            owner=self.owner,
            generation=self.generation,
            requests=self.requests,
            tenant=self.named_tenant,
            payload_revision=self.payload_revision,
        )
