"""How large writes are split: each part has as much as it may have, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.stored_row import Disposition, Settlement
from scheduledjob.stores.postgres import schedules, settling
from tests.stores.support import desired

if TYPE_CHECKING:
    import pytest


def test_a_statement_settles_so_many_rows_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "CHUNK", 3)
    settlements = [Settlement(key, 1, Disposition.KEEP, b"", None, 1) for key in (1, 2, 3, 4, 5, 5, 5, 1, 2, 3)]
    chunks = [[settlement.key for settlement in chunk] for chunk in settling._chunks(settlements)]
    assert chunks == [[1, 2, 3], [4, 5], [5], [5, 1, 2], [3]]


def test_a_transaction_writes_so_many_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "CHUNK", 3)
    monkeypatch.setattr(schedules, "CHUNK_BYTES", 90)
    rows = [
        desired(str(number), payload=bytes(size), definition="." * size, state=bytes(size))
        for number, size in enumerate((10, 20, 20, 10, 1, 70, 0, 0, 0, 0))
    ]
    chunks = [[row.slug for row in chunk] for chunk in schedules._chunks(rows)]
    assert chunks == [["0", "1"], ["2", "3"], ["4"], ["5"], ["6", "7", "8"], ["9"]]
