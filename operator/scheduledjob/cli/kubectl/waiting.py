"""``trigger``, with or without ``--wait``: request a run and follow it to its end.

Two watches do the work. The object's status says that the operator has accepted the request, which run it became, and
how that run ended. The run's Pods, if it has any, are followed one after the other, so that output appears as the job
prints it. One line on standard error shows the progress; a terminal rewrites it in place, elsewhere each change is a
new line. Standard output has the job's output and nothing else.
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
from scheduledjob.cli.shared.objects import Object, instant_of, status_of
from scheduledjob.cli.shared.printing import GREEN, RED, YELLOW, Form, coloured, print_objects, took
from scheduledjob.jobs.container.pod_names import RUN_ID, UID_LABEL, annotation, is_of_job, label_value

from .job_logs import follow, write
from .steering import ask_for_run, checked_payload, new_token, paused_words, print_changed

if TYPE_CHECKING:
    from .cluster_access import Cluster, Where

NOT_SUCCEEDED, TIMED_OUT = 3, 4
"""Exit codes of ``trigger --wait``."""
SILENCE = 330.0
"""Seconds of silence after which a watch is reopened; its bookmarks come every minute."""
PAUSE = 1.0
"""Seconds between two attempts to reach the API server, and between two redraws."""
DRAINING = 5.0
"""Seconds to wait for the rest of a log once the run has ended."""
_TURNING = "|/-\\"


def trigger(where: Where, name: str, payload: str | None, form: Form, *, wait: bool, seconds: float | None) -> int:
    """Request a run and, with ``wait``, follow it to its end; return the exit code."""
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
                return await _follow_to_end(cluster, body, token, form)
        except TimeoutError:
            raise CommandError(
                f"run {token} of {name} has not ended within {seconds:g}s; it continues", TIMED_OUT
            ) from None

    return where.run(work)


class Progress:
    """The line that shows the progress."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._shown = ""
        self._since = time.monotonic()
        self._turn = 0

    def show(self, words: str) -> None:
        if words != self._shown:
            self._shown = words
            if not self._live:
                self._write(f"{words}\n")
        self.draw()

    def draw(self) -> None:
        if self._live and self._shown:
            self._turn += 1
            spent = int(time.monotonic() - self._since)
            self._write(f"\r\x1b[K{_TURNING[self._turn % 4]} {self._shown} ({spent}s)")

    def clear(self) -> None:
        """Clear the line so that other output can use it; the next redraw brings it back."""
        if self._live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    async def turn(self) -> None:
        """Redraw every second, until cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.draw()


async def _follow_to_end(cluster: Cluster, body: Object, token: str, form: Form) -> int:
    name, uid = body["metadata"]["name"], body["metadata"]["uid"]
    run_id = f"{uid}-{token}"
    progress = Progress()
    output = _Output(cluster, body, run_id, progress, sys.stdout if form.is_for_people else sys.stderr)
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
    return _report_end(name, token, run, form, printed=output.printed)


def _report_end(name: str, token: str, run: Object, form: Form, *, printed: bool) -> int:
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
    """Wait until status shows that the run has ended, and return the run."""
    from scheduledjob.kube.client.api_errors import ApiUnavailable, Gone
    from scheduledjob.kube.client.paths import scheduled_jobs

    name, uid = body["metadata"]["name"], body["metadata"]["uid"]
    path = scheduled_jobs(cluster.namespace)
    while True:
        if (run := ended_run(body, run_id, token, progress)) is not None:
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
                        raise CommandError(f"{name} was deleted, which ends run {token}")
                    body = event["object"]
                    if (run := ended_run(body, run_id, token, progress)) is not None:
                        return run
        except Gone:
            pass
        except ApiUnavailable as error:
            progress.show(f"{name}: {token} continues, but {error.message}")
        body = await _read_again(cluster, name)
        if body["metadata"]["uid"] != uid:
            raise CommandError(f"{name} was deleted, which ends run {token}")


async def _read_again(cluster: Cluster, name: str) -> Object:
    """Read the object once the API server answers again: its outage does not end the run."""
    from scheduledjob.kube.client.api_errors import ApiUnavailable

    while True:
        try:
            return await cluster.job(name)
        except ApiUnavailable:
            await asyncio.sleep(PAUSE)


def ended_run(body: Object, run_id: str, token: str, progress: Progress) -> Object | None:
    """Return the run if it has ended; otherwise show its progress and return None."""
    status, name = status_of(body), body["metadata"]["name"]
    ended = next((run for run in status.get("recentRuns") or () if run["runID"] == run_id), None)
    if ended is not None:
        found: Object = ended
        return found
    active = next((run for run in status.get("active") or () if run["runID"] == run_id), None)
    if active is not None and active.get("waitingFor"):
        progress.show(f"{name}: {token} waits for {printable(active['waitingFor'])}")
    elif active is not None and "started" in active:
        attempt = f", attempt {active['attempt']}" if active.get("attempt", 1) > 1 else ""
        progress.show(f"{name}: {token} is running{attempt}")
    elif active is not None and "due" not in active:
        progress.show(f"{name}: {token} is active")
    elif token in ((status.get("handled") or {}).get("runNow") or ()):
        progress.show(f"{name}: {token} is accepted and about to start")
    elif not status:
        progress.show(f"{name}: {token} waits for an operator; none has seen this ScheduledJob yet")
    else:
        paused = paused_words(body)
        progress.show(
            f"{name}: {token} waits for the operator" + (f" ({paused}; manual runs still work)" if paused else "")
        )
    return None


class _Output:
    """Prints the output of the run's Pods."""

    def __init__(self, cluster: Cluster, body: Object, run_id: str, progress: Progress, stream: TextIO) -> None:
        self.printed = False
        self._cluster = cluster
        self._job = body
        self._selector = {"labelSelector": f"{UID_LABEL}={label_value(body['metadata']['uid'])}"}
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
                self._progress.show(f"the output can't be followed: {error.message}")
                return
            except ApiError:
                await asyncio.sleep(PAUSE)

    async def finish(self, following: asyncio.Task[None]) -> None:
        """After the run has ended, print the rest of the log, and logs of Pods that the watch missed."""
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
        is_of_run = is_of_job(pod, self._job) and annotation(pod, RUN_ID) == self._run_id
        if not is_of_run or uid in self._seen or not has_started(pod):
            return
        self._seen.add(uid)
        self.printed = True
        self._idle.clear()
        self._progress.clear()
        try:
            await follow(self._cluster, pod, self._stream, live=live)
        finally:
            self._idle.set()


def has_started(pod: Object) -> bool:
    """Return whether the job's container has started, so that it has a log."""
    from scheduledjob.jobs.container.pod_names import CONTAINER

    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    states: list[dict[str, Any]] = [status.get("state") or {} for status in statuses if status.get("name") == CONTAINER]
    return any("running" in state or "terminated" in state for state in states)
