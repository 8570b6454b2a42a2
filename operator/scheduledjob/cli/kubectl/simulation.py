"""``simulate``: how many starts fall in each minute, so that a herd is seen before it comes.

Nothing runs: the slots are those of the engine's own domain, jitter included. What a manifest can't say is assumed and
told: objects are created at ``--from``, and jitter falls as it would for some uid. On a long window a row is an hour
and a character a minute; on a short one each minute has a row and a bar.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.printing import BOLD, RED, YELLOW, Form, coloured, has_colour, out, print_plain, say
from scheduledjob.cli.shared.validation import with_pipe
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, Instant, rfc3339, to_datetime
from scheduledjob.domain.triggers.following import FollowingTrigger

from .upcoming import Schedule, instant_from, schedule_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .cluster_access import Where

BUSIEST = 5
"""Minutes that are named."""
BARS = 120
"""Minutes up to which each has a row of its own."""
WIDTH = 60
NAMES = 6
LONGEST = 31 * DAY
STEPS = 20_000
"""Slots of one job that are walked over; of more, and without jitter, the minutes are asked how many they have."""
_BLOCKS, _PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#%"


@dataclass(slots=True)
class Load:
    """Starts by minute (counted from the epoch), and whose they are."""

    begin: Instant
    end: Instant
    minutes: Counter[int] = field(default_factory=Counter)
    jobs: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, minute: int, name: str, count: int = 1) -> None:
        self.minutes[minute] += count
        self.jobs[minute][name] += count

    def busiest(self) -> list[int]:
        """The busiest minutes, the earliest first among equals."""
        return sorted(self.minutes, key=lambda minute: (-self.minutes[minute], minute))[:BUSIEST]


def simulate(where: Where, paths: Sequence[str], start: str | None, end: str | None, form: Form) -> int:
    """Print the load of manifests, or of the cluster without any; the exit code."""
    from .cluster_access import now

    begin = (now() if start is None else instant_from(start, "--from")) // MINUTE * MINUTE
    until = begin + DAY if end is None else instant_from(end, "--to")
    if not begin < until <= begin + LONGEST:
        raise CommandError("--to must be after --from, and at most 31 days", 2)
    schedules, faults = schedules_of_files(paths, where.namespace, begin) if paths else _of_cluster(where)
    if faults and not schedules:
        return 2
    load = load_of(schedules, begin, until)
    if form.is_for_people:
        _draw(load, schedules)
    elif form is Form.NAME:
        for minute in load.busiest():
            out(rfc3339(minute * MINUTE))
    else:
        print_plain(as_plain(load, schedules), form)
    return 2 if faults else 0


def load_of(schedules: Iterable[Schedule], begin: Instant, end: Instant) -> Load:
    """The starts of these in ``begin <= start < end``."""
    load = Load(begin, end)
    for schedule in schedules:
        if schedule.standing or schedule.slots is None:
            continue
        name = f"{schedule.namespace}/{schedule.name}"
        jitter, limit = schedule.definition.jitter, schedule.definition.max_runs
        slots, _ = schedule.slots.count(begin - 1, end - 1)
        if slots > STEPS and not jitter and limit is None:
            for minute in range(begin // MINUTE, -(-end // MINUTE)):
                first, last = max(minute * MINUTE, begin), min((minute + 1) * MINUTE, end)
                if count := schedule.slots.count(first - 1, last - 1)[0]:
                    load.add(minute, name, count)
            continue
        for number, (slot, start) in enumerate(schedule.starts(begin - 1 - jitter)):
            if slot >= end or (limit is not None and number >= limit):
                break
            if begin <= start < end:
                load.add(start // MINUTE, name)
    return load


def schedules_of_files(paths: Sequence[str], namespace: str | None, begin: Instant) -> tuple[list[Schedule], bool]:
    """The schedules of manifests as if created at ``begin``; whether something was wrong, which has been said then."""
    from scheduledjob.domain.schedule.plan import Plan, slots_of
    from scheduledjob.manifests.loader import load
    from scheduledjob.manifests.translate import to_definition

    loaded = load(with_pipe(paths))
    for problem in loaded.problems:
        say(str(problem))
    found = []
    for each in loaded.jobs.values():
        metadata = each.job.metadata
        in_namespace = metadata.namespace or namespace or "default"
        definition = to_definition(each.job)
        slug = f"{in_namespace}/{metadata.name}"
        slots = slots_of(Plan(definition), seed=slug, created=begin)
        standing = "suspended" if definition.suspend else ""
        found.append(Schedule(in_namespace, metadata.name, slug, definition, slots, standing))
    if not found and not loaded.problems:
        raise CommandError("there is no ScheduledJob in the files that are named", 2)
    return found, bool(loaded.problems)


def _of_cluster(where: Where) -> tuple[list[Schedule], bool]:
    found = []
    for body in where.run(lambda cluster: cluster.jobs()):
        try:
            found.append(schedule_of(body))
        except ValueError as error:
            say(f"{body['metadata']['name']}: left out: {error}")
    return found, False


def as_plain(load: Load, schedules: Sequence[Schedule]) -> dict[str, Any]:
    """The load as plain data."""

    def minute_as_plain(minute: int) -> dict[str, Any]:
        jobs = dict(load.jobs[minute].most_common())
        return {"minute": rfc3339(minute * MINUTE), "starts": load.minutes[minute], "jobs": jobs}

    return {
        "from": rfc3339(load.begin),
        "to": rfc3339(load.end),
        "jobs": len(schedules),
        "starts": load.minutes.total(),
        "busiest": [minute_as_plain(minute) for minute in load.busiest()],
        "minutes": [minute_as_plain(minute) for minute in sorted(load.minutes)],
    }


# ---------------------------------------------------------------- drawing


def _draw(load: Load, schedules: Sequence[Schedule]) -> None:
    length = (load.end - load.begin) // MINUTE
    total, most = load.minutes.total(), max(load.minutes.values(), default=0)
    jobs = f"{len(schedules)} job{'' if len(schedules) == 1 else 's'}, {total} start{'' if total == 1 else 's'}"
    out(f"{jobs} from {rfc3339(load.begin)} to {rfc3339(load.end)}, at most {most} in a minute")
    _assume(schedules)
    if most:
        out("")
        for line in _bars(load, most) if length <= BARS else _hours(load, most):
            out(line)
        out("")
        out(coloured("Busiest minutes:", BOLD))
        for minute in load.busiest():
            out(f"  {rfc3339(minute * MINUTE)}  {load.minutes[minute]:>5}  {_whose(load.jobs[minute])}")


def _assume(schedules: Sequence[Schedule]) -> None:
    if still := [one.name for one in schedules if one.standing]:
        say(f"left out, because they are suspended: {_few(still)}")
    if after := [
        one.name for one in schedules if any(isinstance(each, FollowingTrigger) for each in one.definition.triggers)
    ]:
        say(f"starts that follow other runs are not counted: {_few(after)}")


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMES
    return ", ".join(names[:NAMES]) + (f" and {more} more" if more > 0 else "")


def _whose(jobs: Mapping[str, int]) -> str:
    ordered = sorted(jobs, key=lambda name: (-jobs[name], name))
    return _few([name if jobs[name] == 1 else f"{name} ({jobs[name]})" for name in ordered])


def _bars(load: Load, most: int) -> list[str]:
    block = "█" if _has_blocks() else "#"
    lines = []
    for minute in range(load.begin // MINUTE, -(-load.end // MINUTE)):
        count = load.minutes[minute]
        bar = block * (-(-count * WIDTH // most))
        shown = f"{bar} {count}" if count else ""
        lines.append(f"{to_datetime(minute * MINUTE):%m-%d %H:%M}  {_painted(shown, count, most)}".rstrip())
    return lines


def _hours(load: Load, most: int) -> list[str]:
    levels = _BLOCKS if _has_blocks() else _PLAIN
    lines = [f"{'':14}{''.join(f':{minute:02}'.ljust(15) for minute in (0, 15, 30, 45))} starts  peak"]
    quiet = 0
    for hour in range(load.begin // HOUR, -(-load.end // HOUR)):
        counts = [load.minutes[hour * 60 + minute] for minute in range(60)]
        if not any(counts):
            quiet += 1
            continue
        if quiet:
            lines.append(f"{'':14}{'(nothing)' if quiet == 1 else f'(nothing for {quiet} hours)'}")
            quiet = 0
        drawn = "".join(_painted(levels[-(-count * (len(levels) - 1) // most)], count, most) for count in counts)
        lines.append(f"{to_datetime(hour * HOUR):%m-%d %H:00}  |{drawn}| {sum(counts):>5} {max(counts):>5}")
    if quiet:
        lines.append(f"{'':14}(nothing for {quiet} hour{'' if quiet == 1 else 's'})")
    return lines


def _painted(text: str, count: int, most: int) -> str:
    if not has_colour(sys.stdout) or most < 3 or count * 2 < most:
        return text
    return coloured(text, RED if count * 10 >= most * 9 else YELLOW)


def _has_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
