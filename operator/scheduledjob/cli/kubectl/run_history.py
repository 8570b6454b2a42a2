"""``history``: the ended runs, from status or, with all that is kept, from the store.

The store is read directly, without the operator, so whoever can reach it needs no access to the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.objects import Object, instant_of, key_of, status_of
from scheduledjob.cli.shared.printing import Form, out, print_plain, print_table, second, took

from .cluster_access import NO_NAME_EVERYWHERE, Cluster
from .listing import nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cluster_access import Where


def print_recent(where: Where, name: str | None, limit: int, form: Form) -> None:
    """Print the newest runs of one ScheduledJob, or of all that the options select, newest first."""

    async def read(cluster: Cluster) -> tuple[list[Object], str]:
        return ([await cluster.job(name)] if name else await cluster.jobs()), cluster.namespace

    found, namespace = where.run(read)
    runs = [(body, run) for body in found for run in status_of(body).get("recentRuns") or ()]
    runs.sort(key=lambda pair: instant_of(pair[1].get("finished")) or 0, reverse=True)
    empty = f"no run{f' of {name}' if name else ''} has ended" if found else nothing(where, namespace)
    _print(runs[:limit], where, name, form, empty)


def _print(runs: Sequence[tuple[Object, Object]], where: Where, name: str | None, form: Form, empty: str) -> None:
    """Print runs, each given with the object that it belongs to."""
    if form is Form.NAME:
        for _, run in runs:
            out(printable(run["runID"]))
    elif form.is_for_people:
        print_table([_row(body, run, where, name, wide=form is Form.WIDE) for body, run in runs], empty=empty)
    else:
        print_plain([dict(zip(("namespace", "name"), key_of(body), strict=True)) | run for body, run in runs], form)


def _row(body: Object, run: Object, where: Where, name: str | None, *, wide: bool) -> dict[str, Any]:
    namespace, of = key_of(body)
    row: dict[str, Any] = {}
    if where.everywhere:
        row["namespace"] = namespace
    if name is None:
        row["name"] = of
    row |= run_as_row(run)
    if wide:
        run_id = run["runID"].removeprefix(f"{body['metadata']['uid']}-")
        row = row | {"code": run.get("code"), "where": run.get("pod") or run.get("replica"), "run": run_id}
    row["reason"] = row.pop("reason")  # the longest column comes last
    return row


def run_as_row(run: Object) -> dict[str, Any]:
    """Return the cells of a run's row."""
    started, finished = instant_of(run.get("started")), instant_of(run.get("finished"))
    return {
        "slot": second(instant_of(run.get("slot"))) + (" (manual)" if run.get("token") else ""),
        "started": second(started),
        "took": "" if started is None or finished is None else took(finished - started),
        "attempt": run.get("attempt"),
        "outcome": run.get("outcome"),
        "reason": run.get("reason"),
    }


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """The history in an operator's store, read by somebody who can reach the store."""

    url: str
    instance: str

    def read(self, where: Where, name: str | None, limit: int) -> list[tuple[Object, Object]]:
        """Return the kept runs, newest first. Of the cluster, only the kubeconfig's namespace is used."""
        from scheduledjob.cli.shared.store_commands import read_history, whole_run_as_json

        if where.selector:
            raise CommandError("-l can't be combined with --store: a store has no labels", 2)
        if name is not None and where.everywhere:
            raise CommandError(NO_NAME_EVERYWHERE, 2)
        found = []
        for record in read_history(self.url, self.instance, name, _namespace(where), limit):
            run = whole_run_as_json(record)
            found.append(({"metadata": {"namespace": run["namespace"], "name": run["name"], "uid": record.uid}}, run))
        return found


def kept_in(url: str | None, instance: str | None) -> StoredHistory | None:
    """Return the store that ``--store`` and ``--instance`` name; None without them."""
    if url is not None:
        return StoredHistory(url, instance or "local")
    if instance is not None:
        raise CommandError("--instance needs --store", 2)
    return None


def _namespace(where: Where) -> str | None:
    if where.namespace is not None or where.everywhere:
        return where.namespace

    async def read(cluster: Cluster) -> str:
        return cluster.namespace

    try:
        return where.run(read)
    except CommandError:  # no kubeconfig: the store may still be reachable
        return "default"


def print_stored(where: Where, kept: StoredHistory, name: str | None, limit: int, form: Form) -> None:
    """Print the runs that a store keeps."""
    runs = kept.read(where, name, limit)
    of = f" of {name}" if name else ""
    _print(runs, where, name, form, f'the store has no runs{of} of the instance "{kept.instance}"')
