"""The life of an operator: what it waits for at its start, its work, and the signal that ends it.

At its start it waits for whatever can be fixed from outside (the API server, the CRD, RBAC, another operator's Lease,
the store, another installation), and ``/readyz`` says what it waits for. Its work is in ``runtime.py``. What it does on
SIGTERM is in ``operator_shutdown.py``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
import uvloop

from scheduledjob.engine.store import Store, StoreError
from scheduledjob.engine.watchdog import LoopWatchdog
from scheduledjob.jobs.python.python_job import JobPluginError
from scheduledjob.jobs.shell.confinement import make_unreadable
from scheduledjob.kube.client.access import ConfigError
from scheduledjob.kube.client.api import Api
from scheduledjob.stores import is_memory, open_store
from scheduledjob.version import program_version
from scheduledjob.web.metrics import Metrics
from scheduledjob.web.observing import timed
from scheduledjob.web.server import WebServer

from .leadership import LeaseObject, MemoryLease, is_dead, this_process
from .operator_shutdown import release_lease
from .peers import Peers
from .preflight import LOG_INTERVAL, Preflight, permissions_of
from .readiness import Readiness
from .runtime import OperatorRuntime

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import NoReturn

    from scheduledjob.kube.settings.operator_settings import OperatorSettings

log = structlog.get_logger("scheduledjob.operator")

STORE_RETRY_DELAY = 2.0
"""Seconds between two attempts to connect to the store at the start."""
THREADS_LIMIT = 1.0
"""Seconds that threads which jobs have started may go on after the end of all other work."""
MEMORY_LEASE = 45.0
"""Seconds: longer than a restart of the API server takes, because the process exits if it loses the Lease."""


def run_operator(settings: OperatorSettings) -> int:
    """Run until SIGTERM or SIGINT. Return the exit code of the process."""
    if settings.inline_shell_namespaces:
        make_unreadable()  # before secrets are in memory
    try:
        store = open_store(settings.store, settings.instance)
    except ValueError as error:
        log.error("the store can't be used", error=str(error))
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(Operator(settings, store).run())
        _exit_within(THREADS_LIMIT, code)
    return code


def _exit_within(seconds: float, code: int) -> None:
    """Exit even if a job has left a thread that goes on: Python would wait for it without a limit."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


class Operator:
    """One replica of the operator. ``run`` once."""

    def __init__(self, settings: OperatorSettings, store: Store) -> None:
        self._settings = settings
        self._metrics = Metrics(program_version())
        self._store = timed(store, self._metrics)
        self._in_memory = is_memory(settings.store)
        self._readiness = Readiness()
        self._stopping = asyncio.Event()
        self._runtime: OperatorRuntime | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        settings = self._settings
        api = Api.from_config(settings.kubeconfig, settings.context, on_request=self._metrics.api_request)
        server = WebServer(settings.listen, self._health, self._readiness, self._metrics.registry)
        watchdog = loop.create_task(LoopWatchdog(self._metrics.loop_lag).run())
        try:
            async with server, api:
                log.info("started", version=program_version(), listens_on=server.port)
                await self._live(api)
        except (ConfigError, JobPluginError, OSError) as error:
            log.error("the operator can't start", error=str(error))
            return 1
        finally:
            watchdog.cancel()
        log.info("shut down cleanly")
        return 0

    def _health(self) -> str | None:
        return None if self._runtime is None else self._runtime.health()

    async def _live(self, api: Api) -> None:
        settings = self._settings
        namespace = settings.namespace or api.access.namespace
        lease = MemoryLease(
            LeaseObject(api, namespace, settings.memory_lease),
            this_process(),
            MEMORY_LEASE,
            now=_wall_clock,
            fence=_fence,
            is_dead=is_dead,
        )
        name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        peers = Peers(self._store, settings.instance, name, settings.namespaces)
        runtime = OperatorRuntime(settings, api, self._store, self._metrics, lease=lease, peers=peers, fence=_fence)
        permissions = permissions_of(settings.namespaces, (namespace, settings.memory_lease), holds=self._in_memory)
        preflight = Preflight(api, settings.namespaces, permissions)
        try:
            with self._readiness.waiting("cluster", lambda: preflight.missing):
                if not await self._unless_stopped(preflight.wait()):
                    return
            with self._readiness.waiting("lease", lambda: _held_by(lease.other_holder)):
                if not await self._unless_stopped(lease.acquire() if self._in_memory else lease.wait_until_free()):
                    return
            statuses_written = True
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(
                    lease.keep() if self._in_memory else _clear_release(lease, runtime.all_listed)
                )
                if await self._connect(api, peers):
                    announcing = tasks.create_task(peers.keep_announcing())
                    statuses_written = await self._work(runtime)
                    announcing.cancel()
                keeping.cancel()
            # The next operator sees a Lease that was not released, and knows that status may be out of date.
            if self._in_memory and statuses_written:
                await release_lease(lease)
        finally:
            await self._store.close()

    async def _connect(self, api: Api, peers: Peers) -> bool:
        """Connect to the store and wait for other installations. Return False if the signal came before."""
        failures: list[str] = [""]
        with self._readiness.waiting("store", lambda: failures[-1]):
            if not await self._unless_stopped(connect(self._store, failures)):
                return False
        with self._readiness.waiting("peers", lambda: peers.conflict):
            return await self._unless_stopped(peers.wait_until_alone(api))

    async def _work(self, runtime: OperatorRuntime) -> bool:
        """Work until the signal. Return whether every status is up to date."""
        self._runtime = runtime
        for part, why_not in runtime.conditions().items():
            self._readiness.add(part, why_not)
        self._readiness.add("end", lambda: "it is shutting down" if self._stopping.is_set() else None)
        return await runtime.run(self._stopping)

    async def _unless_stopped(self, work: Coroutine[object, object, None]) -> bool:
        """Do the work, or cancel it when the signal comes. Return whether it was done."""
        doing = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if doing.done():
            doing.result()
            return True
        doing.cancel()
        await asyncio.wait([doing])
        return False


def _held_by(holder: str) -> str | None:
    return f"held by {holder}" if holder else None


async def _clear_release(lease: MemoryLease, all_listed: asyncio.Event) -> None:
    """Once the store has read every status, no later operator may trust them again."""
    await all_listed.wait()
    await lease.clear_release()


async def connect(store: Store, failures: list[str]) -> None:
    """Connect, however long it takes. Keep the newest error in ``failures``, and log it once a minute."""
    logged_at = float("-inf")
    while True:
        try:
            await store.connect()
        except StoreError as error:
            if str(error) != failures[-1] or time.monotonic() - logged_at >= LOG_INTERVAL:
                log.warning("waiting for the store", error=str(error))
                logged_at = time.monotonic()
            failures[:] = [str(error)]
            await asyncio.sleep(STORE_RETRY_DELAY)
        else:
            if failures[-1]:
                log.info("connected to the store")
            return


def _wall_clock() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _fence(why: str) -> NoReturn:
    """Exit at once, which kills inline jobs too: another operator may start now."""
    log.critical("exiting at once", reason=why)
    os._exit(3)
