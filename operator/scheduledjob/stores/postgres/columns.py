"""Rows and records as columns: what goes to the server in bulk travels as one array for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from scheduledjob.domain.state import Outcome, RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.engine.store import NewRow

Columns: TypeAlias = list[Sequence[Any]]
"""One sequence for each column, all of one length."""

_MOST = 2**31 - 1
"""Of an integer column."""

_NO_RECORD = (None,) * 15


def record_columns(records: Iterable[RunRecord | None]) -> Columns:
    """Of history, in the order of its queries; None makes a line of NULLs. There must be at least one."""
    return list(
        zip(
            *[
                _NO_RECORD
                if record is None
                else (
                    record.run_id,
                    record.uid,
                    record.slug,
                    record.slot,
                    record.started,
                    record.finished,
                    record.attempt,
                    record.outcome,
                    _storable(record.reason),
                    record.code,
                    record.replica,
                    record.output,
                    min(record.keep, _MOST),
                    record.expires,
                    record.manual,
                )
                for record in records
            ],
            strict=True,
        )
    )


def _storable(text: str) -> str:
    """What Postgres takes as text: jobs write reasons, with NUL or half a character in them if they like."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def record_of(columns: Iterable[Any]) -> RunRecord:
    """The record of one line of history."""
    run_id, uid, slug, slot, started, finished, attempt, outcome, *rest = columns
    return RunRecord(run_id, uid, slug, slot, started, finished, attempt, Outcome(outcome), *rest)


def seen_columns(rows: Iterable[NewRow]) -> Columns:
    """``wish_columns`` and what belongs to objects of a cluster. There must be at least one."""
    seen = list(rows)
    return [*wish_columns(seen), [row.generation for row in seen], [row.acts for row in seen]]


def wish_columns(rows: Iterable[NewRow]) -> Columns:
    """Of new rows, in the order of the queries that write them. There must be at least one."""
    return list(
        zip(
            *[
                (
                    row.slug,
                    row.uid,
                    row.kind,
                    row.origin.value,
                    row.definition,
                    row.state,
                    row.wake_at,
                    row.first,
                    row.payload,
                    row.created_at,
                )
                for row in rows
            ],
            strict=True,
        )
    )
