"""An operator at work: its parts, who tells whom, and the order in which they end.

    watching, sweep -> reconciler -> store <- replica -> inline jobs, Pods
                                       |         |
                              status writer <- telling -> EventRecorder, metrics

The parts need each other less than one might think: runs go on while the API server is away, the watch goes on while
the store is. The end has an order: runs are finished or handed back while everything that tells of them still works;
then status is brought up to date, which with a store in memory is all that is left of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaSettings
from scheduledjob.jobs.container.pod_executor import PodExecutor
from scheduledjob.jobs.container.pod_spec import PodSettings
from scheduledjob.jobs.curl.addresses import AddressFilter
from scheduledjob.jobs.shell.confinement import Confinement
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable
from scheduledjob.kube.client.budget import Budget
from scheduledjob.kube.client.references import ClusterReferences
from scheduledjob.kube.pods.pod_garbage_collector import PodGarbageCollector
from scheduledjob.kube.pods.pods_api import ClusterPods
from scheduledjob.kube.reconcile.desired_state import ObjectRules
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.reconcile.reconciler import Reconciler
from scheduledjob.kube.reconcile.resync import Resync
from scheduledjob.kube.report.events import EventRecorder
from scheduledjob.kube.report.operator_observer import OperatorObserver
from scheduledjob.kube.report.status_writer import StatusWriter
from scheduledjob.kube.watch.handover import Handover
from scheduledjob.kube.watch.kopf_watch import KopfWatcher
from scheduledjob.stores import is_memory
from scheduledjob.version import program_version

from .cluster_kinds import cluster_kinds
from .peers import SYSTEM_NAMESPACE_PATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import Store
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.settings.operator_settings import OperatorSettings
    from scheduledjob.web.metrics import Metrics

log = structlog.get_logger("scheduledjob.operator")

STORE_PATIENCE = 5.0
"""Seconds without an answer of the store after which it counts as away."""
API_PATIENCE = 10.0
"""The same of the API server. The watch learns of one that is silent when its own patience ends, and that is longer."""
LAST_STATUS = 3.0
"""Seconds that the end waits for status to be written, where the store keeps what it says anyway. With what a replica
waits for at its end, no more than the Pod has after the grace period."""
LAST_ANSWER = 1.0
"""Seconds that the store has, at the end, to show that status can be read from it."""
LAST_STATUS_OF_MEMORY = 60.0
"""Seconds that it waits where status is all that will be left."""
LEASE_IN_MEMORY = 15.0
"""Seconds, at most, of a lease that this process gives itself: they follow the operator's own Lease, so they have to be
renewed more often than that."""
COLLECT_AFTER = 100_000
"""New objects between two garbage collections: a collection stops the loop, and what starts then starts late."""


class OperatorRuntime:
    """The parts of one replica of the operator. ``run`` once."""

    def __init__(
        self,
        settings: OperatorSettings,
        api: Api,
        store: Store,
        metrics: Metrics,
        *,
        in_order: Callable[[], bool],
        until: Callable[[], float] | None = None,
        unwatched: Callable[[Collection[str]], Awaitable[set[str]]],
    ) -> None:
        """``in_order``: whether the operator before this one, if its store was its memory, had ended in order.

        ``until``: the monotonic second until which no other operator runs the same jobs, as it stands when asked;
        None: that is for the store's leases to say. ``unwatched``: the namespaces, of those given, for which
        no replica of this installation works any more.
        """
        self._settings = settings
        self._in_memory = is_memory(settings.store)
        self._metrics = metrics
        self._objects = KnownObjects()
        self._budget = Budget(settings.status_budget)
        name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._events = EventRecorder(api, self._budget, instance=name, now=self._now)
        self._observer = OperatorObserver(metrics, self._objects, self._events)
        self._pods = ClusterPods(api, settings.namespaces)
        shell, shell_off = _inline_shell(settings)
        pod_settings = PodSettings(
            image=settings.pod_image,
            restricted=settings.pod_security == "restricted",
            plugins=settings.plugins,
        )
        runnable = cluster_kinds(
            shell=shell,
            pods=PodExecutor(self._pods, pod_settings, capacity=settings.pod_capacity, now=self._now),
            addresses=AddressFilter(settings.inline_http_allow, _addresses_of(api)),
            plugins=settings.plugins,
            write=lambda line: log.info("printed", text=line),
        )
        self.replica = Replica(
            store,
            runnable.kinds,
            ReplicaSettings(
                heartbeat=settings.heartbeat,
                jitter=settings.heartbeat / 10,
                lease=min(settings.lease, LEASE_IN_MEMORY) if self._in_memory else settings.lease,
                capacity=settings.capacity + settings.pod_capacity,
                grace=settings.grace,
            ),
            program_version=program_version(),
            observer=self._observer,
            references=ClusterReferences(api),
            hook=runnable.hook,
            followers=self._objects.followers,
            name=name,
            until=until,
        )
        self._status = StatusWriter(
            api,
            store,
            self._objects,
            self._budget,
            runnable.kinds,
            self._now,
            on_written=self._observer.written,
            begun=self._observer.begun,
        )
        self._observer.status = self._status
        rules = ObjectRules(pod_settings, settings.may_run_shell_inline, shell_off, runnable.kinds.keys())
        self._reconciler = Reconciler(store, self._objects, rules, self.replica, self._observer, in_order=in_order)
        self._pod_garbage = PodGarbageCollector(
            self._pods, store, self.replica.info.id, self._objects, self._now, 2 * settings.lease
        )
        self._handover = Handover()
        self._watcher = KopfWatcher(api.access, settings.namespaces, self._handover, on_request=metrics.api_request)
        self._resync = Resync(
            settings,
            api,
            store,
            self.replica.info.id,
            self._objects,
            self._reconciler,
            self._status,
            metrics,
            unwatched,
        )
        self.listed = self._resync.listed
        self._api = api
        self._store_answers = True
        self._api_silence: str | None = None
        """What is wrong with the API server."""
        metrics.at_scrape(self._set_gauges)

    def _now(self) -> Instant:
        """The store's clock."""
        return self.replica.clock.now()

    # ---------------------------------------------------------------- what is said of it

    def health(self) -> str | None:
        """Why this process is to be killed; None: it is not."""
        return None if self.replica.alive else "the event loop stood still for longer than the lease"

    def conditions(self) -> dict[str, Callable[[], str | None]]:
        """By part: why it is not ready; None where it is."""
        return {
            "engine": lambda: None if self.replica.ready.is_set() else "it does not claim work",
            "store": lambda: None if self._store_answers else "the store does not answer",
            "api": lambda: self._api_silence,
            "watch": lambda: (
                (self._watcher.state.error or "it is not connected")
                if self._watcher.state.connected_since is None
                else None
            ),
            "objects": lambda: None if self.listed.is_set() else "not every ScheduledJob has been read yet",
        }

    def _set_gauges(self) -> None:
        """Set the gauges, before a scrape."""
        metrics, stats = self._metrics, self.replica.stats()
        metrics.held_schedules.set(stats.held)
        metrics.claimed_ahead.set(stats.ahead)
        metrics.queued_runs.set(stats.waiting)
        metrics.active_runs.set(stats.executing - stats.detached, "inline")
        metrics.active_runs.set(stats.detached, "pod")
        metrics.schedules.set(len(self._objects))
        metrics.invalid_schedules.set(self._objects.invalid)
        metrics.overdue_schedules.set(self._objects.overdue)
        metrics.status_dirty.set(self._status.waiting)
        metrics.events.reached(self._events.written)
        metrics.events_dropped.reached(self._events.dropped)
        metrics.watch_restarts.reached(self._watcher.state.restarts, "scheduledjobs")
        metrics.watch_restarts.reached(self._pods.reflector.restarts, "pods")

    # ---------------------------------------------------------------- work

    async def run(self, stopping: asyncio.Event) -> bool:
        """Work until ``stopping`` is set, and end in order."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 100)
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(part)
                for part in (
                    self._events.run(),
                    self._status.run(),
                    self._pods.run(),
                    self._reconciler.run(),
                    self._take_over(),
                    self._watcher.run(),
                    self._resync.run(),
                    self._pod_garbage.run(),
                    self._ask_store(),
                    self._ask_api(),
                )
            ]
            replica = tasks.create_task(self.replica.run())
            await stopping.wait()
            log.info("ends: what runs may finish", seconds=self._settings.grace)
            self.replica.stop()
            await replica
            all_told = await self._last_words()
            for part in parts:
                part.cancel()
        return all_told

    async def _take_over(self) -> None:
        """What the watch sees goes to the reconciler."""
        while True:
            for body, deleted in await self._handover.take():
                self._reconciler.seen(body, deleted=deleted)

    async def _ask_store(self) -> None:
        """Readiness tells whether the store answers, also while there is nothing else to ask it."""
        while True:
            self._store_answers = await self.replica.store_answers(STORE_PATIENCE)
            await asyncio.sleep(STORE_PATIENCE)

    async def _ask_api(self) -> None:
        """The same of the API server, and of what is behind it."""
        while True:
            try:
                async with asyncio.timeout(API_PATIENCE):
                    await self._api.get(SYSTEM_NAMESPACE_PATH, attempts=1)
            except TimeoutError:
                self._api_silence = "the API server does not answer"
            except ApiUnavailable as error:
                self._api_silence = error.message
            except ApiError:
                self._api_silence = None  # a refusal is an answer
            else:
                self._api_silence = None
            await asyncio.sleep(API_PATIENCE / 2)

    async def _last_words(self) -> bool:
        """Bring status up to date; whether it is."""
        if not self._in_memory and not await self.replica.store_answers(LAST_ANSWER):
            return False  # what it would say can't be read
        seconds = LAST_STATUS_OF_MEMORY if self._in_memory else LAST_STATUS
        try:
            async with asyncio.timeout(seconds):
                if await self._status.flush():
                    return True
        except TimeoutError:
            pass
        log.warning("ended before every status was up to date", objects=self._status.waiting)
        return False


def _inline_shell(settings: OperatorSettings) -> tuple[ShellExecutor | None, str]:
    """What runs shell jobs inside the operator; None where none may, and why, if the administrator asked for it."""
    if not settings.inline_shell_namespaces:
        return None, "no namespace is allowed"
    confinement = Confinement(accept_unconfined=settings.accept_unconfined_shell)
    if refusal := confinement.refusal():
        log.warning("shell jobs run as Pods", reason=refusal)
        return None, refusal
    return ShellExecutor(confined=confinement), ""


def _addresses_of(api: Api) -> list[str]:
    """The API server's addresses, which inline HTTP jobs may not reach."""
    names = {urlsplit(api.access.server).hostname, os.environ.get("KUBERNETES_SERVICE_HOST")}
    found: set[str] = set()
    for name in filter(None, names):
        with contextlib.suppress(OSError):
            found |= {str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    return sorted(found)
