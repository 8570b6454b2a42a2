"""Watches ScheduledJobs with kopf, in a thread and an event loop of its own, under a supervisor.

kopf only lists and watches. Its single handler passes each object to the operator's event loop. kopf writes nothing: no
finalizer, no annotation, no Event, no peering.

kopf needs a supervisor because of its design:

- It ends when a watch ends with an error other than 410, when the API server answers 403, 404 or 5xx for too long, and
  when its credentials are refused.
- It looks for the resource only once, at its start.
- It cancels tasks in its event loop that are not its own.
- Now and then one of its watches stops without an error.

So the supervisor checks first whether the resource exists and which namespaces may be listed. It runs kopf until kopf
ends or has requested no events for too long, and then starts it again, after a pause that grows until kopf works for
some time. Nothing here ends the process. A restart loses nothing but time: kopf lists again, and the sweep finds
deletions that happened in between.

The supervisor learns the state of the watch from the requests of kopf, which all pass through ``_Connections``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp
import kopf
import structlog

from scheduledjob.engine.threads import wait_apart
from scheduledjob.kube.client.api import Api, RequestObserver, pause, resource_of, user_agent
from scheduledjob.kube.client.api_errors import ApiError, Forbidden, NotFound
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.kube.client.shallow_json import decode, shallow
from scheduledjob.resource_names import GROUP, PLURAL, RESOURCE, VERSION

from .kopf_logs import log_abandoned_task, redirect_kopf_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from scheduledjob.kube.client.access import Access

    from .handover import Handover

log = structlog.get_logger("scheduledjob.watching")

SERVER_SECONDS = 40
"""Seconds after which the API server ends a watch, with a bookmark from which the next watch continues."""
CLIENT_SECONDS = 50.0
"""Seconds after which kopf ends a watch: the connection is dead, because the server has not ended the watch."""
STALE_SECONDS = 120.0
"""Seconds without a request for a watch after which kopf has lost the watch."""
HEALTHY_SECONDS = 30.0
"""Seconds of a working watch after which the next pause is short again."""
CHECK_SECONDS = 5.0
"""Seconds between two checks whether kopf still requests events."""
RECHECK_SECONDS = 30.0
"""Seconds between two checks whether a forbidden namespace may be listed now."""
STOP_SECONDS = 15.0
"""Seconds in which kopf has to end."""
WORKERS = 100
"""Objects that kopf handles at once. With the capacity of the handover, this limits its memory."""
IDLE_SECONDS = 0.01
"""Seconds for which kopf keeps the worker of an object for its next event. Other objects wait meanwhile."""


class WatchEnded(Exception):
    """kopf has ended or has to end, for the reason in the message."""


@dataclass(slots=True)
class WatchState:
    """The state of the watch. Its thread writes it; any thread may read it."""

    connected_since: float | None = None
    """The monotonic second since when all allowed namespaces are watched; None if they are not."""
    restarts: int = 0
    """How often kopf had to be restarted."""
    error: str = ""
    """What is wrong now; empty if nothing is."""
    refused: dict[str, str] = field(default_factory=dict)
    """The error for each namespace that may not be listed (``""``: all namespaces)."""


class KopfWatcher:
    """Watches until ``run`` is cancelled."""

    def __init__(
        self,
        access: Access,
        namespaces: Sequence[str],
        handover: Handover,
        *,
        on_request: RequestObserver | None = None,
    ) -> None:
        """``namespaces``: empty means all. Objects are put into ``handover``."""
        self.state = WatchState()
        self._access = access
        self._namespaces: tuple[str, ...] = tuple(namespaces) or ("",)
        self._handover = handover
        self._on_request = on_request
        self._stopping = threading.Event()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        """The event loop of the thread, and the task in it that runs kopf."""
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Watch until cancelled, and wait for the end of the thread."""
        ended = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=self._supervise, name="watching", daemon=True)
        thread.start()
        try:
            await ended
        finally:
            self._stop()
            await wait_apart(thread.join, STOP_SECONDS)

    def _stop(self) -> None:
        self._stopping.set()
        with self._lock:
            if self._running is not None:
                loop, task = self._running
                loop.call_soon_threadsafe(task.cancel)

    def _supervise(self) -> None:
        """Run kopf again and again. This is the thread."""
        redirect_kopf_log()
        failures = 0
        while not self._stopping.is_set():
            connections = _Connections(self.state, self._on_request)
            try:
                asyncio.run(self._run_once(connections))
            except BaseException as error:  # kopf may raise anything, and nothing may end the thread
                self._failed(error)
            self.state.connected_since = None
            if self._stopping.is_set():
                return
            if connections.expected:
                self.state.restarts += 1
            healthy = connections.first_at is not None and time.monotonic() - connections.first_at > HEALTHY_SECONDS
            failures = 1 if healthy else failures + 1
            self._stopping.wait(pause(failures, 0.0))

    def _failed(self, error: BaseException) -> None:
        if self._stopping.is_set():
            return
        message = error.message if isinstance(error, ApiError) else str(error) or type(error).__name__
        if message != self.state.error:
            log.warning("ScheduledJobs are not watched; trying again", error=message)
        self.state.error = message

    async def _run_once(self, connections: _Connections) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        loop.set_exception_handler(log_abandoned_task)
        with self._lock:
            self._running = loop, task
        try:
            if not self._stopping.is_set():
                await self._watch(connections)
        finally:
            with self._lock:
                self._running = None

    async def _watch(self, connections: _Connections) -> None:
        async with Api(self._access, connections=1, on_request=self._on_request) as api:
            allowed = await self._allowed(api)
            connections.expected = {scheduled_jobs(namespace) for namespace in allowed}
            connector = _Connector(limit=0, ssl=self._access.tls or False)
            async with self._session(connector, connections) as session:
                kopf_task = asyncio.create_task(self._kopf(allowed, session))
                connections.end_kopf = kopf_task.cancel
                try:
                    await self._monitor(kopf_task, api, connections)
                finally:
                    kopf_task.cancel()
                    await asyncio.wait([kopf_task], timeout=STOP_SECONDS)
                    connector.abort_all()
                    await asyncio.sleep(0)  # the transports close in the next iteration of the loop
                await kopf_task
                raise WatchEnded("kopf has ended without an error")

    async def _allowed(self, api: Api) -> list[str]:
        """Return the namespaces that may be listed. Raises ApiError if none may."""
        refused: dict[str, ApiError] = {}
        for namespace in self._namespaces:
            try:
                await api.get(scheduled_jobs(namespace), {"limit": 1}, attempts=1)
            except Forbidden as error:
                refused[namespace] = error
            except NotFound as error:
                missing = f"the CRD {RESOURCE} is not installed, or not in version {VERSION}: apply crds/"
                raise NotFound(404, error.reason, missing) from error
        for namespace, refusal in refused.items():
            if namespace not in self.state.refused:
                log.warning("not allowed to watch ScheduledJobs", namespace=namespace or "all", error=refusal.message)
        self.state.refused = {namespace: refusal.message for namespace, refusal in refused.items()}
        allowed = [namespace for namespace in self._namespaces if namespace not in refused]
        if not allowed:
            raise next(iter(refused.values()))
        return allowed

    async def _monitor(self, kopf_task: asyncio.Task[None], api: Api, connections: _Connections) -> None:
        """Wait until kopf ends. Raises WatchEnded if it is about to end, lost a watch, or may now watch more.

        When a watch is refused, kopf ends too, but it takes seconds, and its message is not for people.
        """
        rechecked = time.monotonic()
        while True:
            done, _ = await asyncio.wait([kopf_task], timeout=CHECK_SECONDS)
            if connections.refusal:
                raise WatchEnded(connections.refusal)
            if done:
                return
            now = time.monotonic()
            if now - connections.oldest_request() > STALE_SECONDS:
                raise WatchEnded(f"kopf has requested no events for {STALE_SECONDS:g} s")
            if self.state.refused and now - rechecked > RECHECK_SECONDS:
                rechecked = now
                for namespace in list(self.state.refused):
                    try:
                        await api.get(scheduled_jobs(namespace), {"limit": 1}, attempts=1)
                    except ApiError:
                        continue
                    raise WatchEnded(f"namespace {namespace} may be watched now")

    async def _kopf(self, namespaces: list[str], session: aiohttp.ClientSession) -> None:
        registry = kopf.OperatorRegistry()
        logins = iter([kopf.AiohttpSession(server=self._access.server, aiohttp_session=session)])
        kopf.on.login(registry=registry, id="login", retries=1)(_login(logins))
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="seen")(self._on_event)
        everywhere = "" in namespaces
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            # Without this kopf looks up the name of the user, which a container may not have.
            identity="scheduledjob",  # type: ignore[arg-type]  # kopf does not export the type of this text
            clusterwide=everywhere,
            namespaces=() if everywhere else namespaces,
        )

    async def _on_event(self, event: Any, **_: object) -> None:
        """The handler of kopf. It returns None, so kopf stores nothing in the object."""
        await self._handover.put(event["object"], deleted=event["type"] == "DELETED")

    def _session(self, connector: _Connector, connections: _Connections) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._access.proxy,
            middlewares=[connections.middleware(self._access)],
            response_class=_ShallowResponse,
        )


