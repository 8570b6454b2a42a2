"""Threads of the replica: jobs, which share the default pool of asyncio, can't take them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from scheduledjob.engine.threads import run_apart, wait_apart

from .support import PATIENCE


async def test_calls_are_made_while_jobs_block_every_thread_of_the_default_pool() -> None:
    loop, free = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, free.wait)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await wait_apart(int, "10", base=2) == 2
            assert await run_apart(threading.current_thread) is not threading.main_thread()
        assert not blocked.done()
    finally:
        free.set()
        await blocked
