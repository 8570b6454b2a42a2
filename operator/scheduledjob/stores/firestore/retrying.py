"""Doing several things at once, and one thing again: what the parts of this store share of both."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

from scheduledjob.engine.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")

rng = random.Random()  # noqa: S311 - spreads replicas, guards nothing


async def pause(attempt: int) -> None:
    """Before the try after ``attempt`` (from 0): up to 10 ms, and up to twice as long each time."""
    await asyncio.sleep(rng.uniform(0, 0.01 * 2**attempt))


async def together(calls: Iterable[Coroutine[None, None, T]]) -> list[T | StoreError]:
    """Carry out all calls; an error of one is in its place and leaves the others alone."""

    async def one(call: Coroutine[None, None, T]) -> T | StoreError:
        try:
            return await call
        except StoreError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]
