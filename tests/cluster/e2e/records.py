"""What the store knows of runs, read from Postgres itself, and which slots there should be: so that a test can compare.

A test that counts gives its jobs a beginning and an end (`bounded`): then every slot is known beforehand, and a
schedule without one left says so, which is what `Records.complete` waits for.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import asyncpg
import yaml

from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import SECOND, Instant, from_seconds, to_instant
from tests.cluster.e2e.operators import PATIENCE
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from tests.cluster.e2e.operators import Call
    from tests.cluster.harness import ApiClient

POLL_INTERVAL = 0.25
"""Seconds between two polls of the store, which does not notify tests."""
CREATIONS = 16
"""Objects that are created at once."""


class Ended(NamedTuple):
    """A run in history."""

    name: str
    slot: Instant
    run_id: str
    attempt: int
    outcome: str
    reason: str
    replica: str
    """Or the Pod."""


class Records:
    """The rows of one namespace in a store, inside ``async with``."""

    def __init__(self, dsn: str, namespace: str) -> None:
        self._dsn = dsn
        self._namespace = namespace
        self._connection: asyncpg.Connection[asyncpg.Record]

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._dsn)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def ended(self) -> list[Ended]:
        """Every run in history, in the order of slots."""
        found = await self._connection.fetch(
            "SELECT split_part(slug, '/', 2), slot, run_id, attempt, outcome, reason, replica FROM scheduledjob.history"
            " WHERE split_part(slug, '/', 1) = $1 ORDER BY slot, run_id",
            self._namespace,
        )
        return [Ended(*each) for each in found]

    async def ended_of(self, name: str) -> list[Ended]:
        return [each for each in await self.ended() if each.name == name]

    async def states(self) -> dict[str, State]:
        """By name."""
        found = await self._connection.fetch(
            "SELECT split_part(slug, '/', 2), state FROM scheduledjob.schedule WHERE split_part(slug, '/', 1) = $1",
            self._namespace,
        )
        return {name: State.decode(state) for name, state in found}

    async def complete(self, names: Sequence[str]) -> dict[str, State]:
        """Wait until these schedules have no slot left and no run under way; their states."""
        states: dict[str, State] = {}

        async def left() -> str:
            states.update(await self.states())
            under_way = {name: states.get(name) for name in names if name not in states or not _is_over(states[name])}
            shown = dict(itertools.islice(under_way.items(), 3))
            return f"{len(under_way)} schedules did not come to their end, such as {shown}" if under_way else ""

        await _none(left)
        return states

    async def until_ended(self, count: int) -> list[Ended]:
        """Wait until that many runs have ended; which they were."""
        found: list[Ended] = []

        async def left() -> str:
            found[:] = await self.ended()
            return f"{len(found)} of {count} runs ended; the states: {await self.states()}" * (len(found) < count)

        await _none(left)
        return found

    async def until_gone(self, name: str) -> None:
        """Wait until there is no schedule of this name."""

        async def left() -> str:
            return f"{name} is still in the store" if name in await self.states() else ""

        await _none(left)

    async def until_locked(self, name: str) -> None:
        """Wait until some replica has the lock."""

        async def left() -> str:
            found = await self._connection.fetchval("SELECT count(*) FROM scheduledjob.lock WHERE name = $1", name)
            return "" if found else f"no replica has the lock {name}"

        await _none(left)


async def everything_in(dsn: str) -> str:
    """Every row of every table of a store, as text."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'scheduledjob'")
        rows = [row for (table,) in tables for row in await connection.fetch(f'SELECT * FROM scheduledjob."{table}"')]
    finally:
        await connection.close()
    return "\n".join(str(tuple(row)) for row in rows)


async def _none(left: Callable[[], Awaitable[str]]) -> None:
    """Wait until nothing is left. Fail with what is left in the end. The store does not notify tests."""
    words = ""
    try:
        async with asyncio.timeout(PATIENCE):
            while words := await left():  # noqa: ASYNC110  # nothing could set an Event
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError:
        raise AssertionError(words) from None


def _is_over(state: State) -> bool:
    return state.completed is not None and not state.runs and not state.waiting and state.next is None


def seconds_from_now(seconds: float) -> datetime:
    """A whole second, at least so many seconds ahead."""
    return (datetime.now(UTC) + timedelta(seconds=seconds + 1)).replace(microsecond=0)


def bounded(begin: datetime, every: int, count: int) -> str:
    """Lines of spec by which a job has ``count`` slots, ``every`` so many seconds, the first at ``begin``; and by which
    history keeps them all."""
    end = begin + timedelta(seconds=every * (count - 1))
    return f'  startAt: "{_text(begin)}"\n  endAt: "{_text(end)}"\n  history: {{succeeded: 1000, failed: 1000}}\n'


def anchored(begin: datetime, every: int) -> str:
    """The trigger that goes with it."""
    return f'every: {every}s, anchor: "{_text(begin)}"'


def slots(begin: datetime, every: int, count: int) -> list[Instant]:
    """The slots that such a job has."""
    first = round(begin.timestamp()) * SECOND
    return [first + number * every * SECOND for number in range(count)]


def slot_of(call: Call) -> Instant:
    """The slot that a call says it is of."""
    return to_instant(datetime.fromisoformat(call.slot))


def came_at(call: Call) -> Instant:
    """When a call came, by this machine's clock, which is Postgres' too."""
    return from_seconds(time.time() - asyncio.get_running_loop().time() + call.at)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def create(api: ApiClient, namespace: str, manifests: Iterable[str]) -> list[dict[str, Any]]:
    """Create ScheduledJobs, many at once, which takes kubectl long; as they are then."""
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    bodies: Iterator[dict[str, Any]] = (body for text in manifests for body in yaml.safe_load_all(text) if body)
    room = asyncio.Semaphore(CREATIONS)

    async def create_one(body: dict[str, Any]) -> dict[str, Any]:
        async with room:
            return await api.post(path, body)

    async with asyncio.TaskGroup() as creating:
        tasks = [creating.create_task(create_one(body)) for body in bodies]
    return [task.result() for task in tasks]
