"""Repeats requests until the API server answers."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, TypeVar

import structlog

from .pod_limits import NotStartedError
from .pods_protocol import PodsUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .pod_limits import PodLimits

log = structlog.get_logger("scheduledjob.pods")

T = TypeVar("T")

FIRST_RETRY_DELAY, LONGEST_RETRY_DELAY = 0.5, 10.0
"""Seconds between requests while the API server does not answer."""

_rng = random.Random()  # noqa: S311  # only spreads load


async def retry_until_answered(call: Callable[[], Awaitable[T]], limits: PodLimits | None = None) -> T:
    """Repeat a call until the API server answers, with pauses that grow. Honours Retry-After.

    Without ``limits`` this takes as long as it takes. Otherwise it raises ``NotStartedError`` when they have passed,
    but it never interrupts a call, because a call without an answer may be carried out later.
    """
    pause = FIRST_RETRY_DELAY
    while True:
        try:
            return await call()
        except PodsUnavailable as error:
            if pause == FIRST_RETRY_DELAY:
                log.info("the API server is unavailable; waiting for it", error=str(error))
            retry_after = error.retry_after
            if limits is not None:
                limits.waits_for(f"the API server: {error}")
        delay = max(pause * _rng.uniform(0.5, 1.0), retry_after * _rng.uniform(1.0, 1.1))
        if limits is not None and time.monotonic() + delay >= limits.start_until:
            await asyncio.sleep(max(0.0, limits.start_until - time.monotonic()))
            raise NotStartedError(limits.not_started())
        await asyncio.sleep(delay)
        pause = min(LONGEST_RETRY_DELAY, pause * 2)
