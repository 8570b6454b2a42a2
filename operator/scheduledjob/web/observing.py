"""Updates the metrics, from the calls to the engine's observer and by timing the calls to the store.

Both are on the path of every run, so they only count.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.observer import Observer
from scheduledjob.engine.store import Renewer, SlugTaken, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from scheduledjob.domain.schedule.state import Outcome, RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.store import Renewal
    from scheduledjob.engine.stored_row import Key, Row

    from .metrics import Metrics

T = TypeVar("T")
Arguments = ParamSpec("Arguments")

UNKNOWN = "unknown"
"""The kind of a run if the schedule was lost before the end of the run was reported."""

_SYNCHRONOUS = {"renewer", "listen"}
"""Methods of a store that make no round trip."""


class MetricsObserver(Observer):
    """Counts what a replica does."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._kinds: dict[str, str] = {}
        """The kind of job of each schedule that this replica owns, by slug."""

    def claimed(self, row: Row) -> None:
        self._kinds[row.slug] = row.kind.removeprefix("cluster.").removeprefix("manifest.")

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        slug = f"{attempt.namespace}/{attempt.name}" if attempt.namespace else attempt.name
        self._metrics.attempts_started.add(self._kinds.get(slug, UNKNOWN))
        self._metrics.start_lateness.observe(late / SECOND)

    def adopted(self, attempt: Attempt) -> None:
        self._metrics.attempts_adopted.add()

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        self._metrics.retries.add()

    def recorded(self, records: Sequence[RunRecord]) -> None:
        for record in records:
            self._metrics.runs.add(record.outcome.value, self._kinds.get(record.slug, UNKNOWN))

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        self._metrics.slots_passed_over.add(outcome.value, by=count)

    def released(self, slug: str, wake_at: Instant | None) -> None:
        self._kinds.pop(slug, None)

    def fenced(self, slug: str, why: str) -> None:
        self._metrics.lease_losses.add()
        self._kinds.pop(slug, None)

    def hook_given_up(self, slug: str, uid: str, attempts: int, reason: str) -> None:
        self._metrics.hooks_given_up.add()

    def lease_thread_failed(self, error: BaseException) -> None:
        self._metrics.lease_thread_failures.add()


def timed(store: Store, metrics: Metrics) -> Store:
    """Return the store with all its calls timed."""
    return cast("Store", _TimedStore(store, metrics))


class _TimedStore:
    """Times the round trips of a store, and passes everything else on.

    It counts only the calls for which the engine waits, not the calls of a store to itself.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        for name, member in vars(Store).items():
            if callable(member) and not name.startswith("_") and name not in _SYNCHRONOUS:
                setattr(self, name, _timed_call(getattr(store, name), name, metrics))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        async with self._store.renewer(replica) as renewer:
            yield _TimedRenewer(_timed_call(renewer.renew, "renew", self._metrics))


class _TimedRenewer:
    def __init__(self, renew: Callable[[Sequence[tuple[Key, int]], Micros], Coroutine[Any, Any, Renewal]]) -> None:
        self.renew = renew


def _timed_call(
    call: Callable[Arguments, Awaitable[T]], name: str, metrics: Metrics
) -> Callable[Arguments, Coroutine[Any, Any, T]]:
    async def timed_call(*arguments: Arguments.args, **named: Arguments.kwargs) -> T:
        began = time.perf_counter()
        try:
            return await call(*arguments, **named)
        except SlugTaken:
            raise  # an answer, not a failure
        except Exception:
            metrics.store_errors.add(name)
            raise
        finally:
            metrics.store_call_seconds.observe(time.perf_counter() - began, name)

    return timed_call
