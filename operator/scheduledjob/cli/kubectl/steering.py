"""``trigger``, ``suspend``, ``resume`` and ``cancel``: the requests that people make of a ScheduledJob.

Each is one write to the object. Suspension is a field of the spec. A trigger, a cancellation and the resumption of a
paused schedule are annotations with a token. The operator carries each token out once and then lists it in
``status.handled``.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.objects import Object, condition_of, is_suspended, key_of, now, status_of
from scheduledjob.cli.shared.printing import Form, out, print_objects, say
from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.schedule.state import run_id as run_id_of
from scheduledjob.domain.time.instants import compact
from scheduledjob.manifests.checks import PAYLOAD_LIMIT
from scheduledjob.resource_names import GROUP

if TYPE_CHECKING:
    from .cluster_access import Cluster, Where


def print_changed(body: Object, form: Form, words: str) -> None:
    """Print the result of a write: words for people, the object for programs."""
    if form.is_for_people:
        out(f"scheduledjob.{GROUP}/{key_of(body)[1]} {words}")
    else:
        print_objects([body], form, one=True)


def new_token() -> str:
    """Return a new unique token: the time and a random part."""
    return f"{compact(now()).lower()}-{secrets.token_hex(3)}"


def checked_payload(payload: str | None) -> str | None:
    """Return the payload if the operator accepts it. Raises CommandError otherwise."""
    if payload is not None and ("\0" in payload or len(payload.encode(errors="replace")) > PAYLOAD_LIMIT):
        raise CommandError("--payload: at most 64 KiB of text without NUL", 2)
    return payload


async def ask_for_run(cluster: Cluster, name: str, token: str, payload: str | None) -> Object:
    """Request a manual run. A payload that an earlier request left is removed."""
    annotations = {f"{GROUP}/run-now": token, f"{GROUP}/run-now-payload": payload}
    return await cluster.patch(name, {"metadata": {"annotations": annotations}})


def suspend(where: Where, names: list[str], form: Form) -> None:
    """Suspend ScheduledJobs: no new slot starts, and active runs finish."""

    async def write(cluster: Cluster) -> None:
        async def act(body: Object) -> None:
            if body["spec"].get("suspend"):
                print_changed(body, form, "is already suspended")
            else:
                patch = {"spec": {"suspend": True}}
                print_changed(await cluster.patch(body["metadata"]["name"], patch), form, "suspended")

        await cluster.each(names, act)

    where.run(write)


def resume(where: Where, names: list[str], form: Form) -> None:
    """Resume ScheduledJobs from their next slot on."""

    async def write(cluster: Cluster) -> None:
        async def act(body: Object) -> None:
            kept = is_suspended(body)
            if not kept:
                print_changed(body, form, "is neither suspended nor paused")
                return
            # A change of the spec ends a pause as well. Removing the field, unlike setting it, leaves no owner of it.
            patch: dict[str, Any] = {"spec": {"suspend": None}}
            if kept == "paused":
                patch = {"metadata": {"annotations": {f"{GROUP}/resume": new_token()}}}
            print_changed(await cluster.patch(body["metadata"]["name"], patch), form, "resumed")

        await cluster.each(names, act)

    where.run(write)


def cancel(where: Where, name: str, run_id: str | None, form: Form) -> None:
    """Cancel the named run, or the only active one."""

    async def write(cluster: Cluster) -> None:
        body = await cluster.job(name)
        uid = body["metadata"]["uid"]
        active = [run["runID"] for run in status_of(body).get("active") or ()]
        wanted = run_id
        if wanted is None:
            if not active:
                raise CommandError(f"{name} has no active run")
            if len(active) > 1:
                raise CommandError(f"{name} has {len(active)} active runs: name one of them: {_short(uid, active)}", 2)
            wanted = active[0]
        elif not wanted.startswith(f"{uid}-"):
            wanted = f"{uid}-{wanted}"
        shown = printable(wanted.removeprefix(f"{uid}-"))
        if wanted not in active and not _may_come(body, wanted):
            raise CommandError(_no_such_run(body, wanted))
        annotations = {"metadata": {"annotations": {f"{GROUP}/cancel": wanted}}}
        body = await cluster.patch(name, annotations)
        if wanted not in active:
            say(f"status does not show {shown} as active; the cancellation is requested anyway")
        print_changed(body, form, f"asked to cancel run {shown}")

    where.run(write)


def _short(uid: str, runs: list[str]) -> str:
    return printable(", ".join(run.removeprefix(f"{uid}-") for run in runs))


def _may_come(body: Object, wanted: str) -> bool:
    """Return whether a run may exist that status does not show as active: a waiting or a just requested one."""
    status, uid = status_of(body), body["metadata"]["uid"]
    if wanted in [run["runID"] for run in status.get("recentRuns") or ()]:
        return False
    token = (body["metadata"].get("annotations") or {}).get(f"{GROUP}/run-now")
    if token and wanted == run_id_of(uid, Run(slot=0, due=0, token=token)):
        return True
    try:
        waiting = State.decode(status.get("engine") or "").waiting
    except msgspec.MsgspecError:
        waiting = []
    unshown = status.get("activeCount", 0) > len(status.get("active") or ())
    return unshown or wanted in [run_id_of(uid, run) for run in waiting]


def _no_such_run(body: Object, wanted: str) -> str:
    """Explain why the run can't be cancelled, and which runs can."""
    status, uid, name = status_of(body), body["metadata"]["uid"], body["metadata"]["name"]
    shown = printable(wanted.removeprefix(f"{uid}-"))
    for run in status.get("recentRuns") or ():
        if run["runID"] == wanted:
            return f"run {shown} of {name} has ended: {run['outcome']}"
    active = [run["runID"] for run in status.get("active") or ()]
    which = f"active: {_short(uid, active)}" if active else "it has no active runs"
    return f"{name} has no active run {shown} ({which})"


def paused_words(body: Object) -> str:
    """Return why status says that it is suspended or paused; empty if it is neither."""
    found = condition_of(body, "Suspended")
    return str(found.get("message", "")) if found.get("status") == "True" else ""
