"""Fixtures of the shell executor's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from tests.jobs.shell_support import Reports, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def executor() -> AsyncIterator[ShellExecutor]:
    async with running(ShellExecutor(timeout_grace=0.2, cancel_grace=0.2)) as started:
        yield started


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    fifo = Reports(tmp_path)
    yield fifo
    fifo.close()
