"""``trigger``, with or without ``--wait``: ask for a run and see it through to its end.

Two watches tell all of it. The object's status says that the operator has taken the request, which run became of it,
and how that ended. The Pods of the run, where it has some, are followed one after the other, so that what the job
prints appears as it prints it. One line on standard error says where things stand; on a terminal it is rewritten in its
place, elsewhere each change of it is a line. Standard output has the job's output and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TextIO

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.printing import GREEN, RED, YELLOW, Form, coloured, print_objects, took
from scheduledjob.jobs.container.pod_names import RUN_ID, UID_LABEL, annotation, label_value

from .cluster_access import Cluster, Object, instant_of, status_of
from .job_logs import follow, write
from .steering import ask_for_run, checked_payload, new_token, paused_words, print_changed

if TYPE_CHECKING:
    from .cluster_access import Where

NOT_SUCCEEDED, TIMED_OUT = 3, 4
"""Exit codes of ``trigger --wait``."""
SILENCE = 330.0
"""Seconds without a word of a watch, whose bookmarks come every minute, after which it is opened anew."""
PAUSE = 1.0
DRAINING = 5.0
"""Seconds for the rest of a log once the run has ended."""
_TURNING = "|/-\\"


def trigger(where: Where, name: str, payload: str | None, form: Form, *, wait: bool, seconds: float | None) -> int:
    """Ask for a run, wait for its end where that is wished; the exit code."""
    checked_payload(payload)

    async def work(cluster: Cluster) -> int:
        token = new_token()
        body = await cluster.job(name)
        body = await ask_for_run(cluster, name, token, payload)
        if not wait:
            print_changed(body, form, f"triggered: {token}")
            return 0
        try:
            async with asyncio.timeout(seconds):
                return await _see_through(cluster, body, token, form)
        except TimeoutError:
            raise CommandError(
                f"the run {token} of {name} has not ended within {seconds:g}s: it goes on", TIMED_OUT
            ) from None

    return where.run(work)


class Progress:
    """The line that says where things stand."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._said = ""
        self._since = time.monotonic()
        self._turn = 0

    def tell(self, words: str) -> None:
        if words != self._said:
            self._said = words
            if not self._live:
                self._write(f"{words}\n")
        self.draw()

    def draw(self) -> None:
        if self._live and self._said:
            self._turn += 1
            spent = int(time.monotonic() - self._since)
            self._write(f"\r\x1b[K{_TURNING[self._turn % 4]} {self._said} ({spent}s)")

    def clear(self) -> None:
        """Leave the line to somebody else; it is drawn again by and by."""
        if self._live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    async def turn(self) -> None:
        """Show that time passes, until cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.draw()


async def _see_through(cluster: Cluster, body: Object, token: str, form: Form) -> int:
    name, uid = body["metadata"]["name"], body["metadata"]["uid"]
    run_id = f"{uid}-{token}"
    progress = Progress()
    output = _Output(cluster, uid, run_id, progress, sys.stdout if form.is_for_people else sys.stderr)
    async with asyncio.TaskGroup() as group:
        turning = group.create_task(progress.turn())
        following = group.create_task(output.follow())
        try:
            run = await _ended(cluster, body, run_id, token, progress)
            await output.finish(following)
        finally:
            turning.cancel()
            following.cancel()
            progress.clear()
    return _tell_end(name, token, run, form, printed=output.printed)


def _tell_end(name: str, token: str, run: Object, form: Form, *, printed: bool) -> int:
    if not printed and form.is_for_people and run.get("output"):
        write(run["output"].rstrip("\n").encode() + b"\n", sys.stdout)
    outcome = run["outcome"]
    started, finished = instant_of(run.get("started")), instant_of(run.get("finished"))
    spent = f" in {took(finished - started)}" if started is not None and finished is not None else ""
    attempts = f", attempt {run['attempt']}" if run.get("attempt", 0) > 1 else ""
    reason = f": {printable(run['reason'])}" if run.get("reason") else ""
    colour = {"Succeeded": GREEN, "Failed": RED}.get(outcome, YELLOW)
    sys.stderr.write(f"{name} {token} {coloured(outcome, colour, sys.stderr)}{spent}{attempts}{reason}\n")
    if not form.is_for_people:
        _print_run(name, run, form)
    return 0 if outcome == "Succeeded" else NOT_SUCCEEDED


def _print_run(name: str, run: Object, form: Form) -> None:
    from scheduledjob.cli.shared.printing import print_plain

    if form is Form.NAME:
        print_objects([{"metadata": {"name": name}}], form)
    else:
        print_plain(run, form)


async def _ended(cluster: Cluster, body: Object, run_id: str, token: str, progress: Progress) -> Object:
    """The run as status tells of it once it has ended."""
    from scheduledjob.kube.client.api_errors import ApiUnavailable, Gone
    from scheduledjob.kube.client.paths import scheduled_jobs

    name, uid = body["metadata"]["name"], body["metadata"]["uid"]
    path = scheduled_jobs(cluster.namespace)
    while True:
        if (run := look(body, run_id, token, progress)) is not None:
            return run
        params: dict[str, str | int] = {
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": body["metadata"]["resourceVersion"],
            "timeoutSeconds": 300,
        }
        try:
            async with aclosing(cluster.api.watch(path, params, silence=SILENCE)) as events:
                async for event in events:
                    if event["type"] == "BOOKMARK":
                        continue
                    if event["type"] == "DELETED" or event["object"]["metadata"]["uid"] != uid:
                        raise CommandError(f"{name} was deleted; the run {token} ends with it")
                    body = event["object"]
                    if (run := look(body, run_id, token, progress)) is not None:
                        return run
        except Gone:
            pass
        except ApiUnavailable as error:
            progress.tell(f"{name}: {token} goes on, but {error.message}")
        body = await _read_again(cluster, name)
        if body["metadata"]["uid"] != uid:
            raise CommandError(f"{name} was deleted; the run {token} ends with it")


async def _read_again(cluster: Cluster, name: str) -> Object:
    """The object, as soon as the API server answers: a run that was begun does not end because it is away."""
    from scheduledjob.kube.client.api_errors import ApiUnavailable

    while True:
        try:
            return await cluster.job(name)
        except ApiUnavailable:
            await asyncio.sleep(PAUSE)


def look(body: Object, run_id: str, token: str, progress: Progress) -> Object | None:
    """The run if it has ended; else say where it stands."""
    status, name = status_of(body), body["metadata"]["name"]
    ended = next((run for run in status.get("recentRuns") or () if run["runID"] == run_id), None)
    if ended is not None:
        found: Object = ended
        return found
    active = next((run for run in status.get("active") or () if run["runID"] == run_id), None)
    if active is not None and "started" in active:
        attempt = f", attempt {active['attempt']}" if active.get("attempt", 1) > 1 else ""
        progress.tell(f"{name}: {token} is running{attempt}")
    elif active is not None and "due" not in active:
        progress.tell(f"{name}: {token} is active")
    elif token in ((status.get("handled") or {}).get("runNow") or ()):
        progress.tell(f"{name}: {token} is taken and about to start")
    elif not status:
        progress.tell(f"{name}: {token} waits for an operator: none has looked at this ScheduledJob yet")
    else:
        paused = paused_words(body)
        progress.tell(f"{name}: {token} waits for the operator" + (f" ({paused}; manual runs work)" if paused else ""))
    return None


class _Output:
    """Prints what the run's Pods print."""

    def __init__(self, cluster: Cluster, uid: str, run_id: str, progress: Progress, stream: TextIO) -> None:
        self.printed = False
        self._cluster = cluster
        self._selector = {"labelSelector": f"{UID_LABEL}={label_value(uid)}"}
        self._run_id = run_id
        self._progress = progress
        self._stream = stream
        self._seen: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def follow(self) -> None:
        """Follow each Pod as it comes up, until cancelled."""
        from scheduledjob.kube.client.api_errors import ApiError, Forbidden
        from scheduledjob.kube.client.paths import pods

        params: dict[str, str | int] = {**self._selector, "resourceVersion": "0", "timeoutSeconds": 300}
        while True:
            try:
                path = pods(self._cluster.namespace)
                async with aclosing(self._cluster.api.watch(path, params, silence=SILENCE)) as events:
                    async for event in events:
                        if event["type"] in ("ADDED", "MODIFIED"):
                            await self._print(event["object"], live=True)
            except Forbidden as error:
                self._progress.tell(f"its output can't be followed: {error.message}")
                return
            except ApiError:
                await asyncio.sleep(PAUSE)

    async def finish(self, following: asyncio.Task[None]) -> None:
        """The run has ended: let a log come to its end, and print those that were too quick for the watch."""
        from scheduledjob.kube.client.api_errors import ApiError
        from scheduledjob.kube.client.paths import pods

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAINING):
                await self._idle.wait()
        following.cancel()
        with contextlib.suppress(ApiError):
            found = await self._cluster.get(pods(self._cluster.namespace), self._selector)
            for pod in sorted(found["items"], key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
                await self._print(pod, live=False)

    async def _print(self, pod: Object, *, live: bool) -> None:
        uid = pod["metadata"]["uid"]
        if annotation(pod, RUN_ID) != self._run_id or uid in self._seen or not has_begun(pod):
            return
        self._seen.add(uid)
        self.printed = True
        self._idle.clear()
        self._progress.clear()
        try:
            await follow(self._cluster, pod, self._stream, live=live)
        finally:
            self._idle.set()


def has_begun(pod: Object) -> bool:
    """Whether the job's container runs or has run, so that there is a log."""
    from scheduledjob.jobs.container.pod_names import CONTAINER

    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    states: list[dict[str, Any]] = [one.get("state") or {} for one in statuses if one.get("name") == CONTAINER]
    return any("running" in state or "terminated" in state for state in states)
