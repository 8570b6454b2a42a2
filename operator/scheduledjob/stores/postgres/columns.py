"""Rows and records as columns: what goes to the server in bulk travels as one array for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import astuple

from scheduledjob.domain.schedule.state import Outcome, RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.engine.store import NewRow

Columns: TypeAlias = list[Sequence[Any]]
"""One sequence for each column, all of one length."""

_MOST = 2**31 - 1
"""Of an integer column."""

_REASON, _KEEP = 8, 12
_NO_RECORD = (*[None] * _REASON, "", None, None, None, 0, None, None)


def record_columns(records: Iterable[RunRecord | None]) -> Columns:
    """Of history, in the order of its queries, which is that of a record's fields. There must be at least one.

    None makes a line without a ``run_id``.
    """
    columns: Columns = list(zip(*[_NO_RECORD if each is None else astuple(each) for each in records], strict=True))
    if any(columns[_REASON]):
        columns[_REASON] = [_storable(reason) for reason in columns[_REASON]]
    if max(columns[_KEEP]) > _MOST:
        columns[_KEEP] = [min(keep, _MOST) for keep in columns[_KEEP]]
    return columns


def shortened(columns: Columns) -> Columns:
    """Only the first line of each column that holds one value everywhere, as most do where many runs end alike."""
    return [column[:1] if column.count(column[0]) == len(column) else column for column in columns]


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
    """``definition_columns`` and what belongs to objects of a cluster. There must be at least one."""
    seen = list(rows)
    return [*definition_columns(seen), [row.generation for row in seen], [row.requests for row in seen]]


def definition_columns(rows: Iterable[NewRow]) -> Columns:
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
