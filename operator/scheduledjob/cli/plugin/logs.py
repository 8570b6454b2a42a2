"""``logs``: what a job printed, from its Pods as long as there are some, else from status.

On a terminal control characters are left out, apart from tabs and the colours that programs print; into a pipe or a
file goes every byte as it is.
"""

from __future__ import annotations

import re
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, TextIO

from scheduledjob.cli.errors import CommandError
from scheduledjob.executors.pod.names import ATTEMPT, CONTAINER, RUN_ID, UID_LABEL, annotation, label_value

from .cluster import Cluster, Object, instant_of, status_of
from .printing import say, second

if TYPE_CHECKING:
    from .cluster import Where

_HOSTILE = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters, but for tab, line end, carriage return and the sequences that set a colour."""


def print_logs(where: Where, name: str, run: str | None, tail: int | None, *, live: bool) -> None:
    """Print the output of a run, the newest one unless ``run`` names another by its id, slot or token."""

    async def work(cluster: Cluster) -> None:
        body = await cluster.job(name)
        uid = body["metadata"]["uid"]
        wanted = None if run is None else _run_id(body, run)
        pods = await _pods(cluster, uid)
        if wanted is not None:
            pods = [pod for pod in pods if annotation(pod, RUN_ID) == wanted]
        if pods:
            pod = pods[-1]
            say(f"==> Pod {pod['metadata']['name']}, attempt {annotation(pod, ATTEMPT)} <==")
            await follow(cluster, pod, sys.stdout, live=live, tail=tail)
        else:
            _print_from_status(body, wanted, tail)

    where.run(work)


async def _pods(cluster: Cluster, uid: str) -> list[Object]:
    """The Pods of a ScheduledJob that are there, the oldest first."""
    from scheduledjob.kube.paths import pods

    found = await cluster.get(pods(cluster.namespace), {"labelSelector": f"{UID_LABEL}={label_value(uid)}"})
    return sorted(found["items"], key=lambda pod: (pod["metadata"]["creationTimestamp"], _attempt(pod)))


def _attempt(pod: Object) -> int:
    text = annotation(pod, ATTEMPT)
    return int(text) if text.isdigit() else 0


def _run_id(body: Object, run: str) -> str:
    """The run that is meant by its id, the part of it that is its own, or its slot."""
    uid, status = body["metadata"]["uid"], status_of(body)
    known = [*(status.get("active") or ()), *(status.get("recentRuns") or ())]
    for each in known:
        if run in (each["runID"], each["slot"], second(instant_of(each["slot"])), each.get("token")):
            return str(each["runID"])
    return run if run.startswith(f"{uid}-") else f"{uid}-{run}"


def _print_from_status(body: Object, wanted: str | None, tail: int | None) -> None:
    name = body["metadata"]["name"]
    runs = [one for one in status_of(body).get("recentRuns") or () if wanted in (None, one["runID"])]
    told = next((one for one in runs if one.get("output")), None)
    if told is None:
        what = "has no Pod, and status keeps the output of the newest failed run only" if runs else "has no such run"
        hint = "kubectl scheduledjob history --store URL shows what the store has"
        raise CommandError(f"{name} {what if wanted or runs else 'has not run yet'}: {hint}")
    say(f"==> end of the output of the run of {told['slot']}, {told['outcome']} <==")
    lines = told["output"].splitlines(keepends=True)
    text = "".join(lines[-tail:] if tail else lines)
    write((text if text.endswith("\n") else text + "\n").encode(), sys.stdout)


async def follow(cluster: Cluster, pod: Object, stream: TextIO, *, live: bool, tail: int | None = None) -> None:
    """Print the log of a Pod's job, with ``live`` to its end. Raises ApiError."""
    from scheduledjob.kube.errors import BadRequest
    from scheduledjob.kube.paths import pods

    metadata = pod["metadata"]
    params: dict[str, str | int] = {"container": CONTAINER}
    if live:
        params["follow"] = "true"
    if tail is not None:
        params["tailLines"] = tail
    path = f"{pods(metadata['namespace'], metadata['name'])}/log"
    ended = True
    try:
        async with aclosing(cluster.api.stream(path, params)) as pieces:
            async for piece in pieces:
                write(piece, stream)
                ended = piece.endswith(b"\n")
    except BadRequest as error:
        raise CommandError(f"Pod {metadata['name']} has no log yet: {error.message}") from None
    if not ended:
        write(b"\n", stream)


def write(piece: bytes, stream: TextIO) -> None:
    """A piece of a log: as it is into a pipe, made harmless on a terminal."""
    stream.flush()
    stream.buffer.write(harmless(piece.decode(errors="replace")).encode() if stream.isatty() else piece)
    stream.buffer.flush()


def harmless(text: str) -> str:
    """Text of several lines that is safe on a terminal."""
    return _HOSTILE.sub("\ufffd", text)
