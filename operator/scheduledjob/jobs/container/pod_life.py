"""PodLife follows the Pod of an attempt, from its creation or adoption until none of its containers is alive.

A watch reports the Pod. If it breaks, it reports only the newest state afterwards. So each step depends on the Pod as
it is now, and never on what changed. Times are measured with this machine's monotonic clock, from when something was
observed here; for an adopted Pod, from its timestamps in the cluster.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.domain.time.instants import SECOND, Instant, to_instant
from scheduledjob.engine.executor import Result
from scheduledjob.jobs.reasons import timed_out

from .pod_builder import GRACE
from .pod_logs import log_of
from .pod_names import timeout_of
from .pod_outcome import PodObservation, PodPhase, by_runner, gone, observe, started_at, whole_lines
from .pod_retrying import LONGEST_RETRY_DELAY, retry_until_answered
from .pod_secrets import PodSecrets, are_known_to_runner, has_token, secret_uses
from .pods_protocol import PodRefused, PodsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from .pod_limits import PodLimits
    from .pods_protocol import Pods, PodWatch

log = structlog.get_logger("scheduledjob.pods")

POLL_INTERVAL = 30.0
"""Seconds without a report after which a Pod is read if the watch can't see it."""
DELETION_POLL_INTERVAL = 10.0
"""Seconds without a change after which a Pod that is being deleted is deleted again."""
RUNNER_SLACK = 10.0
"""Seconds after the timeout in which a runner can end its job itself, and report it."""
SIDECAR_SECONDS = 10.0
"""Seconds that other containers may go on after the job has ended, for example to send the rest of its log."""
END_SLACK = 30.0
"""Seconds that a node gets to end a Pod after its grace period. Then the Pod is deleted."""

_rng = random.Random()  # noqa: S311  # only spreads load


