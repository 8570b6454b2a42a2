"""The end of a replica, from top to bottom, and how long each phase may take.

``shut_down`` runs the phases in order:

1. Stop claiming. Wait for a claim in flight: otherwise its rows could not be claimed before their leases expire.
2. Drain: release detached attempts, and rows without running attempts. This takes no time of its own.
3. Let running attempts finish for the grace period.
4. Stop the other attempts, and release their rows. Another replica starts these runs again without waiting for a lease.
5. Write what is left, and notify the schedules that follow the last runs. Call the hooks of the last runs, for what is
   left of the grace period; what is not called stays in the store. Stop the services.
6. Withdraw the replica's entry from the store.

A store that does not answer can't hold up the end: each phase has a limit, and leases expire by themselves.
``shutdown_limit`` adds the limits up. Whoever kills the process later than that (the kubelet, after
``terminationGracePeriodSeconds``) loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

import structlog

from .store import StoreError

if TYPE_CHECKING:
    from .claimer import Claimer
    from .hook_delivery import HookDelivery
    from .ownership import Ownership
    from .replica_settings import ReplicaContext

log = structlog.get_logger("scheduledjob.replica")

CLAIM_LIMIT = 1.0
"""Seconds for a claim in flight (phase 1)."""
STOP_LIMIT = 2.0
"""Seconds for attempts to stop and their rows to be released, after the grace period (phase 4)."""
WRITE_LIMIT = 2.0
"""Seconds for the last writes and notifications (phase 5)."""
WITHDRAW_LIMIT = 1.0
"""Seconds for the store to delete the replica's entry (phase 6)."""

LIMIT_BESIDES_GRACE = CLAIM_LIMIT + STOP_LIMIT + WRITE_LIMIT + WITHDRAW_LIMIT
"""Seconds that a shutdown may take besides the grace period."""


def shutdown_limit(grace: float) -> float:
    """The longest time in seconds from ``stop`` to the end of a replica whose grace period is ``grace`` seconds.

    The executors' own ``stop`` comes after that.
    """
    return grace + LIMIT_BESIDES_GRACE


class Services(NamedTuple):
    """The tasks that a replica runs beside its attempts."""

    claiming: asyncio.Task[None]
    writing: asyncio.Task[None]
    following: asyncio.Task[None]
    periodic: list[asyncio.Task[None]]
    """They end when they are cancelled, at any moment."""
    hooks: HookDelivery | None = None
    delivering: asyncio.Task[None] | None = None
    """The task of ``hooks``."""


async def shut_down(context: ReplicaContext, claimer: Claimer, ownership: Ownership, services: Services) -> None:
    """End a replica. See the module for the phases."""
    # 1. Stop claiming.
    claimer.stop()
    await asyncio.wait([services.claiming], timeout=CLAIM_LIMIT)
    services.claiming.cancel()

    # 2. Drain.
    ownership.drain()

    # 3. Let attempts finish.
    grace_ends = asyncio.get_running_loop().time() + context.settings.grace
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(grace_ends):
            await ownership.emptied()

    # 4. Stop the other attempts.
    ownership.stop_attempts()
    try:
        async with asyncio.timeout(STOP_LIMIT):
            await ownership.emptied()
    except TimeoutError:
        log.warning("the store did not answer before the end: its rows can be claimed when their leases expire")

    # 5. Write what is left, and stop the services.
    ownership.close()
    last_write = asyncio.get_running_loop().time() + WRITE_LIMIT
    await _finish(services.writing, last_write)
    ownership.upstreams.close()
    await _finish(services.following, last_write)
    if services.hooks is not None and services.delivering is not None:
        services.hooks.close()
        await _finish(services.delivering, max(grace_ends, last_write))
    for task in services.periodic:
        task.cancel()

    # 6. Withdraw.
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(WITHDRAW_LIMIT):
            await context.store.withdraw(context.replica)


async def _finish(service: asyncio.Task[None], deadline: float) -> None:
    """Wait for a service to end by itself until ``deadline`` (seconds of the event loop), then cancel it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(service)
    service.cancel()
