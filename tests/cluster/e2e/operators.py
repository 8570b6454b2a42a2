"""The operator as a real process against a real API server, under the roles that are shipped and nothing more.

An `OperatorProcess` is one replica: it can be killed, stopped, paused and continued, and everything that a test waits
for is an event of the outside world: its readiness, a line of its log, a change of an object, a request that a job
made to a `Sink`. A test that waits for what never comes ends after PATIENCE with the end of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import aiohttp
import yaml
from aiohttp import web

from tests.cluster.harness import SCHEDULED_JOBS, ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from tests.cluster.harness import ApiClient, Cluster

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(sys.executable).with_name("scheduledjob")
RULES = ROOT / "charts" / "scheduledjob-operator" / "files" / "rules.yaml"
_LIBC = ctypes.CDLL(None)
PATIENCE = 90.0
"""Seconds after which something that a test waits for will never come."""


async def granted(
    cluster: Cluster,
    user: str,
    home: str,
    namespaces: Sequence[str] = (),
    *,
    parts: Sequence[str] = ("watched", "own", "cluster"),
) -> Path:
    """A kubeconfig of a user who may do what the shipped rules say: in these namespaces, or everywhere.

    `home` is the operator's own namespace; `parts` names the rules to grant.
    """
    rules = yaml.safe_load(RULES.read_text())
    documents: list[dict[str, Any]] = []
    subject = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    for part in parts:
        name = f"{user}-{part.lower()}"
        where: list[str | None] = (
            [home] if part == "own" else [None] if part == "cluster" else list(namespaces) or [None]
        )
        for namespace in where:
            prefix = "" if namespace else "Cluster"
            metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{prefix}Role", "name": name}
            api = "rbac.authorization.k8s.io/v1"
            documents.append({"apiVersion": api, "kind": f"{prefix}Role", "metadata": metadata, "rules": rules[part]})
            documents.append(
                {
                    "apiVersion": api,
                    "kind": f"{prefix}RoleBinding",
                    "metadata": metadata,
                    "roleRef": reference,
                    "subjects": subject,
                }
            )
    if documents:
        await cluster.apply("\n---\n".join(yaml.safe_dump(document) for document in documents))
    return Path(cluster.kubeconfig_for(user, []))


def _die_with_parent() -> None:
    """Runs in the new process: a test run that is killed leaves no operator behind."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class OperatorProcess:
    """One replica. `start` it, or use `async with`, which also waits until it is ready and ends it in the end."""

    def __init__(
        self, kubeconfig: Path | str, home: str, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        """`home`: the operator's own namespace."""
        self._command = [
            str(PROGRAM),
            "operator",
            f"--kubeconfig={kubeconfig}",
            f"--namespace={home}",
            "--listen=127.0.0.1:0",
            *flags,
        ]
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("SJOB_")}
        self._environment |= environment or {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self.lines: list[dict[str, Any]] = []
        """Of the log, of all lives, as JSON."""
        self._born = 0
        """How many lines there were when the present life began."""

    async def __aenter__(self) -> Self:
        await self.start()
        try:
            await self.ready()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self.send(signal.SIGCONT)
            if error is None:
                await self.stop()
            else:
                await self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """Where it serves its metrics and its health."""
        return next(int(line["listens_on"]) for line in reversed(self.lines) if "listens_on" in line)

    async def start(self) -> None:
        self._born = len(self.lines)
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            preexec_fn=_die_with_parent,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def ready(self) -> None:
        """Wait until it says so itself."""
        await self.said("started")
        async with aiohttp.ClientSession() as session, self._patience("to become ready"):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    if (await self.readiness(session))[0] == 200:
                        return
                self._assert_alive()
                await asyncio.sleep(0.05)  # readiness can only be asked for

    async def readiness(self, session: aiohttp.ClientSession) -> tuple[int, str]:
        """The answer of /readyz: status and reasons."""
        async with session.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
            return answer.status, await answer.text()

    async def fetch(self, path: str) -> tuple[int, str]:
        """The answer of its web server."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.text()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        _, text = await self.fetch("/metrics")
        total = 0.0
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(
                f'{key}="{wanted}"' in series for key, wanted in labels.items()
            ):
                total += float(value)
        return total

    async def until_metric(self, name: str, holds: Callable[[float], bool], **labels: str) -> None:
        """Wait until the sum of a metric's series is as `holds` says."""
        async with self._patience(f"until {name} is as it should be"):
            while not holds(await self.metric(name, **labels)):  # noqa: ASYNC110  # nothing could set an Event
                await asyncio.sleep(0.05)

    async def said(self, event: str, *, since: int | None = None, **fields: str) -> dict[str, Any]:
        """Wait for a line of the log of its present life, with these fields."""
        start = self._born if since is None else since
        async with self._patience(f"to say {event!r}"), self._news:
            while True:
                for line in self.lines[start:]:
                    if event in str(line.get("event")) and fields.items() <= line.items():
                        return line
                self._assert_alive()
                await self._news.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.send(signal.SIGTERM)
        return await self._end("to end after SIGTERM")

    async def kill(self) -> None:
        """SIGKILL."""
        self.send(signal.SIGKILL)
        await self._end("to die")

    async def ended(self) -> int:
        """Wait until it ends by itself; its exit code."""
        return await self._end("to end by itself")

    async def _end(self, what: str) -> int:
        assert self._process is not None
        assert self._reading is not None
        async with self._patience(what):
            code = await self._process.wait()
            await self._reading
        return code

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                said = json.loads(line)
            except ValueError:
                said = {"event": line.decode(errors="replace").rstrip()}
            async with self._news:
                self.lines.append(said)
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    def _assert_alive(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, f"the operator has ended ({self._process.returncode}):\n{self.tail()}"

    def tail(self, count: int = 25) -> str:
        return "\n".join(json.dumps(line) for line in self.lines[-count:])

    @contextlib.asynccontextmanager
    async def _patience(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(PATIENCE):
                yield
        except TimeoutError:
            raise AssertionError(f"the operator was given {PATIENCE:g} s {what}; its log:\n{self.tail()}") from None


class Call(NamedTuple):
    """A request that a job made."""

    name: str
    run_id: str
    slot: str
    attempt: int
    version: int
    body: bytes
    at: float
    """By the event loop's clock."""
    path: str = "/"
    headers: Mapping[str, str] = {}


class Sink:
    """An HTTP server on loopback that jobs call: it remembers each call. `answer` decides what they are answered."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.dropped: list[Call] = []
        """Calls that whoever made them gave up before they were answered."""
        self.answer: Callable[[Call], web.Response] = lambda _: web.Response(text="ok")
        self.gate = asyncio.Event()
        """While it is cleared, calls wait for their answer."""
        self.gate.set()
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        headers = request.headers
        call = Call(
            headers.get("X-ScheduledJob-Name", ""),
            headers.get("X-ScheduledJob-Run-Id", ""),
            headers.get("X-ScheduledJob-Slot", ""),
            int(headers.get("X-ScheduledJob-Attempt", 0)),
            int(headers.get("X-ScheduledJob-Version", 0)),
            await request.read(),
            asyncio.get_running_loop().time(),
            request.path,
            dict(headers),
        )
        async with self._news:
            self.calls.append(call)
            self._news.notify_all()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.dropped.append(call)
            async with self._news:
                self._news.notify_all()
            raise
        return self.answer(call)

    async def reached(
        self, enough: Callable[[list[Call]], bool], what: str = "the calls that a test waits for"
    ) -> None:
        """Wait until `enough` says so of the calls so far."""
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(lambda: enough(self.calls))
        except TimeoutError:
            seen = Counter(call.name for call in self.calls)
            raise AssertionError(f"{what} did not come within {PATIENCE:g} s; there were {dict(seen)}") from None

    def of(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]


def manifest(name: str, trigger: str, job: str, more: str = "") -> str:
    """A ScheduledJob in one document; `more` is further lines of spec, each with two blanks before it."""
    return f"""---
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {{name: {name}}}
spec:
  triggers: [{{{trigger}}}]
  job: {job}
{more}
"""


def curl(url: str) -> str:
    return f"{{curl: {{url: {url}}}}}"


async def read(api: ApiClient, namespace: str, name: str) -> dict[str, Any]:
    """A ScheduledJob as it is now."""
    found: dict[str, Any] = await api.get(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/{name}")
    return found


async def change(api: ApiClient, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Merge this into the spec of a ScheduledJob; the object then."""
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/{name}"
    return await api.patch(path, {"spec": spec})


async def annotate(api: ApiClient, namespace: str, name: str, **asked: str) -> dict[str, Any]:
    """Ask for manual acts by annotation: ``run_now="token"``; the object then."""
    annotations = {f"scheduledjobs.dev/{act.replace('_', '-')}": token for act, token in asked.items()}
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/{name}"
    return await api.patch(path, {"metadata": {"annotations": annotations}})


async def events(api: ApiClient, namespace: str, name: str, reason: str) -> list[dict[str, Any]]:
    """The Events with this reason about a ScheduledJob."""
    selector = f"involvedObject.name={name},reason={reason}"
    return await api.list(f"/api/v1/namespaces/{namespace}/events", fieldSelector=selector)


async def until_event(api: ApiClient, namespace: str, name: str, reason: str) -> dict[str, Any]:
    """Wait until there is an Event with this reason about a ScheduledJob."""
    path = f"/api/v1/namespaces/{namespace}/events"
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                selector = f"involvedObject.name={name},reason={reason}"
                async for seen in api.watch(path, fieldSelector=selector, resourceVersion="0"):
                    found: dict[str, Any] = seen["object"]
                    return found
    except TimeoutError:
        raise AssertionError(f"no Event {reason} about {name} came") from None


async def until(
    api: ApiClient,
    namespace: str,
    name: str,
    holds: Callable[[dict[str, Any]], object],
    what: str = "what a test waits for",
) -> dict[str, Any]:
    """Wait until a ScheduledJob is as `holds` says; the object then."""
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                last = await read(api, namespace, name)
                if holds(last):
                    return last
                version = last["metadata"]["resourceVersion"]
                with contextlib.suppress(ApiError):
                    async for event in api.watch(path, resourceVersion=version, fieldSelector=f"metadata.name={name}"):
                        last = event["object"]
                        if holds(last):
                            return last
    except TimeoutError:
        raise AssertionError(f"{what} did not come; {name} has the status {json.dumps(last.get('status'))}") from None


def status_of(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body.get("status") or {}
    return found


def recent(body: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = status_of(body).get("recentRuns") or []
    return found


def is_so(kind: str, status: str = "True", reason: str | None = None) -> Callable[[dict[str, Any]], bool]:
    """For ``until``: whether a condition has this status, and reason, for the generation that there is."""

    def holds(body: dict[str, Any]) -> bool:
        found = condition(body, kind)
        return (
            found.get("status") == status
            and reason in (None, found.get("reason"))
            and found.get("observedGeneration") == body["metadata"]["generation"]
        )

    return holds


def condition(body: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a ScheduledJob; empty where there is none."""
    found = (body.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})
