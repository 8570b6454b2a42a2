"""``next`` and ``explain``: when a ScheduledJob will run, and why, worked out here from its spec.

The engine's own domain answers, with the seed and the creation that the operator would use, so that what is printed is
what will happen, jitter included. No operator needs to be alive for it.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.printing import BOLD, Form, coloured, out, print_objects, print_plain, print_table, say
from scheduledjob.domain.schedule.backoff import Exponential
from scheduledjob.domain.schedule.definition import Definition, ExcludeCron
from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, Instant, from_seconds, rfc3339, to_datetime, to_instant
from scheduledjob.domain.triggers.cron import Cron, CronError
from scheduledjob.domain.triggers.registry import runs_only_by_hand

from .cluster_access import Cluster, Object, instant_of, key_of, now, status_of
from .listing import is_suspended, nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.domain.schedule.misfire import Slots

    from .cluster_access import Where

_EXAMPLE = "write an instant with its offset from UTC, as in 2026-12-01T10:00:00Z"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What one object says of time."""

    namespace: str
    name: str
    uid: str
    definition: Definition
    slots: Slots | None
    standing: str = ""
    """Why no slot starts although there are some; empty where they do."""

    def starts(self, after: Instant) -> Iterator[tuple[Instant, Instant]]:
        """(slot, when it starts) of the slots after an instant, without end where the triggers have none."""
        slot = None if self.slots is None else self.slots.next(after)
        while self.slots is not None and slot is not None:
            yield slot, slot + jitter_of(self.uid, slot, self.definition.jitter)
            slot = self.slots.next(slot)


def schedule_of(body: Object) -> Schedule:
    """The schedule of an object of the cluster. Raises ``ValueError`` in words for one that is invalid."""
    import msgspec

    from scheduledjob.manifests.loader import load_text
    from scheduledjob.manifests.models import API_VERSION, KIND
    from scheduledjob.manifests.translate import to_definition

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
    return Schedule(namespace, name, metadata.get("uid", ""), definition, slots, _standing(body))


def _standing(body: Object) -> str:
    status = status_of(body)
    if (kept := is_suspended(body)) == "suspended":
        return "it is suspended: kubectl scheduledjob resume starts its slots again"
    if kept:
        return "it is paused after failures: kubectl scheduledjob resume starts its slots again"
    return "it is completed: none of its slots starts any more" if status.get("nextRun") == "completed" else ""


def instant_from(text: str, option: str) -> Instant:
    """An instant that was typed."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option}: {text!r} is not a point in time: {_EXAMPLE}", 2) from None
    if moment.tzinfo is None:
        raise CommandError(f"{option}: {text!r} has no offset from UTC: {_EXAMPLE}", 2)
    return to_instant(moment)


# ---------------------------------------------------------------- next


def print_next(where: Where, name: str | None, start: str | None, count: int, form: Form) -> None:
    """The next slots of one ScheduledJob, or of all that are meant, in the order of their starts."""
    begin = now() if start is None else instant_from(start, "--from")

    async def read(cluster: Cluster) -> tuple[list[Object], str]:
        return ([await cluster.job(name)] if name else await cluster.jobs()), cluster.namespace

    found, namespace = where.run(read)
    if not found:
        say(nothing(where, namespace))
    schedules: list[Schedule] = []
    for body in found:
        try:
            schedule = schedule_of(body)
        except ValueError as error:
            line = f"{'/'.join(key_of(body))}: {printable(str(error))}"
            if name:
                raise CommandError(line) from None
            say(line)
            continue
        if schedule.standing:
            say(f"{schedule.name}: {schedule.standing}")
        say_what_is_not_listed(schedule)
        if name or not schedule.standing:
            schedules.append(schedule)
    jitters = form is Form.WIDE or any(each.definition.jitter for each in schedules)
    rows = [row_of(*each, with_start=jitters) for each in _first(schedules, begin, count)]
    if form is Form.NAME:
        for row in rows:
            out(row["slot"])
    elif form.is_for_people:
        known = {"name", "namespace"} if name else set() if where.everywhere else {"namespace"}
        rows = [{key: text for key, text in row.items() if key not in known} for row in rows]
        print_table(rows, empty="no slots are left" if found else "")
    else:
        print_plain(rows, form)


def say_what_is_not_listed(schedule: Schedule) -> None:
    """Say on standard error which runs ``next`` can't list, and how to start a job that has no slots."""
    if runs_only_by_hand(schedule.definition.triggers):
        command = f"kubectl scheduledjob run {schedule.name}"
        say(f"{schedule.name}: it has no slots and runs only by hand; in a cluster: {command}")
    for trigger in schedule.definition.triggers:
        if trigger.unlisted:
            say(f"{schedule.name}: {trigger.unlisted}")


def _first(schedules: list[Schedule], after: Instant, count: int) -> Iterator[tuple[Schedule, Instant, Instant]]:
    def stream(place: int) -> Iterator[tuple[Instant, int, Instant]]:
        for slot, start in schedules[place].starts(after):
            yield slot, place, start

    merged = heapq.merge(*(stream(place) for place in range(len(schedules))))
    for slot, place, start in itertools.islice(merged, count):
        yield schedules[place], slot, start


