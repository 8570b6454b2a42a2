"""``next`` and ``explain`` of manifest files: when their jobs would run, and what happens when something goes wrong.

No cluster and no store is asked. What a manifest can't say is assumed, as ``simulate`` does: the objects are created at
the moment that is looked from. What is wrong in a file is said on standard error, and the rest is shown.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from scheduledjob.cli.kubectl.cluster_access import now
from scheduledjob.cli.kubectl.simulation import schedules_of_files
from scheduledjob.cli.kubectl.upcoming import Schedule, explanation, instant_from, row_of, say_what_is_not_listed
from scheduledjob.domain.time.instants import SECOND

from .formats import print_rows, print_value, printable
from .printing import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scheduledjob.domain.time.instants import Instant


def print_next_of_files(paths: Sequence[str], start: str | None, count: int, output: str) -> int:
    """The first ``count`` slots of all jobs of these files, in order; the exit code."""
    begin = now() // SECOND * SECOND if start is None else instant_from(start, "--from")
    schedules, faults = schedules_of_files(paths, None, begin)
    for each in schedules:
        if each.standing:
            say(f"{each.name}: left out, because it is {each.standing}")
        say_what_is_not_listed(each)
    awake = [each for each in schedules if not each.standing]
    jitters = any(each.definition.jitter for each in awake)
    streams = (_slots(awake[place], place, begin) for place in range(len(awake)))
    first = itertools.islice(heapq.merge(*streams), count)
    rows = [row_of(awake[place], slot, slot_start, with_start=jitters) for slot, place, slot_start in first]
    bare = output == "table" and all(each.namespace == "default" for each in awake)
    columns = [name for name in rows[0] if not (bare and name == "namespace")] if rows else []
    if schedules:
        print_rows(rows, output, columns=columns, empty="no slots are left")
    return 2 if faults else 0


def _slots(schedule: Schedule, place: int, begin: Instant) -> Iterator[tuple[Instant, int, Instant]]:
    # A slot at the very beginning belongs to it; that of an interval would be its creation, at which none fires.
    from_creation = any(trigger.counts_from_creation for trigger in schedule.definition.triggers)
    after = begin if from_creation else begin - 1
    for slot, start in itertools.islice(schedule.starts(after), schedule.definition.max_runs):
        yield slot, place, start


def print_explanation_of_files(paths: Sequence[str], output: str) -> int:
    """Each job of these files in words, by headings; the exit code."""
    schedules, faults = schedules_of_files(paths, None, now())
    said = [(each, explanation(each)) for each in schedules]
    if output != "table":
        print_value([{"namespace": each.namespace, "name": each.name, **words} for each, words in said], output)
        return 2 if faults else 0
    for number, (each, words) in enumerate(said):
        if number:
            print()  # noqa: T201  # a command prints
        bare = each.namespace == "default"
        print(printable(each.name if bare else f"{each.namespace}/{each.name}"))  # noqa: T201  # as above
        for heading, lines in words.items():
            for index, line in enumerate([lines] if isinstance(lines, str) else lines):
                label = "" if index else f"{heading}:"
                print(f"  {label:14}{printable(line)}")  # noqa: T201  # as above
    return 2 if faults else 0
