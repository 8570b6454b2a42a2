"""A hostile job tries to leave a process behind, and to learn the names of other jobs' scratch folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.jobs.confined_support import Operator, an_operator, needs_landlock
from tests.jobs.shell_support import descendants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator() -> AsyncIterator[Operator]:
    needs_landlock()
    async with an_operator() as started:
        yield started


_CLONE = {"x86_64": 56, "aarch64": 220}


async def test_a_job_can_not_start_a_sibling_of_itself(operator: Operator) -> None:
    result = await operator.attack(
        """
def sibling():
    if call(clone[os.uname().machine], 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.setsid()
        time.sleep(1000)
refused(sibling)
""",
        clone=_CLONE,
    )
    assert result["output"] == "refused\n"
    assert descendants(operator.helper) == set()


async def test_a_job_can_not_watch_the_folder_of_the_scratch_folders(operator: Operator) -> None:
    result = await operator.attack(
        """
def check(descriptor):
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "refused")
refused(
    lambda: check(system.inotify_init()),
    lambda: check(system.inotify_init1(0)),
    lambda: check(system.fanotify_init(0x200, 0)),
)
"""
    )
    assert result["output"] == "refused\n"
