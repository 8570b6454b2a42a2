"""``next`` and ``explain`` for manifest files: when their jobs would run, and how they handle trouble.

Neither a cluster nor a store is read. As in ``simulate``, the objects are assumed to be created at the start of the
window. Faults in a file are printed to standard error, and the rest is shown.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import SECOND

from .explanation import explanation
from .formats import print_rows, print_value, printable
from .objects import now
from .planned_schedule import PlannedSchedule, instant_from, row_of, say_what_is_not_listed, schedules_of_files
from .printing import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scheduledjob.domain.time.instants import Instant


def print_next_of_files(paths: Sequence[str], start: str | None, count: int, output: str) -> int:
    """Print the first ``count`` slots of all jobs of the files, in order; return the exit code."""
    begin = now() // SECOND * SECOND if start is None else instant_from(start, "--from")
    schedules, faults = schedules_of_files(paths, None, begin)
    for schedule in schedules:
        if schedule.inactive_reason:
            say(f"{schedule.name}: left out, because it is {schedule.inactive_reason}")
        say_what_is_not_listed(schedule)
    awake = [schedule for schedule in schedules if not schedule.inactive_reason]
    jitters = any(schedule.definition.jitter for schedule in awake)
    streams = (_slots(awake[place], place, begin) for place in range(len(awake)))
    first = itertools.islice(heapq.merge(*streams), count)
    rows = [row_of(awake[place], slot, slot_start, with_start=jitters) for slot, place, slot_start in first]
    bare = output == "table" and all(schedule.namespace == "default" for schedule in awake)
    columns = [name for name in rows[0] if not (bare and name == "namespace")] if rows else []
    if schedules:
        print_rows(rows, output, columns=columns, empty="no slots are left")
    return 2 if faults else 0


def _slots(schedule: PlannedSchedule, place: int, begin: Instant) -> Iterator[tuple[Instant, int, Instant]]:
    # A slot exactly at the start is listed. An interval has none there: it would be its creation, which never fires.
    from_creation = any(trigger.counts_from_creation for trigger in schedule.definition.triggers)
    after = begin if from_creation else begin - 1
    for slot, start in itertools.islice(schedule.starts(after), schedule.definition.max_runs):
        yield slot, place, start


def print_explanation_of_files(paths: Sequence[str], output: str) -> int:
    """Explain each job of the files in words, by headings; return the exit code."""
    schedules, faults = schedules_of_files(paths, None, now())
    explained = [(schedule, explanation(schedule)) for schedule in schedules]
    if output != "table":
        print_value([{"namespace": item.namespace, "name": item.name, **words} for item, words in explained], output)
        return 2 if faults else 0
    for number, (schedule, words) in enumerate(explained):
        if number:
            print()  # noqa: T201  # a command prints
        bare = schedule.namespace == "default"
        print(printable(schedule.name if bare else f"{schedule.namespace}/{schedule.name}"))  # noqa: T201  # as above
        for heading, lines in words.items():
            for index, line in enumerate([lines] if isinstance(lines, str) else lines):
                label = "" if index else f"{heading}:"
                print(f"  {label:14}{printable(line)}")  # noqa: T201  # as above
    return 2 if faults else 0
