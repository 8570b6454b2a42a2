"""kopf watches ScheduledJobs here, in a thread and an event loop of its own, under a supervisor.

kopf is used for what it is good at, listing and watching, and for nothing else: one handler on events, which hands the
object over to the operator's event loop. It writes nothing: no finalizer, no annotation, no Event, no peering.

The supervisor is there because of what kopf does by design. It ends when a watch ends with an error that is not 410,
when the API server answers 403, 404 or 5xx for longer than its patience, and when its credentials are refused; it
looks for the resource only once, at its start; it cancels tasks of its loop that are not its own; and once in a while
a watch of it has died unseen. So each life of kopf begins with a look of our own (is the resource there, may we list
it, in which of the namespaces?), runs until kopf ends or has not asked for too long, and is followed by the next, with
a growing pause that a while of health makes short again. Nothing that happens here ends the process, and nothing is
lost by it but time: a new life begins with a new list, and a deletion that fell between two lives is found by the
sweep.

What state the watch is in is seen at the connection itself, through which every request of kopf passes.
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

from scheduledjob.kube.client.api import Api, Observer, pause, resource_of, user_agent
from scheduledjob.kube.client.api_errors import ApiError, Forbidden, NotFound
from scheduledjob.kube.client.paths import PLURAL, scheduled_jobs
from scheduledjob.resource_names import GROUP, VERSION

from .kopf_logs import left_behind, quieten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scheduledjob.kube.client.access import Access

    from .handover import Handover

log = structlog.get_logger("scheduledjob.watching")

SERVER_SECONDS = 40
"""Seconds after which the API server ends a watch in order, with a bookmark from which the next goes on."""
CLIENT_SECONDS = 50.0
"""Seconds after which a watch is ended from here: its connection is dead, or the server would have ended it."""
STALE_SECONDS = 120.0
"""Seconds without any request for a watch, after which kopf has lost it."""
HEALTHY_SECONDS = 30.0
"""A life of kopf that was connected for this long makes the next pause short again."""
CHECK_SECONDS = 5.0
"""Seconds between two looks at whether kopf still asks."""
RECHECK_SECONDS = 30.0
"""Seconds between two looks at whether a refused namespace may be listed by now."""
STOP_SECONDS = 15.0
"""Seconds that an ended kopf is given to return."""
WORKERS = 100
"""Objects that kopf works on at once; with the room of the hand-over this bounds its memory."""
IDLE_SECONDS = 0.01
"""Seconds for which kopf keeps a worker for more of the same object; each of them keeps another object waiting."""


class WatchEnded(Exception):
    """A life of kopf is over, for the reason that the message gives."""


@dataclass(slots=True)
class WatchState:
    """What is known of the watch; written by its thread, read by any."""

    connected_since: float | None = None
    """Monotonic seconds since when every namespace that may be watched is watched; None: not now."""
    restarts: int = 0
    """Lives of kopf that ended by themselves."""
    error: str = ""
    """What is wrong now, in words; empty: nothing."""
    refused: dict[str, str] = field(default_factory=dict)
    """What the API server says of each namespace that we may not list (``""``: all)."""


class KopfWatcher:
    """Watches until ``run`` is cancelled."""

    def __init__(
        self, access: Access, namespaces: Sequence[str], handover: Handover, *, on_request: Observer | None = None
    ) -> None:
        """``namespaces``: none means all of them. What is seen goes to ``handover``."""
        self.state = WatchState()
        self._access = access
        self._namespaces: tuple[str, ...] = tuple(namespaces) or ("",)
        self._handover = handover
        self._on_request = on_request
        self._stopping = threading.Event()
        self._life: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Watch; the thread has ended when the cancellation comes out."""
        ended = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=self._live, name="watching", daemon=True)
        thread.start()
        try:
            await ended
        finally:
            self._stop()
            await asyncio.to_thread(thread.join, STOP_SECONDS)

    def _stop(self) -> None:
        self._stopping.set()
        with self._lock:
            if self._life is not None:
                loop, life = self._life
                loop.call_soon_threadsafe(life.cancel)

    def _live(self) -> None:
        """The thread: one life of kopf after the other."""
        quieten()
        failures = 0
        while not self._stopping.is_set():
            connections = _Connections(self.state, self._on_request)
            try:
                asyncio.run(self._one_life(connections))
            except BaseException as error:  # kopf raises what it likes, and none of it may end the thread
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
        words = error.message if isinstance(error, ApiError) else str(error) or type(error).__name__
        if words != self.state.error:
            log.warning("ScheduledJobs are not watched; trying again", error=words)
        self.state.error = words

    async def _one_life(self, connections: _Connections) -> None:
        life, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert life is not None
        loop.set_exception_handler(left_behind)
        with self._lock:
            self._life = loop, life
        try:
            if not self._stopping.is_set():
                await self._watch(connections)
        finally:
            with self._lock:
                self._life = None

    async def _watch(self, connections: _Connections) -> None:
        async with Api(self._access, connections=1, on_request=self._on_request) as api:
            allowed = await self._allowed(api)
            connections.expected = {scheduled_jobs(namespace) for namespace in allowed}
            connector = _Connector(limit=0, ssl=self._access.tls or False)
            async with self._session(connector, connections) as session:
                kopf_task = asyncio.create_task(self._kopf(allowed, session))
                connections.end = kopf_task.cancel
                try:
                    await self._look_after(kopf_task, api, connections)
                finally:
                    kopf_task.cancel()
                    await asyncio.wait([kopf_task], timeout=STOP_SECONDS)
                    connector.hang_up()
                    await asyncio.sleep(0)  # the transports close in the next round of the loop
                await kopf_task
                raise WatchEnded("kopf has ended without an error")

    async def _allowed(self, api: Api) -> list[str]:
        """The namespaces that can be listed. Raises ApiError where that is none of them."""
        refused: dict[str, ApiError] = {}
        for namespace in self._namespaces:
            try:
                await api.get(scheduled_jobs(namespace), {"limit": 1}, attempts=1)
            except Forbidden as error:
                refused[namespace] = error
            except NotFound as error:
                missing = f"the CRD {PLURAL}.{GROUP} is not installed, or not in version {VERSION}: apply crds/"
                raise NotFound(404, error.reason, missing) from error
        for namespace, refusal in refused.items():
            if namespace not in self.state.refused:
                log.warning("may not watch ScheduledJobs", namespace=namespace or "all", error=refusal.message)
        self.state.refused = {namespace: refusal.message for namespace, refusal in refused.items()}
        allowed = [namespace for namespace in self._namespaces if namespace not in refused]
        if not allowed:
            raise next(iter(refused.values()))
        return allowed

    async def _look_after(self, kopf_task: asyncio.Task[None], api: Api, connections: _Connections) -> None:
        """Wait until kopf ends. Raises WatchEnded if it is about to end, lost a watch, or may now watch more.

        When a watch is refused kopf ends of itself, but takes seconds for that, and its words are not for people.
        """
        rechecked = time.monotonic()
        while True:
            done, _ = await asyncio.wait([kopf_task], timeout=CHECK_SECONDS)
            if connections.refusal:
                raise WatchEnded(connections.refusal)
            if done:
                return
            now = time.monotonic()
            if now - connections.asked_at() > STALE_SECONDS:
                raise WatchEnded(f"kopf has asked for no events for {STALE_SECONDS:g} s")
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
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="seen")(self._seen)
        everywhere = "" in namespaces
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            # kopf would ask for the name of the user, and in a container a uid may have none.
            identity="scheduledjob",  # type: ignore[arg-type]  # kopf has a type of text for it that it keeps to itself
            clusterwide=everywhere,
            namespaces=() if everywhere else namespaces,
        )

    async def _seen(self, event: Any, **_: object) -> None:
        """kopf's handler: returns None, so that kopf has nothing to store in the object."""
        await self._handover.give(event["object"], deleted=event["type"] == "DELETED")

    def _session(self, connector: _Connector, connections: _Connections) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._access.proxy,
            middlewares=[connections.through(self._access)],
        )


