"""Runs jobs as Pods: makes the Pod of an attempt or goes on with the one that is there, and sees it to its end.

The Pod lives without this replica, and that decides everything here. Whether it is there already is not remembered but
asked: its name follows from the attempt, so a creation that was sent twice, or by two replicas, makes one Pod. That the
API server is away is no reason to fail: the Pod goes on, and so does the lease; only an answer ends an attempt. And the
end of a Pod is what the API server says of it, never what was asked of it: a deletion is waited for until the Pod is
gone, however long its node takes. Pods of a node that is gone are removed by Kubernetes itself, so nothing is forced.

An attempt that took too long is not deleted but has its deadline brought forward (``life.py``): its node ends it, and
the Pod stays, with its log, and keeps its name from being used again by a replica that stood still.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.engine.executor import CANCELLED, Attempt, Result
from scheduledjob.jobs.reasons import of_exception, one_line

from .pod_builder import Blueprint
from .pod_life import Life, insist
from .pod_names import is_of, pod_name
from .pod_spec import PodSettings, PodSpec
from .pods_protocol import PodExists, PodRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .pods_protocol import Pods, PodWatch

log = structlog.get_logger("scheduledjob.pods")

BLUEPRINTS = 4096
"""How many definitions' Pods are kept half made."""


def _wall_clock() -> Instant:
    return time.time_ns() // 1000


class PodExecutor:
    """The executor of Pod jobs: an ``Executor`` of a kind that outlives, whose params are ``PodSpec`` or its JSON."""

    def __init__(
        self,
        pods: Pods,
        settings: PodSettings | None = None,
        *,
        capacity: int = 4096,
        now: Callable[[], Instant] = _wall_clock,
    ) -> None:
        """``capacity``: attempts that have a Pod at once; what is adopted goes beyond it. ``now``: the store's clock,
        better than this machine's, for the age of Pods that another replica made."""
        self._pods = pods
        self._settings = settings or PodSettings()
        self._room = asyncio.Semaphore(capacity)
        self._now = now
        self._blueprints: OrderedDict[bytes, Blueprint] = OrderedDict()

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Nothing to release: Pods outlive the replica."""

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing to do: a Pod does not die with its lease."""

    async def run(self, attempt: Attempt) -> Result:
        """See the attempt's Pod to its end; see ``Executor`` for what a cancellation means."""
        try:
            if attempt.ending == CANCELLED:
                return await self._end(attempt) or Result(False, "cancelled")
            if attempt.adopted:
                return await self._run(attempt)
            async with self._room:
                return await self._run(attempt)
        except asyncio.CancelledError:
            if attempt.ending != CANCELLED:
                raise
            ended = await self._end(attempt)
            if ended is None:
                raise
            return ended
        except Exception as error:
            log.exception("a run in a Pod is let go of", run_id=attempt.run_id, attempt=attempt.attempt)
            return Result(False, of_exception(error), lost=True)

    async def _run(self, attempt: Attempt) -> Result:
        name = pod_name(attempt.name, attempt.run_id, attempt.attempt)
        with self._pods.watch(attempt.namespace, name) as watch:
            pod, adopted = None, attempt.adopted
            if adopted:
                pod = await insist(lambda: self._pods.read(attempt.namespace, name))
            if pod is None:
                try:
                    body = self._blueprint(attempt.params).pod(attempt, attempt.pending or 0.0)
                except ValueError as error:
                    return Result(False, one_line(str(error)))
                pod, adopted, refused = await self._create(attempt, body)
                if pod is None:
                    return Result(False, one_line(refused))
            return await self._life(attempt, pod, watch, adopted=adopted).run()

    async def _create(self, attempt: Attempt, body: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool, str]:
        """(The Pod, whether it was there already, and where there is none: why)."""
        metadata = body["metadata"]
        while True:
            refused = ""
            try:
                return await insist(lambda: self._post(attempt, body)), False, ""
            except PodExists:
                pass
            except PodRefused as error:
                refused = str(error)
            # A refusal, too, may follow a try that was carried out and not answered: that one's Pod used up a quota.
            pod = await insist(lambda: self._pods.read(metadata["namespace"], metadata["name"]))
            if pod is not None and is_of(pod, attempt):
                return pod, True, ""
            if refused:
                return None, False, refused
            if pod is not None:
                words = f'there is a Pod called "{metadata["name"]}" that is not this run\'s: delete it'
                return None, False, words

    async def _post(self, attempt: Attempt, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create. A cancellation that wants the Pod's end waits for the answer, or the Pod might come after it."""
        creation = asyncio.ensure_future(self._pods.create(body))
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            try:
                if attempt.ending == CANCELLED:
                    await asyncio.wait([creation])
            finally:
                creation.cancel()
                await asyncio.gather(creation, return_exceptions=True)
            raise

    async def _end(self, attempt: Attempt) -> Result | None:
        """End whatever there is of the attempt, and be certain; its result if it had ended before."""
        name = pod_name(attempt.name, attempt.run_id, attempt.attempt)
        with self._pods.watch(attempt.namespace, name) as watch:
            pod = await insist(lambda: self._pods.read(attempt.namespace, name))
            if pod is None or not is_of(pod, attempt):
                return None
            return await self._life(attempt, pod, watch, adopted=True).end()

    def _life(self, attempt: Attempt, pod: Mapping[str, Any], watch: PodWatch, *, adopted: bool) -> Life:
        complete = self._spec(attempt.params).complete_exit_codes
        return Life(self._pods, pod, watch, complete=complete, pending=attempt.pending, adopted=adopted, now=self._now)

    def _spec(self, params: Any) -> PodSpec:
        return params if isinstance(params, PodSpec) else msgspec.convert(params, PodSpec)

    def _blueprint(self, params: Any) -> Blueprint:
        key = msgspec.json.encode(params)
        found = self._blueprints.get(key)
        if found is None:
            found = self._blueprints[key] = Blueprint(self._spec(params), self._settings)
            if len(self._blueprints) > BLUEPRINTS:
                self._blueprints.popitem(last=False)
        else:
            self._blueprints.move_to_end(key)
        return found
