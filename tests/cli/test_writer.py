"""The writer never blocks its caller, and writes lines in order."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from scheduledjob.cli.scheduledjob import writer as writer_module
from scheduledjob.cli.scheduledjob.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


def as_lines(items: Sequence[int]) -> str:
    return "".join(f"{item}\n" for item in items)


def test_put_does_not_wait_for_a_slow_reader() -> None:
    ours, theirs = os.pipe()
    writer = Writer(theirs, as_lines)
    for item in range(50_000):  # much more than the buffer of a pipe
        writer.put([item])
    with open(ours, encoding="ascii") as reader:
        assert [int(reader.readline()) for _ in range(50_000)] == list(range(50_000))
    writer.close()
    os.close(theirs)


def test_a_slow_reader_loses_lines_and_their_number_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MOST_WAITING", 1000)
    ours, theirs = os.pipe()
    lost: list[int] = []
    notified = threading.Event()

    def on_lost(count: int) -> None:
        lost.append(count)
        notified.set()

    def as_blocks(items: Sequence[int]) -> str:
        return "x" * 4096 * len(items)

    writer = Writer(theirs, as_blocks, on_lost=on_lost)

    def close() -> None:
        writer.close()
        os.close(theirs)

    for item in range(100_000):
        writer.put([item])
    with open(ours, "rb", buffering=0) as reader:
        while not notified.is_set():
            reader.read(1 << 20)
        closing = threading.Thread(target=close)
        closing.start()
        while reader.read(1 << 20):
            pass
        closing.join()
    assert sum(lost) >= 90_000


def test_a_closed_reader_is_reported() -> None:
    ours, theirs = os.pipe()
    gone = threading.Event()
    writer = Writer(theirs, as_lines, gone.set)
    os.close(ours)
    writer.put([1])
    assert gone.wait(60)
    writer.put([2])
    writer.close()
    os.close(theirs)


def test_text_that_is_not_valid_unicode_is_written() -> None:
    ours, theirs = os.pipe()
    writer: Writer[str] = Writer(theirs, "".join)
    writer.put(["\ud800\n"])
    with open(ours, encoding="ascii") as reader:
        assert reader.readline() == "\\ud800\n"
    writer.close()
    os.close(theirs)
