"""Repeats requests until the API server answers."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

import structlog

from .pods_protocol import PodsUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger("scheduledjob.pods")

T = TypeVar("T")

FIRST_RETRY_DELAY, LONGEST_RETRY_DELAY = 0.5, 10.0
"""Seconds between requests while the API server does not answer."""

_rng = random.Random()  # noqa: S311  # only spreads load


async def retry_until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until the API server answers, however long it takes. Honours Retry-After."""
    pause = FIRST_RETRY_DELAY
    while True:
        try:
            return await call()
        except PodsUnavailable as error:
            if pause == FIRST_RETRY_DELAY:
                log.info("the API server is unavailable; waiting for it", error=str(error))
            retry_after = error.retry_after
        await asyncio.sleep(max(pause * _rng.uniform(0.5, 1.0), retry_after * _rng.uniform(1.0, 1.1)))
        pause = min(LONGEST_RETRY_DELAY, pause * 2)
