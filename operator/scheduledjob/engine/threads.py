"""Threads for what would hold the event loop: computations, and calls that wait.

Both have pools of their own. The default pool of asyncio belongs to the jobs: they may block all of its threads, and
the replica still has to stop, to kill what is left of a run, and to renew its credentials.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_R = TypeVar("_R")

_COMPUTING = 2
"""Threads for computations. More would compete with the event loop for the interpreter."""
_WAITING = 16
"""Threads for calls that wait."""


async def run_apart(compute: Callable[[], _R]) -> _R:
    """Run a computation that takes long in a thread, so that the event loop goes on. Its work has to be bounded."""
    return await asyncio.get_running_loop().run_in_executor(_computing(), compute)


def wait_apart(call: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> asyncio.Future[_R]:
    """Make a call in a thread that waits for a file, a process or an answer, for a limited time."""
    return asyncio.get_running_loop().run_in_executor(_waiting(), partial(call, *arguments, **options))


@cache
def _computing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_COMPUTING, thread_name_prefix="compute")


@cache
def _waiting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WAITING, thread_name_prefix="wait")
