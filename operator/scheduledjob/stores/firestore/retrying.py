"""Concurrent calls, and the delays before a call is repeated."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

from scheduledjob.engine.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")

rng = random.Random()  # noqa: S311 - it only spreads replicas, no secret depends on it


async def pause(attempt: int) -> None:
    """Wait for a random time after ``attempt`` (from 0): up to 10 ms at first, then twice as long each time."""
    await asyncio.sleep(rng.uniform(0, 0.01 * 2**attempt))


async def gather_all(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Make all calls at the same time, and return their results. Raises the StoreError of one that failed."""
    results = await gather_results(calls)
    for result in results:
        if isinstance(result, StoreError):
            raise result
    return [result for result in results if not isinstance(result, StoreError)]


async def gather_results(calls: Iterable[Coroutine[None, None, T]]) -> list[T | StoreError]:
    """Make all calls at the same time, and return their results; for one that failed, its StoreError."""

    async def result_of(call: Coroutine[None, None, T]) -> T | StoreError:
        try:
            return await call
        except StoreError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(result_of(call)) for call in calls]
    return [task.result() for task in tasks]