class PodLife:
    """Follows a Pod to its end. ``now``: the cluster's time, for a Pod that started before it was observed here."""

    def __init__(
        self,
        pods: Pods,
        pod: Mapping[str, Any],
        watch: PodWatch,
        secrets: PodSecrets,
        limits: PodLimits,
        *,
        complete: AbstractSet[int],
        adopted: bool,
        now: Callable[[], Instant],
    ) -> None:
        self._pods = pods
        self._pod = pod
        self._watch = watch
        self._secrets = secrets
        self._limits = limits
        self._complete = complete
        self._now = now
        self._uid: str = pod["metadata"]["uid"]
        self._gone = False
        self._timeout = timeout_of(pod)
        if adopted:
            limits.pending_until -= self._since(pod["metadata"].get("creationTimestamp"))
        self._first_observation = adopted
        """Whether the next observation may find a container that started before."""
        self._running_until = math.inf
        self._started = False

    async def run(self) -> Result:
        """Wait until the job has ended and none of its containers is alive. Returns the result."""
        while True:
            observation = observe(self._pod, self._complete)
            if observation.phase is PodPhase.ENDED:
                return await self._finish(observation)
            if self._gone:
                return await self._leave(Result(False, gone(self._pod)))
            if observation.phase is PodPhase.RUNNING:
                await self._note_start()
            self._limits.waits_for(
                "" if self._started else await self._secrets.mask_known(self._pod, observation.words)
            )
            hopeless = observation.hopeless and not self._started
            until = self._running_until if self._started else self._limits.start_until
            if not hopeless and await self._wait_for_change(until):
                continue
            # The last observation may be old. Read the Pod before it is ended because of it.
            await retry_until_answered(self._read)
            latest = observe(self._pod, self._complete)
            if self._gone or latest.phase is PodPhase.ENDED:
                continue
            if self._started:
                return await self._time_out()
            if latest.hopeless:
                return await self._give_up(latest.words, latest.detail)
            if latest.phase is PodPhase.PENDING and not hopeless:
                return await self._give_up(self._limits.not_started(latest.words), latest.detail)

    async def end(self) -> Result | None:
        """Delete the Pod, wait until it is gone, and return None. If it has ended already, only return its result."""
        observation = observe(self._pod, self._complete)
        if observation.phase is PodPhase.ENDED and observation.settled:
            return await self._finish(observation)
        await self._delete()
        return None

    # ---------------------------------------------------------------- waiting

    async def _note_start(self) -> None:
        """Note that the container has started, even if a watch that lags reports the Pod as pending again."""
        if self._started:
            return
        self._started = True
        ran = self._since(started_at(self._pod)) if self._first_observation else 0.0
        if self._timeout is not None:
            slack = RUNNER_SLACK if by_runner(self._pod) else 0.0
            self._running_until = min(time.monotonic() + self._timeout - ran, self._limits.total_until) + slack
        await self._secrets.note_start(self._pod)

    def _since(self, stamp: str | None) -> float:
        """Return the seconds since a timestamp of the cluster."""
        if stamp is None:
            return 0.0
        instant = to_instant(datetime.fromisoformat(stamp))
        return max(0.0, (self._now() - instant) / SECOND)

    async def _wait_for_change(self, until: float, interval: float = POLL_INTERVAL) -> bool:
        """Wait until the Pod has changed or is gone. Returns False if neither had happened by ``until``."""
        self._first_observation = False
        while not self._gone:
            now = time.monotonic()
            if now >= until:
                return False
            poll_at = now + interval * _rng.uniform(0.8, 1.2)
            try:
                async with asyncio.timeout(min(poll_at, until) - now):
                    await self._watch.change()
            except TimeoutError:
                if time.monotonic() < poll_at or not self._watch.blind:
                    continue
                if not await self._try_read():
                    continue
                return True
            if self._uid in self._watch.gone:
                self._gone = True
            latest = self._watch.latest
            if latest is not None and latest["metadata"]["uid"] == self._uid:
                self._pod = latest
                return True
        return True

    async def _try_read(self) -> bool:
        """Read the Pod. Returns False if the API server is unavailable."""
        try:
            await self._read()
        except PodsUnavailable:
            return False
        return True

    async def _read(self) -> None:
        metadata = self._pod["metadata"]
        pod = await self._pods.read(metadata["namespace"], metadata["name"])
        if pod is None or pod["metadata"]["uid"] != self._uid:
            self._gone = True
        else:
            self._pod = pod

    # ---------------------------------------------------------------- the end

    async def _finish(self, observation: PodObservation) -> Result:
        """Return the result with the output. End the containers that are still alive after the job."""
        observation = await self._until_settled(observation, SIDECAR_SECONDS)
        if not observation.settled and not self._gone:
            observation = await self._end_sidecars(observation)
        result = observation.result
        assert result is not None
        if observation.log_wanted and not self._gone:
            result.output = await log_of(self._pods, self._pod)
        if not observation.settled:
            await self._delete()
        return await self._leave(result, observation.detail)

    async def _until_settled(self, observation: PodObservation, seconds: float) -> PodObservation:
        """Wait until no container is alive, or that many seconds have passed."""
        until = time.monotonic() + seconds
        while not observation.settled and await self._wait_for_change(until) and not self._gone:
            observation = observe(self._pod, self._complete)
        return observation

    async def _end_sidecars(self, observation: PodObservation) -> PodObservation:
        """Let the node end the containers that have outlived the job, so that the Pod stays with its log."""
        try:
            await retry_until_answered(lambda: self._pods.expire(self._pod, job_ended=True))
        except PodRefused as error:
            log.warning("can't end the sidecars of a Pod; deleting the Pod", pod=self._name, error=str(error))
            return observation
        return await self._until_settled(observation, self._grace + END_SLACK)

    async def _give_up(self, words: str, detail: str) -> Result:
        """Delete a Pod that does not start."""
        await self._delete()
        observation = observe(self._pod, self._complete)
        if observation.phase is PodPhase.ENDED and observation.result is not None and observation.result.ok:
            return await self._leave(observation.result, observation.detail)
        return await self._leave(Result(False, words), detail)

    async def _time_out(self) -> Result:
        """Let the node end the Pod, so that it stays with its log. Delete it if that does not work."""
        assert self._timeout is not None
        until = time.monotonic() + self._grace + END_SLACK
        try:
            await retry_until_answered(lambda: self._pods.expire(self._pod))
        except PodRefused as error:
            log.warning("can't set the deadline of a Pod; deleting the Pod", pod=self._name, error=str(error))
            until = 0.0
        observation = observe(self._pod, self._complete)
        while (
            not (observation.phase is PodPhase.ENDED and observation.settled)
            and await self._wait_for_change(until)
            and not self._gone
        ):
            observation = observe(self._pod, self._complete)
        if observation.phase is not PodPhase.ENDED or not observation.settled:
            await self._delete()
            return await self._leave(Result(False, timed_out(self._timeout)))
        result = await self._finish(observation)
        if not result.ok:
            result.reason = timed_out(self._timeout)
        return result

    async def _delete(self) -> None:
        """Delete the Pod and wait until the API server says that it is gone."""
        while not self._gone:
            try:
                await retry_until_answered(lambda: self._pods.delete(self._pod))
            except PodRefused as error:
                log.warning("can't delete a Pod; retrying", pod=self._name, error=str(error))
                await asyncio.sleep(LONGEST_RETRY_DELAY)
            if not await self._wait_for_change(time.monotonic() + DELETION_POLL_INTERVAL, DELETION_POLL_INTERVAL / 2):
                node = self._pod["spec"].get("nodeName") or "none"
                self._limits.waits_for(f"the end of its Pod, which was deleted (node: {node})", started=self._started)
                await self._try_read()

    @property
    def _name(self) -> str:
        metadata = self._pod["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    @property
    def _grace(self) -> float:
        return float(self._pod["spec"].get("terminationGracePeriodSeconds") or GRACE)

    async def _leave(self, result: Result, detail: str = "") -> Result:
        """Complete a result, and mask it. ``detail`` is text of the Pod that belongs to the reason."""
        result.where = self._pod["metadata"]["name"]
        redaction = await self._secrets.redaction(self._pod)
        if by_runner(self._pod):
            redaction.was_shortened = not are_known_to_runner(self._pod)
        elif detail and (secret_uses(self._pod) or has_token(self._pod)):
            detail = whole_lines(detail, self._pod)
        if not result.ok and not result.output:
            await self._secrets.pull_secrets(self._pod, redaction)
        return await redaction.seal(result, detail)
