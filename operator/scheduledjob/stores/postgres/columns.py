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
                    record.reason,
                    record.code,
                    record.replica,
                    record.output,
                    record.keep,
                    record.expires,
                    record.manual,
                )
                for record in records
            ],
            strict=True,
        )
    )


def record_of(columns: Iterable[Any]) -> RunRecord:
    """The record of one line of history."""
    run_id, uid, slug, slot, started, finished, attempt, outcome, *rest = columns
    return RunRecord(run_id, uid, slug, slot, started, finished, attempt, Outcome(outcome), *rest)


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
