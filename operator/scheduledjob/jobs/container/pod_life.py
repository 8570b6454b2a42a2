"""One attempt's Pod, from the moment it is known to be there until nothing of it is alive.

What is known of the Pod comes from a watch, which may be broken for a while and then tells only the newest: so each
step looks at the Pod as it is now, never at what changed. Times are measured on this machine's monotonic clock from
what was seen here; of a Pod that was adopted, from what the cluster's clocks say of its beginning.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from scheduledjob.domain.time.instants import SECOND, Instant, to_instant
from scheduledjob.engine.executor import Result
from scheduledjob.jobs.reasons import length, one_line, timed_out

from .pod_builder import GRACE
from .pod_logs import output_of
from .pod_names import timeout_of
from .pod_outcome import PodObservation, PodPhase, by_runner, gone, look, started_at
from .pods_protocol import PodRefused, PodsAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from collections.abc import Set as AbstractSet

    from .pods_protocol import Pods, PodWatch

log = structlog.get_logger("scheduledjob.pods")

T = TypeVar("T")

LOOK_AGAIN = 30.0
"""Seconds without news after which a Pod that the watch does not see is asked for."""
CONFIRM_AGAIN = 10.0
"""The same for one that is being deleted."""
RUNNER_SLACK = 10.0
"""Seconds that a runner has to end its job by itself when its time is up, and to say so."""
END_SLACK = 30.0
"""Seconds beyond its grace after which a Pod that its node was to end is deleted."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries of what the API server did not answer."""

_rng = random.Random()  # noqa: S311  # spreads load, guards nothing


