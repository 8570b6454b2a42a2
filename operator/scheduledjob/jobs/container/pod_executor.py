"""Runs jobs as Pods: creates the Pod of an attempt, or continues with the existing one, and follows it to its end.

The Pod does not depend on this replica. Its name follows from its attempt, so a creation that is sent twice, or by two
replicas, makes one Pod; the executor does not remember whether it exists, but asks the API server. If the API server is
unavailable, the attempt does not fail: the Pod goes on, and so does the lease. A Pod has ended when the API server says
so, not when its deletion was requested: the executor waits until a deleted Pod is gone, however long its node takes.
Kubernetes itself removes the Pods of a lost node, so a deletion is never forced.

The Pod of an attempt that timed out is not deleted. Its deadline is brought forward (``pod_life.py``) so that its node
ends it. The Pod stays, with its log, and its name can't be used again by a replica that was stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.engine.executor import CANCELLED, Attempt, Result
from scheduledjob.engine.threads import run_apart
from scheduledjob.jobs.fair_share import FairShare
from scheduledjob.jobs.reasons import of_exception
from scheduledjob.jobs.redaction import Redaction, redacted

from .pod_builder import Blueprint
from .pod_life import PodLife
from .pod_limits import NotStartedError, PodLimits
from .pod_names import SECRETS, is_of, pod_name
from .pod_retrying import retry_until_answered
from .pod_secrets import PodSecrets
from .pod_spec import PodSettings, PodSpec
from .pods_protocol import PodExists, PodRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .pod_limits import OnWaiting
    from .pods_protocol import Pods, PodWatch

log = structlog.get_logger("scheduledjob.pods")

IN_FLIGHT = 64
"""Requests in flight that create Pods. More would only wait in the API server."""
BLUEPRINTS = 4096
"""Maximum number of blueprints that are kept, one for each definition."""
LARGE = 16 << 10
"""Bytes of a definition above which its template is merged in a thread."""


def _wall_clock() -> Instant:
    return time.time_ns() // 1000


def places(count: int) -> FairShare:
    """Return places for Pods. A namespace alone gets three quarters of them, and the next one of the rest."""

    def words(held: int) -> str:
        return f"{share.used} of {count} places are taken, {held} by this namespace"

    share = FairShare(count, words, times=3)
    return share


class PodExecutor:
    """The ``Executor`` of Pod jobs, a detached kind. The params of an attempt are ``PodSpec`` or its JSON."""

    def __init__(
        self,
        pods: Pods,
        settings: PodSettings | None = None,
        *,
        capacity: int = 4096,
        now: Callable[[], Instant] = _wall_clock,
        on_waiting: OnWaiting = lambda attempt, words, started: None,
    ) -> None:
        """``capacity``: maximum number of attempts that have a Pod, shared by all namespaces; adopted ones are extra.
        ``now``: the store's clock, for the age of Pods that another replica made. ``on_waiting`` is called with what an
        attempt waits for before it starts, or before its Pod is gone."""
        self._pods = pods
        self._settings = settings or PodSettings()
        self._room = places(capacity)
        self._creating = places(IN_FLIGHT)
        self._now = now
        self._on_waiting = on_waiting
        self._blueprints: OrderedDict[bytes, Blueprint] = OrderedDict()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing to release: Pods go on without the replica."""

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing to do: a Pod does not die with its lease."""

    @redacted
    async def run(self, attempt: Attempt, redaction: Redaction) -> Result:
        """Follow the attempt's Pod to its end. ``Executor`` says what a cancellation means."""
        limits = PodLimits(attempt, self._on_waiting)
        try:
            if attempt.ending == CANCELLED:
                return await self._end(attempt, limits) or Result(False, "cancelled")
            if attempt.adopted:
                return await self._run(attempt, limits)
            async with AsyncExitStack() as stack:
                slot = self._room.one(attempt.namespace, lambda words: limits.waits_for(f"capacity for Pods: {words}"))
                async with limits.applied():
                    await stack.enter_async_context(slot)
                limits.waits_for("")
                return await self._run(attempt, limits)
        except NotStartedError as error:
            return Result(False, str(error))
        except asyncio.CancelledError:
            if attempt.ending != CANCELLED:
                raise
            ended = await self._end(attempt, limits)
            if ended is None:
                raise
            return ended
        except Exception as error:
            log.exception("can't follow a Pod; releasing its run", run_id=attempt.run_id, attempt=attempt.attempt)
            return Result(False, of_exception(error, redaction.mask_text), lost=True)
        finally:
            limits.waits_for("")

    async def _run(self, attempt: Attempt, limits: PodLimits) -> Result:
        name = pod_name(attempt.name, attempt.run_id, attempt.attempt)
        with self._pods.watch(attempt.namespace, name) as watch:
            pod, adopted = None, attempt.adopted
            secrets = PodSecrets(self._pods, attempt.namespace)
            if adopted:
                pod = await retry_until_answered(lambda: self._pods.read(attempt.namespace, name))
            if pod is None or not is_of(pod, attempt):
                try:
                    blueprint = await self._blueprint(attempt.params)
                    body = blueprint.pod(attempt, attempt.pending or 0.0)
                except ValueError as error:
                    return Result(False, str(error))
                await secrets.read(body, limits)
                if secrets.annotation:
                    body["metadata"]["annotations"][SECRETS] = secrets.annotation
                pod, adopted, refused = await self._create(attempt, body, limits)
                if pod is None:
                    return Result(False, refused)
            if adopted:
                await secrets.adopt(pod)
            else:
                await secrets.complete(pod)  # admission may have added containers
            return await self._life(attempt, pod, watch, secrets, limits, adopted=adopted).run()

    async def _create(
        self, attempt: Attempt, body: Mapping[str, Any], limits: PodLimits
    ) -> tuple[Mapping[str, Any] | None, bool, str]:
        """Return the Pod, whether it existed already, and if there is none the reason.

        If the limits pass, one of the requests may have been carried out although its answer was an error. So the
        attempt ends only when the API server has said that there is no Pod.
        """
        metadata = body["metadata"]
        while True:
            refused = ""
            try:
                created = await retry_until_answered(lambda: self._post(attempt, body, limits), limits)
                limits.waits_for("")
                return created, False, ""
            except PodExists:
                pass
            except NotStartedError as error:
                refused = str(error)
            except PodRefused as error:
                refused = str(error)
            # Even after a refusal the Pod may exist: an earlier request was not answered, and its Pod used the quota.
            pod = await retry_until_answered(lambda: self._pods.read(metadata["namespace"], metadata["name"]))
            if pod is not None and is_of(pod, attempt):
                return pod, True, ""
            if refused:
                return None, False, refused
            if pod is not None:
                words = f'there is a Pod called "{metadata["name"]}" that is not this run\'s: delete it'
                return None, False, words

    async def _post(self, attempt: Attempt, body: Mapping[str, Any], limits: PodLimits) -> Mapping[str, Any]:
        async with AsyncExitStack() as stack:
            slot = self._creating.one(attempt.namespace, lambda words: limits.waits_for(f"the API server: {words}"))
            async with limits.applied():
                await stack.enter_async_context(slot)
            return await self._post_now(attempt, body)

    async def _post_now(self, attempt: Attempt, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create the Pod. If the run is cancelled, wait for the answer, because the Pod might appear later."""
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

    async def _end(self, attempt: Attempt, limits: PodLimits) -> Result | None:
        """End the attempt's Pod, if there is one, and wait until it is gone. Returns its result if it had ended."""
        name = pod_name(attempt.name, attempt.run_id, attempt.attempt)
        with self._pods.watch(attempt.namespace, name) as watch:
            pod = await retry_until_answered(lambda: self._pods.read(attempt.namespace, name))
            if pod is None or not is_of(pod, attempt):
                return None
            secrets = PodSecrets(self._pods, attempt.namespace)
            await secrets.adopt(pod)
            return await self._life(attempt, pod, watch, secrets, limits, adopted=True).end()

    def _life(
        self,
        attempt: Attempt,
        pod: Mapping[str, Any],
        watch: PodWatch,
        secrets: PodSecrets,
        limits: PodLimits,
        *,
        adopted: bool,
    ) -> PodLife:
        complete = self._spec(attempt.params).complete_exit_codes
        return PodLife(
            self._pods,
            pod,
            watch,
            secrets,
            limits,
            complete=complete,
            adopted=adopted,
            now=self._now,
        )

    def _spec(self, params: Any) -> PodSpec:
        return params if isinstance(params, PodSpec) else msgspec.convert(params, PodSpec)

    async def _blueprint(self, params: Any) -> Blueprint:
        key = msgspec.json.encode(params)
        found = self._blueprints.get(key)
        if found is None:

            def make() -> Blueprint:
                return Blueprint(self._spec(params), self._settings)

            found = make() if len(key) <= LARGE else await run_apart(make)
            self._blueprints[key] = found
            if len(self._blueprints) > BLUEPRINTS:
                self._blueprints.popitem(last=False)
        else:
            self._blueprints.move_to_end(key)
        return found
