"""When a ScheduledJob will run, computed from its spec, for an object of a cluster as for a manifest.

The engine's own domain computes it, with the seed and the creation that the operator uses, so that what is printed is
what will happen, jitter included. No operator needs to run for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, Instant, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.domain.triggers.registry import runs_only_by_hand

from .command_errors import CommandError
from .objects import Object, instant_of, is_suspended, key_of, now, status_of
from .printing import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.schedule.misfire import Slots

_EXAMPLE = "write an instant with its offset from UTC, as in 2026-12-01T10:00:00Z"


@dataclass(frozen=True, slots=True)
class PlannedSchedule:
    """One ScheduledJob and when it fires."""

    namespace: str
    name: str
    uid: str
    definition: Definition
    slots: Slots | None
    inactive_reason: str = ""
    """Why its slots do not start; empty if they do."""

    def starts(self, after: Instant) -> Iterator[tuple[Instant, Instant]]:
        """Yield (slot, start) of the slots after an instant; endless if the triggers are."""
        slot = None if self.slots is None else self.slots.next(after)
        while self.slots is not None and slot is not None:
            yield slot, slot + jitter_of(self.uid, slot, self.definition.jitter)
            slot = self.slots.next(slot)


def schedule_of(body: Object) -> PlannedSchedule:
    """Return the schedule of an object of the cluster. Raises ``ValueError`` if its spec is invalid."""
    from scheduledjob.manifests.loader import load_text
    from scheduledjob.manifests.translate import to_definition
    from scheduledjob.resource_names import API_VERSION, KIND

    namespace, name = key_of(body)
    bare = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": namespace}}
    loaded = load_text(msgspec.json.encode(bare | {"spec": body["spec"]}).decode())
    if loaded.problems:
        problem = loaded.problems[0]
        raise ValueError(": ".join(part for part in (problem.field, problem.message, problem.allowed) if part))
    definition = to_definition(next(iter(loaded.jobs.values())).job)
    metadata = body["metadata"]
    created = instant_of(metadata.get("creationTimestamp")) or now()
    slots = slots_of(Plan(definition), seed=f"{namespace}/{name}", created=created)
    return PlannedSchedule(namespace, name, metadata.get("uid", ""), definition, slots, _inactive_reason(body))


def _inactive_reason(body: Object) -> str:
    status = status_of(body)
    if (kept := is_suspended(body)) == "suspended":
        return "it is suspended: kubectl scheduledjob resume starts its slots again"
    if kept:
        return "it is paused after failures: kubectl scheduledjob resume starts its slots again"
    return "it is completed: none of its slots starts any more" if status.get("nextRun") == "completed" else ""


def instant_from(text: str, option: str) -> Instant:
    """Parse the instant given with an option. Raises CommandError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option}: {text!r} is not a point in time: {_EXAMPLE}", 2) from None
    if moment.tzinfo is None:
        raise CommandError(f"{option}: {text!r} has no offset from UTC: {_EXAMPLE}", 2)
    return to_instant(moment)


def say_what_is_not_listed(schedule: PlannedSchedule) -> None:
    """Say on standard error which runs ``next`` can't list, and how to start a job that has no slots."""
    if runs_only_by_hand(schedule.definition.triggers):
        command = f"kubectl scheduledjob trigger {schedule.name}"
        say(f"{schedule.name}: it has no slots and runs only by hand; in a cluster: {command}")
    for trigger in schedule.definition.triggers:
        if trigger.unlisted:
            say(f"{schedule.name}: {trigger.unlisted}")


def row_of(schedule: PlannedSchedule, slot: Instant, start: Instant, *, with_start: bool) -> dict[str, str]:
    """Return the cells of a slot's row."""
    zone = next((trigger.zone for trigger in schedule.definition.triggers if trigger.zone is not None), "UTC")
    local = to_datetime(slot).astimezone(zone_info(zone))
    row = {
        "namespace": schedule.namespace,
        "name": schedule.name,
        "slot": rfc3339(slot),
        "local": local.strftime("%a %Y-%m-%d %H:%M:%S %z"),
        "in": format_duration(max(0, start - now()) // SECOND * SECOND),
    }
    if with_start:
        row["starts"] = rfc3339(start // SECOND * SECOND)
    return row


def schedules_of_files(
    paths: Sequence[str], namespace: str | None, begin: Instant
) -> tuple[list[PlannedSchedule], bool]:
    """Return the schedules of manifests as if created at ``begin``, and whether faults were printed."""
    from scheduledjob.manifests.loader import load
    from scheduledjob.manifests.translate import to_definition

    from .validation import with_pipe

    loaded = load(with_pipe(paths))
    for problem in loaded.problems:
        say(str(problem))
    found = []
    for item in loaded.jobs.values():
        metadata = item.job.metadata
        in_namespace = metadata.namespace or namespace or "default"
        definition = to_definition(item.job)
        slug = f"{in_namespace}/{metadata.name}"
        slots = slots_of(Plan(definition), seed=slug, created=begin)
        inactive_reason = "suspended" if definition.suspend else ""
        found.append(PlannedSchedule(in_namespace, metadata.name, slug, definition, slots, inactive_reason))
    if not found and not loaded.problems:
        raise CommandError("the files contain no ScheduledJob", 2)
    return found, bool(loaded.problems)