def row_of(schedule: Schedule, slot: Instant, start: Instant, *, with_start: bool) -> dict[str, str]:
    """A slot as ``next`` lists it."""
    zone = next((trigger.zone for trigger in schedule.definition.triggers if trigger.zone is not None), "UTC")
    local = to_datetime(slot).astimezone(ZoneInfo(zone))
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


# ---------------------------------------------------------------- explain


def print_explanation(where: Where, name: str, time_zone: str, form: Form) -> None:
    """A ScheduledJob, or a cron expression, in words."""
    if " " in name.strip() or name.startswith("@"):
        try:
            words = Cron(name, time_zone).explain()
        except CronError as error:
            raise CommandError(str(error), 2) from None
        if form is Form.NAME:
            raise CommandError("-o name: an expression has no name; use -o json or -o yaml", 2)
        lines = {"expression": name, "timeZone": time_zone, "explanation": words}
        out(words) if form.is_for_people else print_plain(lines, form)
        return

    body = where.run(lambda cluster: cluster.job(name))
    try:
        schedule = schedule_of(body)
    except ValueError as error:
        raise CommandError(f"{name} is invalid: {printable(str(error))}") from None
    said = explanation(schedule)
    if form is Form.NAME:
        print_objects([body], form)
        return
    if not form.is_for_people:
        print_plain(said, form)
        return
    for heading, lines_of in said.items():
        for index, line in enumerate([lines_of] if isinstance(lines_of, str) else lines_of):
            label = f"{heading}:" if not index else ""
            out(f"{coloured(label, BOLD)}{' ' * (14 - len(label))}{printable(line)}")


def explanation(schedule: Schedule) -> dict[str, Any]:
    """What a schedule means, by headings."""
    definition = schedule.definition
    seed = f"{schedule.namespace}/{schedule.name}"
    only = "only " if runs_only_by_hand(definition.triggers) else ""
    said: dict[str, Any] = {"Runs": [only + trigger.long(seed) for trigger in definition.triggers]}
    if definition.exclude:
        said["Except"] = [
            Cron(one.expression, one.time_zone, seed=seed).explain()
            if isinstance(one, ExcludeCron)
            else f"from {rfc3339(one.start)} until {rfc3339(one.end)}"
            for one in definition.exclude
        ]
    window = []
    if definition.start_at is not None:
        window.append(f"not before {rfc3339(definition.start_at)}")
    if definition.end_at is not None:
        window.append(f"not after {rfc3339(definition.end_at)}")
    if definition.max_runs is not None:
        window.append(f"at most {definition.max_runs} runs")
    if window:
        said["Bounds"] = window
    if definition.jitter:
        longest = format_duration(definition.jitter)
        said["Jitter"] = f"Each run starts up to {longest} after its slot; a slot always has the same delay."
    said["Overlap"] = _overlap(definition)
    said["When late"] = _misfire(definition)
    said["On failure"] = _retry(definition)
    if schedule.standing:
        said["But"] = schedule.standing
    return said


def _overlap(definition: Definition) -> str:
    limit = definition.max_concurrent
    return {
        "Forbid": "If a run is still active when a slot comes, that slot is skipped.",
        "Queue": f"If {limit or 1} {'run is' if limit in (None, 1) else 'runs are'} still active when a slot comes, "
        f"that slot waits. At most {definition.queue_depth} may wait; further slots are skipped.",
        "Replace": "If a run is still active when a slot comes, it is cancelled and the new run takes its place.",
        "Allow": "Any number of runs may be active at once."
        if limit is None
        else f"Up to {limit} runs may be active at once; further slots are skipped.",
    }[definition.concurrency.value]


def _misfire(definition: Definition) -> str:
    misfire = definition.misfire
    deadline = misfire.starting_deadline
    if misfire.catch_up.value == "All":
        which = f"the newest {misfire.max_catch_up} run" if misfire.max_catch_up > 1 else "only the newest one runs"
        order = ", oldest first" if misfire.max_catch_up > 1 else ""
        late = "" if deadline is None else f", if they are at most {format_duration(deadline)} late"
        return f"If slots are missed, {which}{order}{late}. The others are recorded as Missed."
    if misfire.catch_up.value == "Skip" and deadline is None:
        late = ", and only if it is at most 10s late"
    else:
        late = "" if deadline is None else f", and only if it is at most {format_duration(deadline)} late"
    return f"If slots are missed, only the newest one runs{late}. The others are recorded as Missed."


def _retry(definition: Definition) -> str:
    retry = definition.retry
    if isinstance(retry, Exponential):
        if not retry.max_retries:
            return "A failed run is not retried."
        first, longest = _length(retry.initial), _length(retry.max)
        growth = (
            "" if retry.multiplier == 1 else f", then {retry.multiplier:g} times as long each time, up to {longest}"
        )
        return f"A failed attempt is retried {_count(retry.max_retries)}: after {first}{growth}."
    waits = ", ".join(map(_length, retry.intervals))
    if retry.max_retries is None:
        return f"A failed attempt is retried after {waits}."
    if not retry.max_retries:
        return "A failed run is not retried."
    return f"A failed attempt is retried {_count(retry.max_retries)}, after {waits}."


def _length(seconds: float) -> str:
    return format_duration(from_seconds(seconds))


def _count(retries: int) -> str:
    if retries < 0:
        return "without limit"
    return "once" if retries == 1 else f"up to {retries} times"
