"""``history``: the runs that have ended, from status, or from the store with everything that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.cli.errors import CommandError
from scheduledjob.cli.formats import printable

from .cluster import Cluster, Object, instant_of, key_of, status_of
from .listing import nothing
from .printing import Form, out, print_plain, print_table, second, took

if TYPE_CHECKING:
    from .cluster import Where


def print_recent(where: Where, name: str | None, limit: int, form: Form) -> None:
    """The newest runs of one ScheduledJob, or of all that are meant, the newest first."""

    async def read(cluster: Cluster) -> tuple[list[Object], str]:
        return ([await cluster.job(name)] if name else await cluster.jobs()), cluster.namespace

    found, namespace = where.run(read)
    runs = [(body, run) for body in found for run in status_of(body).get("recentRuns") or ()]
    runs.sort(key=lambda each: instant_of(each[1].get("finished")) or 0, reverse=True)
    runs = runs[:limit]
    if form is Form.NAME:
        for _, run in runs:
            out(printable(run["runID"]))
    elif form.is_for_people:
        rows = [_row(body, run, where, name, wide=form is Form.WIDE) for body, run in runs]
        print_table(
            rows, empty=f"no run has ended{f' of {name}' if name else ''}" if found else nothing(where, namespace)
        )
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
    row["reason"] = row.pop("reason")  # the longest stands last
    return row


def run_as_row(run: Object) -> dict[str, Any]:
    """A run as tables show it."""
    started, finished = instant_of(run.get("started")), instant_of(run.get("finished"))
    return {
        "slot": second(instant_of(run.get("slot"))) + (" (manual)" if run.get("token") else ""),
        "started": second(started),
        "took": "" if started is None or finished is None else took(finished - started),
        "attempt": run.get("attempt"),
        "outcome": run.get("outcome"),
        "reason": run.get("reason"),
    }


def print_stored(where: Where, url: str, instance: str, name: str | None, limit: int, form: Form) -> None:
    """The same of all that a store keeps; of the cluster only the kubeconfig's namespace is asked for."""
    from scheduledjob.cli.stores import print_history

    namespace = where.namespace
    if namespace is None and not where.everywhere:
        try:
            namespace = where.run(_namespace)
        except CommandError:  # no kubeconfig: the store may be reached all the same
            namespace = "default"
    print_history(url, instance, name, namespace, limit, form.value if form in (Form.JSON, Form.YAML) else "table")


async def _namespace(cluster: Cluster) -> str:
    return cluster.namespace
