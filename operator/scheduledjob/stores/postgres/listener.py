"""Listening: one connection that waits for NOTIFY, is probed, and is replaced when it is lost.

A connection can die without a word, and a pooler can swallow LISTEN without an error. So every few seconds a
notification is sent over another connection on a channel of the listener's own, and must arrive. Where it does not,
replicas are told that they are deaf, and look by themselves until it does. Behind a pooler that gives each
transaction another server connection it never will: then the store polls, and says so once.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from scheduledjob.engine.store import StoreError, StoreUnavailable, Wake

from .part import PostgresPart
from .queries import SQL
from .wakes import wake_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .connections import Connection

log = structlog.get_logger("scheduledjob.postgres")


PROBE_EVERY = 10.0
PROBE_TIMEOUT = 3.0
RETRY_FIRST, RETRY_MOST = 0.1, 5.0
"""Seconds between attempts to listen again: doubled each time."""


class PostgresListening(PostgresPart):
    """The part of the store that hears of what others write."""

    polls = False
    """Also while the listening connection is lost."""
    poll_interval = 1.0
    _unheard_of = False
    """No notification can come here, ever."""
    probe_every = PROBE_EVERY
    probe_timeout = PROBE_TIMEOUT

    async def _choose_polling(self) -> None:
        """Behind a pooler: find out whether notifications arrive at all."""
        if not self._server.pooled or self._unheard_of:
            return
        try:
            ear = await _Ear.open(self, lambda wake: None)
        except StoreUnavailable:
            hears = False
        else:
            try:
                hears = await ear.hears(min(0.5, self.probe_timeout))
            finally:
                ear.close()
        if not hears:
            self.polls = self._unheard_of = True
            log.warning(
                "LISTEN does not work through this connection pooler, so replicas poll; give them a URL that leads "
                "to Postgres itself, or a pooler in session mode, to have work started without that delay",
                server=self._server.address.shown,
                poll_interval=self.poll_interval,
            )

    @asynccontextmanager
    async def listen(self, on_wake: Callable[[Wake], None]) -> AsyncIterator[None]:
        def hear(wake: Wake) -> None:
            if wake.due is not None:
                self._watermark.lower(wake.due)
            on_wake(wake)

        if self._unheard_of:
            on_wake(Wake(notifications_lost=True))
            yield
            return
        tried = asyncio.Event()
        task = asyncio.create_task(self._listen_always(hear, tried), name="scheduledjob-listen")
        try:
            await tried.wait()
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen_always(self, on_wake: Callable[[Wake], None], tried: asyncio.Event) -> None:
        """``tried`` is set once this listens, or has failed to."""
        pause = RETRY_FIRST
        while True:
            try:
                ear = await _Ear.open(self, on_wake)
            except StoreError as error:
                log.warning("can't listen for notifications", error=str(error))
            else:
                tried.set()
                try:
                    if await ear.listen(lambda: self._turn(on_wake, notifications_lost=False)):
                        pause = RETRY_FIRST
                finally:
                    ear.close()
                log.warning("lost the connection that listens for notifications", server=self._server.address.shown)
            self._turn(on_wake, notifications_lost=True)
            tried.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MOST)

    def _turn(self, on_wake: Callable[[Wake], None], *, notifications_lost: bool) -> None:
        """Poll while deaf; and look once more when no longer, for what came in between."""
        if self.polls != notifications_lost:
            self.polls = notifications_lost
            on_wake(Wake(notifications_lost=True))


class _Ear:
    """One listening connection."""

    def __init__(self, store: PostgresListening, connection: Connection) -> None:
        self._store = store
        self._connection = connection
        self._probe_channel = f"scheduledjob_probe_{secrets.token_hex(8)}"
        self._heard = asyncio.Event()
        self._lost = asyncio.Event()

    @classmethod
    async def open(cls, store: PostgresListening, on_wake: Callable[[Wake], None]) -> _Ear:
        with store._server.reaching("listening"):
            async with asyncio.timeout(store._timeout):
                connection = await store._server.open()
                try:
                    ear = cls(store, connection)
                    await ear._start(on_wake)
                except BaseException:
                    connection.terminate()
                    raise
        return ear

    async def _start(self, on_wake: Callable[[Wake], None]) -> None:
        def told(connection: object, pid: int, channel: str, payload: object) -> None:
            if (wake := wake_of(str(payload), self._store._replicas)) is not None:
                on_wake(wake)

        self._connection.add_termination_listener(lambda connection: self._lost.set())
        await self._connection.add_listener(self._store._channel, told)
        await self._connection.add_listener(self._probe_channel, lambda *_: self._heard.set())

    async def hears(self, patience: float) -> bool:
        """Whether a notification that is sent over another connection arrives."""
        self._heard.clear()
        try:
            async with asyncio.timeout(patience):
                async with self._store._pool.connection("probing notifications") as other:
                    await other.execute(SQL["notify"], self._probe_channel, "")
                await self._heard.wait()
        except (TimeoutError, StoreError):
            return False
        return True

    async def listen(self, on_heard: Callable[[], None]) -> bool:
        """Return when the connection is lost; whether it ever worked."""
        worked = False
        while not self._lost.is_set() and await self.hears(self._store.probe_timeout):
            worked = True
            on_heard()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._store.probe_every):
                    await self._lost.wait()
        return worked

    def close(self) -> None:
        self._connection.terminate()
