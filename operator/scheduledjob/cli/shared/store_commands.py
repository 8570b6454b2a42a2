"""``migrate`` and ``history``: commands that work on a store without running jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from scheduledjob.domain.time.durations import format_duration
from scheduledjob.jobs.container.pod_names import pod_name
from scheduledjob.jobs.hooks import run_as_json, split_slug
from scheduledjob.manifests.problems import listed
from scheduledjob.stores import is_memory, open_store

from .command_errors import CommandError
from .formats import print_rows, print_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import Migrating, Store

PAGE = 500
SEARCHED = 10_000
"""How many ended runs are searched for a name whose schedule may be gone."""


def print_migration(url: str, finish: bool, output: str) -> None:
    """Apply the pending migrations and print which were applied."""
    store = _opened(url, "local")
    migrate = getattr(store, "migrate", None)
    done = [] if migrate is None else asyncio.run(_migrate(store, finish))
    if output == "table":
        for line in done or ["nothing to do: the store is up to date"]:
            print(line)  # noqa: T201  # a command prints
    else:
        print_value({"done": done}, output)


async def _migrate(store: Store, finish: bool) -> list[str]:
    try:
        return await cast("Migrating", store).migrate(finish=finish)
    finally:
        await store.close()


def print_history(url: str, instance: str, name: str | None, namespace: str | None, limit: int, output: str) -> None:
    """Print the ended runs of one job, of one namespace or of all, newest first."""
    records = read_history(url, instance, name, namespace, limit)
    if output == "table":
        rows = [_row(record) for record in records]
        empty = "no runs" if namespace is None else f"no runs in namespace {namespace!r}"
        if name is not None and not records:
            empty = asyncio.run(_explain_no_runs(_opened(url, instance), name, namespace))
        print_rows(rows, output, empty=empty)
    else:
        print_value([whole_run_as_json(record) for record in records], output)


def read_history(url: str, instance: str, name: str | None, namespace: str | None, limit: int) -> list[RunRecord]:
    """Return the ended runs that a store keeps, newest first. Raises CommandError for a store without history."""
    if is_memory(url):
        raise CommandError(
            "the store in memory ends with its process and keeps no history: "
            "name a store with --store postgresql://... or --store firestore://...",
            2,
        )
    return asyncio.run(_history(_opened(url, instance), name, namespace, limit))


def whole_run_as_json(record: RunRecord) -> dict[str, Any]:
    """Return everything that the store keeps of a run, under the names that a ScheduledJob's status uses."""
    _, name = split_slug(record.slug)
    whole: dict[str, Any] = run_as_json(record) | {"runID": record.run_id}
    if record.manual:
        whole["token"] = record.run_id.removeprefix(f"{record.uid}-")
    if record.code is not None:
        whole["code"] = record.code
    if record.replica:
        pod = pod_name(name, record.run_id, record.attempt)
        whole["pod" if record.replica == pod else "replica"] = record.replica
    if record.output:
        whole["output"] = record.output.decode(errors="replace")
    return whole


def _opened(url: str, instance: str) -> Store:
    try:
        return open_store(url, instance)
    except ValueError as error:
        raise CommandError(f"--store: {error}", 2) from None


async def _history(store: Store, name: str | None, namespace: str | None, limit: int) -> list[RunRecord]:
    try:
        await store.connect()
        if name is not None:
            found = [await store.history(slug, limit=limit) for slug in _slugs(name, namespace)]
            return sorted((record for records in found for record in records), key=lambda record: -record.finished)[
                :limit
            ]
        return await _all(store, namespace, limit)
    finally:
        await store.close()


def _slugs(name: str, namespace: str | None) -> Sequence[str]:
    """Return the slugs that the name may have in the store: a manifest's, or one that a program chose."""
    if namespace is not None:
        return (f"{namespace}/{name}",)
    return (name,) if "/" in name else (f"default/{name}", name)


async def _explain_no_runs(store: Store, name: str, namespace: str | None) -> str:
    """Explain why a job has no runs: where it was searched for, and which namespaces have a job of that name."""
    slugs = _slugs(name, namespace)
    searched, bare = split_slug(slugs[0])
    try:
        await store.connect()
        seen = {record.slug for record in await _all(store, None, SEARCHED)}
        after = ""
        while page := await store.rows(after=after, limit=PAGE):
            seen.update(row.slug for row in page)
            after = page[-1].slug
    finally:
        await store.close()
    where = f"no runs of {bare!r} in namespace {searched!r}"
    if any(slug in seen for slug in slugs):
        return f"{where}: it is scheduled, but none of its runs has ended yet"
    others = sorted({split_slug(slug)[0] for slug in seen if split_slug(slug)[1] == bare} - {searched, ""})
    if not others:
        return f"{where}, and no other namespace has a job of that name"
    return f"{where}; there is a job of that name in {listed(others, 'and')}: add --namespace {others[0]}"


async def _all(store: Store, namespace: str | None, limit: int) -> list[RunRecord]:
    found: list[RunRecord] = []
    seen: set[str] = set()
    before: Instant | None = None
    while len(found) < limit:
        page = await store.history(before=before, limit=PAGE)
        new = [record for record in page if record.run_id not in seen]
        if not new:
            break
        seen.update(record.run_id for record in new)
        found += [record for record in new if namespace is None or split_slug(record.slug)[0] == namespace]
        if len(page) < PAGE:
            break
        before = page[-1].finished + 1  # runs that finished at the same instant may be on both pages
    return found[:limit]


def _row(record: RunRecord) -> dict[str, Any]:
    run = run_as_json(record)
    took = "" if record.started is None else format_duration((record.finished - record.started) // 1000 * 1000)
    return {**{key: run[key] for key in ("namespace", "name", "slot", "started")}, "took": took} | {
        key: run[key] for key in ("attempt", "outcome", "reason")
    }
