"""``logs``: the output of a job, from its Pods while they exist, otherwise from status, or from the store.

On a terminal, control characters are replaced, except tabs and the sequences that set colours. A pipe or a file
receives every byte as it is.
"""

from __future__ import annotations

import re
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, TextIO

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.objects import Object, instant_of, status_of
from scheduledjob.cli.shared.printing import say, second
from scheduledjob.jobs.container.pod_names import (
    ATTEMPT,
    CONTAINER,
    RUN_ID,
    UID_LABEL,
    annotation,
    is_of_job,
    label_value,
)

if TYPE_CHECKING:
    from .cluster_access import Cluster, Where
    from .run_history import StoredHistory

_ALL = 100_000
"""More runs than a store keeps of one ScheduledJob."""
_HOSTILE = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters, except tab, line feed, carriage return and the sequences that set a colour."""


def print_logs(
    where: Where, name: str, run: str | None, tail: int | None, *, live: bool, kept: StoredHistory | None = None
) -> None:
    """Print the output of the newest run, or of the one that ``run`` names by id, slot or token."""
    if kept is not None:
        _print_from_store(where, kept, name, run, tail)
        return

    async def work(cluster: Cluster) -> None:
        body = await cluster.job(name)
        wanted = None if run is None else _run_id(body, run)
        pods = await _pods(cluster, body)
        if wanted is not None:
            pods = [pod for pod in pods if annotation(pod, RUN_ID) == wanted]
        if pods:
            pod = pods[-1]
            say(f"==> Pod {pod['metadata']['name']}, attempt {annotation(pod, ATTEMPT)} <==")
            await follow(cluster, pod, sys.stdout, live=live, tail=tail)
        else:
            _print_from_status(body, wanted, tail)

    where.run(work)


async def _pods(cluster: Cluster, body: Object) -> list[Object]:
    """Return the Pods of a ScheduledJob, oldest first."""
    from scheduledjob.kube.client.paths import pods

    selector = f"{UID_LABEL}={label_value(body['metadata']['uid'])}"
    found = await cluster.get(pods(cluster.namespace), {"labelSelector": selector})
    return sorted(
        (pod for pod in found["items"] if is_of_job(pod, body)),
        key=lambda pod: (pod["metadata"]["creationTimestamp"], _attempt(pod)),
    )


def _attempt(pod: Object) -> int:
    text = annotation(pod, ATTEMPT)
    return int(text) if text.isdigit() else 0


def _run_id(body: Object, run: str) -> str:
    """Return the id of the run that is named by its id, with or without the uid, its slot or its token."""
    uid, status = body["metadata"]["uid"], status_of(body)
    known = [*(status.get("active") or ()), *(status.get("recentRuns") or ())]
    for candidate in known:
        if _is_meant(candidate, uid, run):
            return str(candidate["runID"])
    return run if run.startswith(f"{uid}-") else f"{uid}-{run}"


def _is_meant(candidate: Object, uid: str, run: str) -> bool:
    run_id, slot = candidate["runID"], candidate["slot"]
    return run in (run_id, run_id.removeprefix(f"{uid}-"), slot, second(instant_of(slot)), candidate.get("token"))


def _print_from_status(body: Object, wanted: str | None, tail: int | None) -> None:
    name = body["metadata"]["name"]
    runs = [run for run in status_of(body).get("recentRuns") or () if wanted in (None, run["runID"])]
    kept = next((run for run in runs if run.get("output")), None)
    if kept is None:
        what = "has no Pod, and status keeps only the output of the newest failed run" if runs else "has no such run"
        raise CommandError(f"{name} {what if wanted or runs else 'has not run yet'}; try logs --store URL")
    _print_kept(kept, tail, "end of the output")


def _print_kept(run: Object, tail: int | None, what: str) -> None:
    say(f"==> {what} of the run at {run['slot']}, {run['outcome']} <==")
    lines = run["output"].splitlines(keepends=True)
    text = "".join(lines[-tail:] if tail else lines)
    write((text if text.endswith("\n") else text + "\n").encode(), sys.stdout)


def _print_from_store(where: Where, kept: StoredHistory, name: str, wanted: str | None, tail: int | None) -> None:
    runs = kept.read(where, name, 1 if wanted is None else _ALL)
    meant = [run for body, run in runs if wanted is None or _is_meant(run, body["metadata"]["uid"], wanted)]
    if not meant:
        what = "such run" if wanted is not None else "run"
        raise CommandError(f'the store has no {what} of {name} for the instance "{kept.instance}"')
    if not meant[0].get("output"):
        slot, outcome = meant[0]["slot"], meant[0]["outcome"]
        raise CommandError(
            f"the store has no output of the run of {name} at {slot} ({outcome}): it printed nothing, or its "
            "output was not kept because the operator may not read its Secrets"
        )
    _print_kept(meant[0], tail, "output, as kept in the store,")


async def follow(cluster: Cluster, pod: Object, stream: TextIO, *, live: bool, tail: int | None = None) -> None:
    """Print the log of a Pod's job; with ``live``, follow it to its end. Raises ApiError."""
    from scheduledjob.kube.client.api_errors import BadRequest
    from scheduledjob.kube.client.paths import pods

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
    """Write a piece of a log: unchanged to a pipe, without control characters to a terminal."""
    stream.flush()
    stream.buffer.write(harmless(piece.decode(errors="replace")).encode() if stream.isatty() else piece)
    stream.buffer.flush()


def harmless(text: str) -> str:
    """Replace control characters that could harm a terminal; line ends and colours stay."""
    return _HOSTILE.sub("\ufffd", text)