class _ShallowResponse(aiohttp.ClientResponse):
    """An answer without what is nested so deeply that kopf could not decode it, and would end."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        await super().start(connection)
        if "watch" in self.url.query:
            self.content = _ShallowLines(self.content)  # type: ignore[assignment]  # kopf only reads it in pieces
        return self

    async def json(self, **_: Any) -> Any:
        return decode(shallow(await self.read()))


class _ShallowLines:
    """The lines of a watch."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield whole lines."""
        pieces: list[bytes] = []
        async for data in self._content.iter_chunked(size):
            *lines, rest = data.split(b"\n")
            for line in lines:
                pieces.append(line)
                yield shallow(b"".join(pieces)) + b"\n"
                pieces.clear()
            pieces.append(rest)
        if last := b"".join(pieces):
            yield shallow(last)


class _Connector(aiohttp.TCPConnector):
    """Can abort all its connections, also those that are closing: a dead connection takes half a minute to close."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._transports: WeakSet[asyncio.Transport] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        if connection.transport is not None:
            self._transports.add(connection.transport)
        return connection

    def abort_all(self) -> None:
        for transport in list(self._transports):
            transport.abort()


class _Connections:
    """Adds the credentials to every request of kopf, and learns the state of the watch from it."""

    def __init__(self, state: WatchState, on_request: RequestObserver | None) -> None:
        self.expected: set[str] = set()
        """The paths that kopf has to watch; empty until it has started."""
        self.first_at: float | None = None
        """The monotonic second when all of them were first watched."""
        self.refusal = ""
        """Why kopf has to end: a watch was refused."""
        self.end_kopf: Callable[[], object] = bool
        self._state = state
        self._on_request = on_request
        self._requested_at: dict[str, float] = {}
        self._watched: set[str] = set()
        self._created_at = time.monotonic()

    def oldest_request(self) -> float:
        """Return the monotonic second of the newest request for the path that was requested least recently."""
        return min(self._requested_at.get(path, self._created_at) for path in self.expected)

    def middleware(self, access: Access) -> Callable[..., Any]:
        """Return the middleware for kopf's HTTP session."""

        async def send(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            if access.due():
                await wait_apart(access.refresh)
            if access.authorization is not None:
                request.headers["Authorization"] = access.authorization
            request.server_hostname = access.server_name
            path, watch = request.url.path, "watch" in request.url.query
            started, status = time.monotonic(), 0
            if watch:
                self._requested_at[path] = started
            try:
                answer = await handler(request)
                status = answer.status
            except (aiohttp.ClientError, OSError) as error:
                self._note(path, watch, f"the API server can't be reached: {error or type(error).__name__}")
                raise
            else:
                self._note(path, watch, "" if status < 400 else f"the API server answers HTTP {status}")
                if watch and status >= 400 and status != 429:
                    self.refusal = f"the API server refuses the watch with HTTP {status}"
                    self.end_kopf()
                return answer
            finally:
                if self._on_request is not None:
                    resource, named = resource_of(path)
                    verb = "watch" if watch else "get" if named else "list"
                    self._on_request(verb, resource, status, time.monotonic() - started)

        return send

    def _note(self, path: str, watch: bool, problem: str) -> None:
        if problem:
            if self._state.connected_since is not None:
                log.warning("the watch of ScheduledJobs failed", error=problem)
            self._watched.discard(path)
            self._state.connected_since, self._state.error = None, problem
        elif watch:
            self._watched.add(path)
            if self._state.connected_since is None and self._watched >= self.expected:
                log.info("ScheduledJobs are watched")
                self._state.connected_since, self._state.error = time.monotonic(), ""
                self.first_at = self.first_at or time.monotonic()


def _login(logins: Iterator[kopf.AiohttpSession]) -> Callable[..., Any]:
    async def login(**_: object) -> kopf.AiohttpSession:
        """Log in once. If the API server refuses the credentials, kopf ends, and its next start reads them again."""
        session = next(logins, None)
        if session is None:
            raise kopf.PermanentError("the API server refuses our credentials (401)")
        return session

    return login


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # otherwise kopf kills the process minutes after its end
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.inactivity_timeout = 2 * CLIENT_SECONDS  # must never expire: kopf may end if it does
    settings.watching.connect_timeout = settings.networking.connect_timeout = 10.0
    settings.networking.request_timeout = 60.0
    settings.networking.error_backoffs = (0.2, 0.5, 1.0, 2.0)
    settings.queueing.worker_limit = WORKERS
    settings.queueing.idle_timeout = IDLE_SECONDS
    return settings
