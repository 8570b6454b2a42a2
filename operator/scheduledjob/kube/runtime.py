"""The parts of a running operator and how they are connected.

    watch, sweep -> reconciler -> store <- replica -> inline jobs, Pods
                                    |         |
                           status writer <- observer -> Events, metrics

Runs continue while the API server is unavailable, and the watch continues while the store is. The order in which the
parts end is in ``operator_shutdown.py``.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import structlog

from scheduledjob.engine.clock import StoreClock, boot_seconds
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaSettings
from scheduledjob.jobs.built_in_kind import JobContext
from scheduledjob.jobs.container.pod_executor import PodExecutor
from scheduledjob.jobs.container.pod_security import PodSecurity
from scheduledjob.jobs.container.pod_spec import PodSettings
from scheduledjob.jobs.curl.addresses import AddressFilter
from scheduledjob.jobs.shell.confinement import Confinement
from scheduledjob.kube.client.budget import Budget
from scheduledjob.kube.client.references import ClusterReferences
from scheduledjob.kube.pods.pod_garbage_collector import PodGarbageCollector
from scheduledjob.kube.pods.pods_api import ClusterPods
from scheduledjob.kube.pods.template_check import TemplateCheck
from scheduledjob.kube.reconcile.desired_state import ObjectRules
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.reconcile.reconciler import Reconciler
from scheduledjob.kube.reconcile.resync import PageCheck, Resync
from scheduledjob.kube.report.events import EventRecorder
from scheduledjob.kube.report.operator_observer import OperatorObserver
from scheduledjob.kube.report.status_queue import StatusQueue
from scheduledjob.kube.report.status_writer import StatusReader, StatusWriter
from scheduledjob.kube.watch.handover import Handover
from scheduledjob.kube.watch.kopf_watch import KopfWatcher
from scheduledjob.stores import is_memory
from scheduledjob.version import program_version

from .api_server_addresses import ApiServerAddresses
from .cluster_kinds import cluster_kinds
from .operator_gauges import OperatorGauges
from .operator_shutdown import finish_work
from .readiness import DependencyProbes

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.engine.store import Store
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.settings.operator_settings import OperatorSettings
    from scheduledjob.web.metrics import Metrics

    from .leadership import MemoryLease
    from .peers import Peers

log = structlog.get_logger("scheduledjob.operator")

MAX_LEASE_IN_MEMORY = 15.0
"""Seconds: the longest lease of a run if the store is in memory. The operator's own Lease limits these leases, so they
have to be renewed more often than it is."""
FIRST_LIST_LIMIT = 10.0
"""Seconds that the start of runs waits until the store has what was listed. In that time the API server returns some
50,000 objects."""
GC_THRESHOLD = 100_000
"""New objects between two garbage collections. A collection stops the event loop and delays the runs that are due."""


class OperatorRuntime:
    """The parts of one replica of the operator. ``run`` once."""

    def __init__(
        self,
        settings: OperatorSettings,
        api: Api,
        store: Store,
        metrics: Metrics,
        *,
        lease: MemoryLease,
        peers: Peers,
        fence: Callable[[str], object],
    ) -> None:
        """``lease`` limits what an operator with a store in memory may run, and says whether status is complete.

        ``fence`` ends the process at once, for the reason that it gets.
        """
        in_memory = is_memory(settings.store)
        objects = KnownObjects()
        budget = Budget(settings.status_budget)
        queue = StatusQueue(objects.namespace_of)
        clock = StoreClock(boot_seconds)
        self._events = EventRecorder(api, budget, instance=peers.replica, now=clock.now)
        observer = OperatorObserver(metrics, objects, self._events, queue)
        self._pods = ClusterPods(api, settings.namespaces)
        confinement, shell_off = _inline_shell(settings)
        pod_settings = PodSettings(
            image=settings.pod_image,
            security=PodSecurity[settings.pod_security.upper()],
            plugins=settings.plugins,
        )
        addresses = AddressFilter(settings.inline_http_allow, proxies=settings.inline_http_proxies)
        self._api_server_addresses = ApiServerAddresses(api, addresses)
        self._api_server_addresses.read_configuration()
        runnable = cluster_kinds(
            JobContext(
                # With the slug, which the line contains, it counts towards the log budget of its namespace.
                write=lambda line: log.info("printed", slug=line.split(None, 2)[1], text=line),
                plugins=settings.plugins,
                addresses=addresses,
                inline_shell=confinement is not None,
                confinement=confinement,
                pods=PodExecutor(
                    self._pods, pod_settings, capacity=settings.pod_capacity, now=clock.now, on_waiting=observer.waiting
                ),
            )
        )
        self.replica = Replica(
            store,
            runnable.kinds,
            ReplicaSettings(
                heartbeat=settings.heartbeat,
                jitter=settings.heartbeat / 10,
                lease=min(settings.lease, MAX_LEASE_IN_MEMORY) if in_memory else settings.lease,
                capacity=settings.capacity + settings.pod_capacity,
                grace=settings.grace,
                tenant_share=settings.namespace_share,
                weights=dict(settings.namespace_weights),
            ),
            ReplicaHost(
                name=peers.replica,
                program_version=program_version(),
                observer=observer,
                references=ClusterReferences(api),
                hook=runnable.hook,
                followers=objects.followers,
                lease_bound=lease.safe_until if in_memory else None,
                on_outlived=lambda slug: fence(f"the job {slug} blocks the event loop, and its lease is over"),
                clock=clock,
            ),
        )
        reader = StatusReader(store, runnable.kinds, clock.now, observer.begun, observer.waits_for)
        self._status_writer = StatusWriter(api, objects, budget, queue, reader, on_written=observer.written)
        rules = ObjectRules(pod_settings, settings.may_run_shell_inline, shell_off, runnable.kinds.keys())
        self._reconciler = Reconciler(
            store,
            objects,
            rules,
            self.replica,
            observer,
            status_is_complete=lambda: lease.released_cleanly,
            check=TemplateCheck(api, pod_settings),
        )
        self._garbage_collector = PodGarbageCollector(
            self._pods, store, peers.replica, objects, clock.now, min_age=2 * settings.lease
        )
        self._handover = Handover()
        self._watcher = KopfWatcher(api.access, settings.namespaces, self._handover, on_request=metrics.api_request)
        page_check = PageCheck(store, objects, self._reconciler, queue, observer)
        self._resync = Resync(
            settings,
            api,
            store,
            peers.replica,
            self._reconciler,
            page_check,
            unwatched=peers.unwatched,
        )
        self._probes = DependencyProbes(self.replica, api)
        self._settings = settings
        gauges = OperatorGauges(metrics, self.replica, objects, queue, self._events, self._watcher, self._pods)
        metrics.at_scrape(gauges.set)

    # ---------------------------------------------------------------- health and readiness

    def health(self) -> str | None:
        """Return why the process should be killed, or None."""
        return None if self.replica.alive else "the event loop has not run for a minute"

    @property
    def all_listed(self) -> asyncio.Event:
        """Set when the store has every object that existed when this replica started."""
        return self._resync.all_listed

    def conditions(self) -> dict[str, Callable[[], str | None]]:
        """Return, by part, a function that returns why that part is not ready, or None."""
        return {
            "engine": lambda: None if self.replica.ready.is_set() else "it does not claim work",
            "store": lambda: self._probes.store_problem,
            "api": lambda: self._probes.api_problem,
            "watch": lambda: (
                (self._watcher.state.error or "it is not connected")
                if self._watcher.state.connected_since is None
                else None
            ),
            "objects": lambda: None if self.all_listed.is_set() else "not every ScheduledJob has been read yet",
        }

    # ---------------------------------------------------------------- work

    async def run(self, stopping: asyncio.Event) -> bool:
        """Work until ``stopping`` is set, then shut down. Return whether every status is up to date."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 100)
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(part)
                for part in (
                    self._events.run(),
                    self._status_writer.run(),
                    self._pods.run(),
                    self._reconciler.run(),
                    self._forward_events(),
                    self._watcher.run(),
                    self._resync.run(),
                    self._garbage_collector.run(),
                    self._probes.run(),
                    self._api_server_addresses.run(),
                )
            ]
            replica = tasks.create_task(self._run_replica(stopping))
            await stopping.wait()
            log.info("stopping: runs may finish", seconds=self._settings.grace)
            statuses_written = await finish_work(
                self.replica, replica, self._status_writer, in_memory=is_memory(self._settings.store)
            )
            for part in parts:
                part.cancel()
        return statuses_written

    async def _run_replica(self, stopping: asyncio.Event) -> None:
        """Run what is due, once the store has every object as it is now.

        Otherwise what was edited or suspended while no operator ran would run once more as it was, and what has run
        would run again from a store that was restored from a backup.
        """
        waits = [asyncio.create_task(event.wait()) for event in (self.all_listed, stopping)]
        await asyncio.wait(waits, timeout=FIRST_LIST_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await self.replica.run()

    async def _forward_events(self) -> None:
        """Pass what the watch sees to the reconciler."""
        while True:
            for body, deleted in await self._handover.take():
                self._reconciler.observe(body, deleted=deleted)


def _inline_shell(settings: OperatorSettings) -> tuple[Confinement | None, str]:
    """Return how shell jobs inside the operator are confined; None and the reason if none may run there."""
    if not settings.inline_shell_namespaces:
        return None, "no namespace is allowed"
    confinement = Confinement(accept_unconfined=settings.accept_unconfined_shell)
    if refusal := confinement.refusal():
        log.warning("shell jobs run as Pods", reason=refusal)
        return None, refusal
    return confinement, ""
