"""What the operator does on SIGTERM, from top to bottom, and how long each phase may take.

The signal handler sets an event, which makes ``/readyz`` fail. Then:

1. The replica shuts down: it claims nothing more, lets inline runs finish for the grace period, and releases the
   rest. Its own phases are in ``engine/shutdown.py``. Status and Events are still written meanwhile.
2. Write the statuses that are out of date. Status is all that remains of a store in memory, so it gets more time there.
3. Cancel the watch, the sweep, the status writer and the Event recorder.
4. Release the Lease, if the store is in memory and every status is up to date.
5. Close the store, the API client and the web server. Nothing is lost if the process is killed here.

``limit_besides_grace`` adds the limits up. The chart sets the Pod's ``terminationGracePeriodSeconds`` to the sum.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from scheduledjob.engine.shutdown import LIMIT_BESIDES_GRACE
from scheduledjob.kube.client.api_errors import ApiError

if TYPE_CHECKING:
    from scheduledjob.engine.replica import Replica
    from scheduledjob.kube.report.status_writer import StatusWriter

    from .leadership import MemoryLease

log = structlog.get_logger("scheduledjob.operator")

STATUS_LIMIT = 2.0
"""Seconds for the last statuses (phase 2). The store keeps what they say, so another replica can write them."""
ANSWER_LIMIT = 1.0
"""Seconds of these in which the store has to answer, because status is read from it."""
MEMORY_STATUS_LIMIT = 60.0
"""Seconds for the last statuses (phase 2) if the store is in memory."""
LEASE_LIMIT = 2.0
"""Seconds to release the Lease (phase 4)."""


def limit_besides_grace(*, in_memory: bool) -> float:
    """Seconds that a shutdown may take besides the grace period."""
    return LIMIT_BESIDES_GRACE + (MEMORY_STATUS_LIMIT + LEASE_LIMIT if in_memory else STATUS_LIMIT)


async def finish_work(
    replica: Replica, replica_task: asyncio.Task[None], status_writer: StatusWriter, *, in_memory: bool
) -> bool:
    """Phases 1 and 2. Return whether every status is up to date."""
    # 1. The replica shuts down.
    replica.stop()
    await replica_task

    # 2. Write the statuses.
    try:
        async with asyncio.timeout(MEMORY_STATUS_LIMIT if in_memory else STATUS_LIMIT):
            if not in_memory and not await replica.store_answers(ANSWER_LIMIT):
                return False
            if await status_writer.flush():
                return True
    except TimeoutError:
        pass
    log.warning("shut down before every status was up to date", objects=status_writer.waiting)
    return False


async def release_lease(lease: MemoryLease) -> None:
    """Phase 4. If it fails, the next operator waits until the Lease expires."""
    with contextlib.suppress(ApiError, TimeoutError):
        async with asyncio.timeout(LEASE_LIMIT):
            await lease.release()
