"""``simulate``: shows how many runs start in each minute, so that people see a load peak before it happens.

Nothing runs. The slots, including jitter, are computed with the code that the engine uses. For manifests, the objects
are assumed to be created at ``--from``, and jitter is that of a sample uid. In a long window, a row is an hour and a
character is a minute. In a short window, each minute has a row with a bar.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.cli.shared.printing import BOLD, RED, YELLOW, Form, coloured, has_colour, out, print_plain, say
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, Instant, rfc3339, to_datetime
from scheduledjob.domain.triggers.following import FollowingTrigger

from .objects import now
from .planned_schedule import instant_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .planned_schedule import PlannedSchedule

    ReadSchedules = Callable[[Instant], tuple[list[PlannedSchedule], bool]]
    """Returns schedules, and whether there were faults, which it has reported."""

BUSIEST = 5
"""How many of the busiest minutes are listed."""
BARS = 120
"""Longest window in minutes that is drawn with a row for each minute."""
WIDTH = 60
NAMES = 6
LONGEST = 31 * DAY
STEPS = 20_000
"""Most slots of one job that are listed one by one; beyond that, without jitter, slots are counted by minute."""
_BLOCKS, _PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#%"


@dataclass(slots=True)
class Load:
    """Starts by minute (since the epoch), and the jobs that they belong to."""

    begin: Instant
    end: Instant
    minutes: Counter[int] = field(default_factory=Counter)
    jobs: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, minute: int, name: str, count: int = 1) -> None:
        self.minutes[minute] += count
        self.jobs[minute][name] += count

    def busiest(self) -> list[int]:
        """Return the busiest minutes; the earliest comes first among equals."""
        return sorted(self.minutes, key=lambda minute: (-self.minutes[minute], minute))[:BUSIEST]


def simulate(read: ReadSchedules, start: str | None, end: str | None, form: Form) -> int:
    """Print the load of the schedules that ``read`` returns for the start of the window; return the exit code."""
    begin = (now() if start is None else instant_from(start, "--from")) // MINUTE * MINUTE
    until = begin + DAY if end is None else instant_from(end, "--to")
    if not begin < until <= begin + LONGEST:
        raise CommandError("--to must be after --from, and at most 31 days", 2)
    schedules, faults = read(begin)
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


def load_of(schedules: Iterable[PlannedSchedule], begin: Instant, end: Instant) -> Load:
    """Count the starts of schedules in ``begin <= start < end``."""
    load = Load(begin, end)
    for schedule in schedules:
        if schedule.inactive_reason or schedule.slots is None:
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


def as_plain(load: Load, schedules: Sequence[PlannedSchedule]) -> dict[str, Any]:
    """Return the load as plain data."""

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


def _draw(load: Load, schedules: Sequence[PlannedSchedule]) -> None:
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


def _assume(schedules: Sequence[PlannedSchedule]) -> None:
    if suspended := [schedule.name for schedule in schedules if schedule.inactive_reason]:
        say(f"left out, because they are suspended: {_few(suspended)}")
    if after := [
        schedule.name
        for schedule in schedules
        if any(isinstance(trigger, FollowingTrigger) for trigger in schedule.definition.triggers)
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
