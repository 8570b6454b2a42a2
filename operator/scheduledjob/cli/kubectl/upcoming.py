"""``next`` and ``explain`` for the ScheduledJobs of a cluster, computed here from their specs."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.explanation import explanation
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.objects import Object, key_of, now
from scheduledjob.cli.shared.planned_schedule import (
    PlannedSchedule,
    instant_from,
    row_of,
    say_what_is_not_listed,
    schedule_of,
)
from scheduledjob.cli.shared.printing import BOLD, Form, coloured, out, print_objects, print_plain, print_table, say
from scheduledjob.domain.triggers.cron import Cron, CronError

from .listing import nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.domain.time.instants import Instant

    from .cluster_access import Cluster, Where


def print_next(where: Where, name: str | None, start: str | None, count: int, form: Form) -> None:
    """Print the next slots of one ScheduledJob, or of all that the options select, in the order of their starts."""
    begin = now() if start is None else instant_from(start, "--from")

    async def read(cluster: Cluster) -> tuple[list[Object], str]:
        return ([await cluster.job(name)] if name else await cluster.jobs()), cluster.namespace

    found, namespace = where.run(read)
    if not found:
        say(nothing(where, namespace))
    schedules: list[PlannedSchedule] = []
    for body in found:
        try:
            schedule = schedule_of(body)
        except ValueError as error:
            line = f"{'/'.join(key_of(body))}: {printable(str(error))}"
            if name:
                raise CommandError(line) from None
            say(line)
            continue
        if schedule.inactive_reason:
            say(f"{schedule.name}: {schedule.inactive_reason}")
        say_what_is_not_listed(schedule)
        if name or not schedule.inactive_reason:
            schedules.append(schedule)
    jitters = form is Form.WIDE or any(schedule.definition.jitter for schedule in schedules)
    rows = [row_of(*first, with_start=jitters) for first in _first(schedules, begin, count)]
    if form is Form.NAME:
        for row in rows:
            out(row["slot"])
    elif form.is_for_people:
        known = {"name", "namespace"} if name else set() if where.everywhere else {"namespace"}
        rows = [{key: text for key, text in row.items() if key not in known} for row in rows]
        print_table(rows, empty="no slots are left" if found else "")
    else:
        print_plain(rows, form)


def _first(
    schedules: list[PlannedSchedule], after: Instant, count: int
) -> Iterator[tuple[PlannedSchedule, Instant, Instant]]:
    def stream(place: int) -> Iterator[tuple[Instant, int, Instant]]:
        for slot, start in schedules[place].starts(after):
            yield slot, place, start

    merged = heapq.merge(*(stream(place) for place in range(len(schedules))))
    for slot, place, start in itertools.islice(merged, count):
        yield schedules[place], slot, start


def print_explanation(where: Where, name: str, time_zone: str, form: Form) -> None:
    """Explain a ScheduledJob or a cron expression in words."""
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


def schedules_of_cluster(where: Where) -> list[PlannedSchedule]:
    """Return the valid schedules that the options select; invalid ones are reported and left out."""
    schedules = []
    for body in where.run(lambda cluster: cluster.jobs()):
        try:
            schedules.append(schedule_of(body))
        except ValueError as error:
            say(f"{body['metadata']['name']}: left out: {error}")
    return schedules
