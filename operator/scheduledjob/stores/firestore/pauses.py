"""How long to wait before another try, and where to look instead: the two things here that want to differ by chance."""

from __future__ import annotations

import asyncio
import random

chance = random.Random()  # noqa: S311 - spreads replicas, guards nothing


async def pause(attempt: int) -> None:
    """Before the try after ``attempt`` (from 0): up to 10 ms, and up to twice as long each time."""
    await asyncio.sleep(chance.uniform(0, 0.01 * 2**attempt))
