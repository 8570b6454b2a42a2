"""Fixtures of the shell executor's tests, and of those of confined jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from tests.jobs.confined_support import Operator, an_operator, needs_landlock
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator() -> AsyncIterator[Operator]:
    needs_landlock()
    async with an_operator() as started:
        yield started