class _Connector(aiohttp.TCPConnector):
    """Knows its connections, those too that are being closed: a dead one would wait half a minute for its end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._transports: WeakSet[asyncio.Transport] = WeakSet()

    async def connect(self, *arguments: Any, **more: Any) -> Any:
        connection = await super().connect(*arguments, **more)
        if connection.transport is not None:
            self._transports.add(connection.transport)
        return connection

    def hang_up(self) -> None:
        for transport in list(self._transports):
            transport.abort()


class _Connections:
    """Every request of kopf passes here: it gets its credentials, and shows how the watch is."""

    def __init__(self, state: WatchState, on_request: Observer | None) -> None:
        self.expected: set[str] = set()
        """Paths that are watched when all is well; empty until kopf has begun."""
        self.first_at: float | None = None
        """When (monotonic) all of them were watched for the first time."""
        self.refusal = ""
        """Why this life had to end: a watch was refused."""
        self.end: Callable[[], object] = bool
        """Ends this life."""
        self._state = state
        self._on_request = on_request
        self._asked: dict[str, float] = {}
        self._watched: set[str] = set()
        self._begun = time.monotonic()

    def asked_at(self) -> float:
        """When (monotonic) the watch was asked for that was not asked for the longest."""
        return min(self._asked.get(path, self._begun) for path in self.expected)

    def through(self, access: Access) -> Callable[..., Any]:
        """The middleware of the session."""

        async def send(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            if access.due():
                await asyncio.to_thread(access.refresh)
            if access.authorization is not None:
                request.headers["Authorization"] = access.authorization
            request.server_hostname = access.server_name
            path, watch = request.url.path, "watch" in request.url.query
            started, status = time.monotonic(), 0
            if watch:
                self._asked[path] = started
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
                    self.end()
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
                log.warning("the watch of ScheduledJobs is broken", error=problem)
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
        """Once in a life: when the API server refuses what it was shown, the next life reads it anew."""
        session = next(logins, None)
        if session is None:
            raise kopf.PermanentError("the API server refuses our credentials (401)")
        return session

    return login


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # else kopf kills the process some minutes after its end
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.inactivity_timeout = 2 * CLIENT_SECONDS  # never comes: kopf ends when it does at a bad moment
    settings.watching.connect_timeout = settings.networking.connect_timeout = 10.0
    settings.networking.request_timeout = 60.0
    settings.networking.error_backoffs = (0.2, 0.5, 1.0, 2.0)
    settings.queueing.worker_limit = WORKERS
    settings.queueing.idle_timeout = IDLE_SECONDS
    return settings