class Life:
    """Sees one Pod to its end. ``now``: the cluster's time, for a Pod that began before it was seen here."""

    def __init__(
        self,
        pods: Pods,
        pod: Mapping[str, Any],
        watch: PodWatch,
        *,
        complete: AbstractSet[int],
        pending: float | None,
        adopted: bool,
        now: Callable[[], Instant],
    ) -> None:
        self._pods = pods
        self._pod = pod
        self._watch = watch
        self._complete = complete
        self._now = now
        self._uid: str = pod["metadata"]["uid"]
        self._gone = False
        self._timeout = timeout_of(pod)
        waited = self._since(pod["metadata"].get("creationTimestamp")) if adopted else 0.0
        self._patience = pending
        self._pending_until = None if pending is None else time.monotonic() + pending - waited
        self._first_look = adopted
        """Whether the next look may find a container that began before."""
        self._running_until: float | None = None
        self._began = False

    async def run(self) -> Result:
        """How the job ended, when nothing of it is alive."""
        while True:
            seen = look(self._pod, self._complete)
            if seen.phase is PodPhase.ENDED:
                return await self._finish(seen)
            if self._gone:
                return self._named(gone(self._pod))
            if seen.phase is PodPhase.RUNNING:
                self._note_begin()
            hopeless = seen.hopeless and not self._began
            if not hopeless and await self._news(self._running_until if self._began else self._pending_until):
                continue
            # What is known may be old: nothing is ended for it before the API server has said that it is so.
            await insist(self._read)
            now = look(self._pod, self._complete)
            if self._gone or now.phase is PodPhase.ENDED:
                continue
            if self._began:
                return await self._time_out()
            if now.hopeless:
                return await self._give_up(now.words)
            if now.phase is PodPhase.PENDING and not hopeless:
                waited = f"not started within {length(self._patience or 0.0)}"
                return await self._give_up(f"{waited}: {now.words}" if now.words else waited)

    async def end(self) -> Result | None:
        """End it, if it has not ended, and wait until the API server says that it is gone: then None."""
        seen = look(self._pod, self._complete)
        if seen.phase is PodPhase.ENDED and seen.settled:
            return await self._finish(seen)
        await self._delete()
        return None

    # ---------------------------------------------------------------- waiting

    def _note_begin(self) -> None:
        """The container runs. A watch that lags behind may still tell of the time before: that changes nothing."""
        if self._began:
            return
        self._began = True
        ran = self._since(started_at(self._pod)) if self._first_look else 0.0
        if self._timeout is not None:
            slack = RUNNER_SLACK if by_runner(self._pod) else 0.0
            self._running_until = time.monotonic() + self._timeout + slack - ran

    def _since(self, stamp: str | None) -> float:
        """Seconds from a time stamp of the cluster until now."""
        if stamp is None:
            return 0.0
        began = to_instant(datetime.fromisoformat(stamp))
        return max(0.0, (self._now() - began) / SECOND)

    async def _news(self, until: float | None, again: float = LOOK_AGAIN) -> bool:
        """Wait until the Pod has changed or is gone; False: it had not by ``until``."""
        self._first_look = False
        while not self._gone:
            now = time.monotonic()
            if until is not None and now >= until:
                return False
            poll_at = now + again * _rng.uniform(0.8, 1.2)
            try:
                async with asyncio.timeout((poll_at if until is None else min(poll_at, until)) - now):
                    await self._watch.change()
            except TimeoutError:
                if time.monotonic() < poll_at or not self._watch.blind:
                    continue
                if not await self._ask():
                    continue
                return True
            if self._uid in self._watch.gone:
                self._gone = True
            latest = self._watch.latest
            if latest is not None and latest["metadata"]["uid"] == self._uid:
                self._pod = latest
                return True
        return True

    async def _ask(self) -> bool:
        """Whether the API server answered what has become of the Pod."""
        try:
            await self._read()
        except PodsAway:
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

    async def _finish(self, seen: PodObservation) -> Result:
        """Take the job's result with its output; what outlives the job in its Pod is ended."""
        until = time.monotonic() + self._grace + END_SLACK
        while not seen.settled and await self._news(until) and not self._gone:
            seen = look(self._pod, self._complete)
        result = seen.result
        assert result is not None
        if seen.log_wanted and not self._gone:
            result.output = await output_of(self._pods, self._pod)
        if not seen.settled:
            await self._delete()
        return self._named(result)

    async def _give_up(self, words: str) -> Result:
        """It does not start."""
        await self._delete()
        seen = look(self._pod, self._complete)
        if seen.phase is PodPhase.ENDED and seen.result is not None and seen.result.ok:
            return self._named(seen.result)
        return self._named(Result(False, one_line(words)))

    async def _time_out(self) -> Result:
        """Its node ends it, so that the Pod and its log stay; what does not end so is deleted."""
        assert self._timeout is not None
        until = time.monotonic() + self._grace + END_SLACK
        try:
            await insist(lambda: self._pods.expire(self._pod))
        except PodRefused as error:
            log.warning("a Pod's deadline can't be set; deleting it", pod=self._name, error=str(error))
            until = 0.0
        seen = look(self._pod, self._complete)
        while not (seen.phase is PodPhase.ENDED and seen.settled) and await self._news(until) and not self._gone:
            seen = look(self._pod, self._complete)
        if seen.phase is not PodPhase.ENDED or not seen.settled:
            await self._delete()
            return self._named(Result(False, timed_out(self._timeout)))
        result = await self._finish(seen)
        if not result.ok:
            result.reason = timed_out(self._timeout)
        return result

    async def _delete(self) -> None:
        """Returns when the API server has said that the Pod is gone."""
        while not self._gone:
            try:
                await insist(lambda: self._pods.delete(self._pod))
            except PodRefused as error:
                log.warning("a Pod can't be deleted; trying again", pod=self._name, error=str(error))
                await asyncio.sleep(LONGEST_PAUSE)
            if not await self._news(time.monotonic() + CONFIRM_AGAIN, CONFIRM_AGAIN / 2):
                await self._ask()

    @property
    def _name(self) -> str:
        metadata = self._pod["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    @property
    def _grace(self) -> float:
        return float(self._pod["spec"].get("terminationGracePeriodSeconds") or GRACE)

    def _named(self, result: Result) -> Result:
        result.where = self._pod["metadata"]["name"]
        return result


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Call until there is an answer, for as long as it takes, and not before it said that it can be asked again."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await call()
        except PodsAway as error:
            if pause == FIRST_PAUSE:
                log.info("the API server is away; waiting for it", error=str(error))
            asked = error.retry_after
        await asyncio.sleep(max(pause * _rng.uniform(0.5, 1.0), asked * _rng.uniform(1.0, 1.1)))
        pause = min(LONGEST_PAUSE, pause * 2)
