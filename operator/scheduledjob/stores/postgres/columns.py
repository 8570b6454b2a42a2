"""Rows and records as columns: bulk data goes to the server as one array for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import astuple

from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.engine.stored_row import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Record

    from scheduledjob.engine.stored_row import NewRow

Columns: TypeAlias = list[Sequence[Any]]
"""One sequence for each column, all of the same length."""

_MAX_INTEGER = 2**31 - 1
"""The greatest value of an ``integer`` column."""

SLUG, _REASON, _CODE, _KEEP = (RunRecord.__struct_fields__.index(name) for name in ("slug", "reason", "code", "keep"))
"""Where these columns are among those of a record."""
_NO_RECORD = (*[None] * _REASON, "", None, None, None, 0, None, None, "")


def record_columns(records: Iterable[RunRecord | None]) -> Columns:
    """Return the columns of ``record_columns`` in the queries, which are a record's fields in their order.

    None becomes a line without a ``run_id``. There must be at least one line.
    """
    columns: Columns = list(
        zip(*[_NO_RECORD if record is None else astuple(record) for record in records], strict=True)
    )
    if any(columns[_REASON]):
        columns[_REASON] = [_valid_text(reason) for reason in columns[_REASON]]
    if any(columns[_CODE]):
        columns[_CODE] = [None if code is None or abs(code) > _MAX_INTEGER else code for code in columns[_CODE]]
    if max(columns[_KEEP]) > _MAX_INTEGER:
        columns[_KEEP] = [min(keep, _MAX_INTEGER) for keep in columns[_KEEP]]
    return columns


def collapse_constants(columns: Columns) -> Columns:
    """Keep one line of each column that has the same value in every line, as most have when many runs end alike."""
    return [column[:1] if column.count(column[0]) == len(column) else column for column in columns]


def _valid_text(text: str) -> str:
    """Replace what Postgres does not accept as text. Jobs write reasons, which may contain NUL or lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def row_of(line: Record) -> Row:
    """Return the row of one line of ``row_columns``, which are the fields of ``Row`` in their order."""
    return Row(*line)


def record_of(line: Record) -> RunRecord:
    """Return the record of one line of history."""
    fields = dict(line)
    return RunRecord(outcome=Outcome(fields.pop("outcome")), **fields)


def observed_columns(rows: Sequence[NewRow]) -> Columns:
    """Return ``new_row_columns`` and the columns that only objects of a cluster have."""
    return [*new_row_columns(rows), [row.generation for row in rows], [row.requests for row in rows]]


def new_row_columns(rows: Sequence[NewRow]) -> Columns:
    """Return the columns of ``new_row_columns`` in the queries. There must be at least one row."""
    lines = [
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
            row.tenant,
            0 if row.keep_payload else 1,
        )
        for row in rows
    ]
    return list(zip(*lines, strict=True))
