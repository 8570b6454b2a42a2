"""Listening: one connection that waits for NOTIFY, is probed, and is replaced when it is lost.

A connection can die silently, and a pooler can swallow LISTEN without an error. So every few seconds a notification
is sent over another connection, on a channel that only this listener uses, and must arrive. If it does not, replicas
learn that notifications are lost, and poll until one arrives again. Behind a pooler that gives each transaction
another server connection, none ever arrives: then the store polls for good, and logs that once.
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
from .wakes import decode_wake

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .connections import Connection

log = structlog.get_logger("scheduledjob.postgres")


PROBE_INTERVAL = 10.0
PROBE_TIMEOUT = 3.0
"""Seconds."""
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 0.1, 5.0
"""Seconds between attempts to listen again; doubled after each."""


class PostgresListener(PostgresPart):
    """The part of the store that receives notifications."""

    polls = False
    """Also True while the listening connection is lost."""
    poll_interval = 1.0
    exclusive = False
    row_limit: int | None = 256 << 20  # the server's limit for a message is 1 GiB
    _cannot_listen = False
    """A pooler keeps notifications from arriving, for good."""
    probe_interval = PROBE_INTERVAL
    probe_timeout = PROBE_TIMEOUT

    async def _choose_polling(self) -> None:
        """Behind a pooler, find out whether notifications arrive at all."""
        if not self._server.pooled or self._cannot_listen:
            return
        try:
            listening = await _ListeningConnection.open(self, lambda wake: None)
        except StoreUnavailable:
            works = False
        else:
            try:
                works = await listening.probe(min(0.5, self.probe_timeout))
            finally:
                listening.close()
        if not works:
            self.polls = self._cannot_listen = True
            log.warning(
                "LISTEN does not work through this connection pooler, so replicas poll; give them a URL that leads "
                "to Postgres itself, or a pooler in session mode, to have work started without that delay",
                server=self._server.address.shown,
                poll_interval=self.poll_interval,
            )

    @asynccontextmanager
    async def listen(self, on_wake: Callable[[Wake], None]) -> AsyncIterator[None]:
        def lower_watermark_and_wake(wake: Wake) -> None:
            if wake.due is not None:
                self._watermark.lower(wake.due)
            on_wake(wake)

        if self._cannot_listen:
            on_wake(Wake(notifications_lost=True))
            yield
            return
        tried = asyncio.Event()
        task = asyncio.create_task(self._keep_listening(lower_watermark_and_wake, tried), name="scheduledjob-listen")
        try:
            await tried.wait()
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _keep_listening(self, on_wake: Callable[[Wake], None], tried: asyncio.Event) -> None:
        """Listen, and reconnect when the connection is lost. ``tried`` is set after the first attempt."""
        delay = MIN_RETRY_DELAY
        while True:
            try:
                listening = await _ListeningConnection.open(self, on_wake)
                tried.set()
                try:
                    if await listening.run(lambda: self._set_polling(on_wake, False)):
                        delay = MIN_RETRY_DELAY
                finally:
                    listening.close()
                log.warning("lost the connection that listens for notifications", server=self._server.address.shown)
            except StoreError as error:
                log.warning("can't listen for notifications", error=str(error))
            except Exception as error:  # nobody awaits this task: without it, notifications would never come back
                log.error("listening for notifications failed, and will be retried", error=repr(error), exc_info=error)
            self._set_polling(on_wake, True)
            tried.set()
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_RETRY_DELAY)

    def _set_polling(self, on_wake: Callable[[Wake], None], polls: bool) -> None:
        """Poll while notifications are lost, and once more afterwards, for those that were lost in between."""
        if self.polls != polls:
            self.polls = polls
            on_wake(Wake(notifications_lost=True))


class _ListeningConnection:
    """One listening connection."""

    def __init__(self, store: PostgresListener, connection: Connection) -> None:
        self._store = store
        self._connection = connection
        self._probe_channel = f"scheduledjob_probe_{secrets.token_hex(8)}"
        self._probe_arrived = asyncio.Event()
        self._lost = asyncio.Event()

    @classmethod
    async def open(cls, store: PostgresListener, on_wake: Callable[[Wake], None]) -> _ListeningConnection:
        with store._server.translate_errors("listening"):
            async with asyncio.timeout(store._timeout):
                connection = await store._server.open()
                try:
                    listening = cls(store, connection)
                    await listening._start(on_wake)
                except BaseException:
                    connection.terminate()
                    raise
        return listening

    async def _start(self, on_wake: Callable[[Wake], None]) -> None:
        def on_notification(connection: object, pid: int, channel: str, payload: object) -> None:
            if (wake := decode_wake(str(payload), self._store._replicas)) is not None:
                on_wake(wake)

        self._connection.add_termination_listener(lambda connection: self._lost.set())
        await self._connection.add_listener(self._store._channel, on_notification)
        await self._connection.add_listener(self._probe_channel, lambda *_: self._probe_arrived.set())

    async def probe(self, time_limit: float) -> bool:
        """Return whether a notification that is sent over another connection arrives within so many seconds."""
        self._probe_arrived.clear()
        try:
            async with asyncio.timeout(time_limit):
                async with self._store._pool.connection("probing notifications") as other:
                    await other.execute(SQL["notify"], self._probe_channel, "")
                await self._probe_arrived.wait()
        except (TimeoutError, StoreError):
            return False
        return True

    async def run(self, on_probe_arrived: Callable[[], None]) -> bool:
        """Probe until the connection is lost, and return whether it ever worked."""
        worked = False
        while not self._lost.is_set() and await self.probe(self._store.probe_timeout):
            worked = True
            on_probe_arrived()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._store.probe_interval):
                    await self._lost.wait()
        return worked

    def close(self) -> None:
        self._connection.terminate()
