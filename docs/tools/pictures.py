"""Draw the pictures of ``docs/pictures``: ``python -m docs.tools.pictures DIRECTORY`` writes them.

Each function defines the schedules of a picture. ``story``, or the domain's triggers, compute what the schedules do.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from docs.tools.drawing import AMBER, BLUE, EDGE, FAINT, GREEN, GREY, INK, RED, Sheet
from docs.tools.story import Story, slots_between, tell
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.time.instants import HOUR, MINUTE, SECOND, Instant, Micros, to_datetime, to_instant
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.domain.triggers.every import Every

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from docs.tools.story import Ending
    from scheduledjob.domain.schedule.state import Run

WIDTH = 860
LEFT, RIGHT = 236, 24
"""The margins of a timeline, in pixels. The left one has room for text."""
COLOURS = {AttemptEnd.SUCCEEDED: GREEN, AttemptEnd.FAILED: RED, AttemptEnd.CANCELLED: AMBER}
DAY = to_instant(datetime(2026, 11, 16, tzinfo=UTC))


class Lane(NamedTuple):
    """One timeline: its label, the spec in YAML, and a caption."""

    name: str
    spec: str
    caption: tuple[str, ...]


def every_picture() -> dict[str, str]:
    """Return the text of each picture by its file name."""
    return {
        "slot-to-run.svg": slot_to_run(),
        "triggers.svg": triggers(),
        "concurrency.svg": concurrency(),
        "misfire.svg": misfire(),
        "retries.svg": retries(),
        "dst-spring.svg": dst(
            "Clocks go forward: Los Angeles, 8 March 2026", datetime(2026, 3, 8, 8, tzinfo=UTC), "America/Los_Angeles"
        ),
        "dst-autumn.svg": dst(
            "Clocks go back: Los Angeles, 1 November 2026", datetime(2026, 11, 1, 7, tzinfo=UTC), "America/Los_Angeles"
        ),
    }


# ---------------------------------------------------------------- timelines


def concurrency() -> str:
    """A job every ten minutes; its run at 10:00 takes 25 minutes, the others take four."""

    def ending(run: Run) -> tuple[Micros, AttemptEnd]:
        return (25 if run.slot == DAY + 10 * HOUR else 4) * MINUTE, AttemptEnd.SUCCEEDED

    every = 'triggers: [{cron: "*/10 * * * *"}]'
    lanes = [
        Lane("Forbid", every, ("slots during a run are", "skipped (the default)")),
        Lane("Queue", f"{every}\nconcurrencyPolicy: Queue", ("one slot waits (queueDepth 1),", "more are skipped")),
        Lane("Replace", f"{every}\nconcurrencyPolicy: Replace", ("the active run is cancelled,", "the new one starts")),
        Lane("Allow", f"{every}\nconcurrencyPolicy: Allow", ("runs overlap",)),
    ]
    begin, end = DAY + 9 * HOUR + 57 * MINUTE, DAY + 10 * HOUR + 47 * MINUTE
    return _timelines(
        "concurrencyPolicy: a job every ten minutes whose first run takes 25", lanes, begin, end, 10 * MINUTE, ending
    )


def misfire() -> str:
    """An hourly job, without a replica from 02:30 to 07:15."""

    def ending(_: Run) -> tuple[Micros, AttemptEnd]:
        return 14 * MINUTE, AttemptEnd.SUCCEEDED

    hourly = 'triggers: [{cron: "0 * * * *"}]'
    lanes = [
        Lane("Last", hourly, ("the newest missed slot runs", "(the default)")),
        Lane("All", f"{hourly}\nmisfire: {{catchUp: All, maxCatchUp: 3}}", ("maxCatchUp: 3, oldest first",)),
        Lane("Skip", f"{hourly}\nmisfire: {{catchUp: Skip}}", ("no slot that is more than 10 s late",)),
        Lane("startingDeadline: 10m", f"{hourly}\nmisfire: {{startingDeadline: 10m}}", ("07:00 is 15 minutes late",)),
    ]  # fmt: skip
    away = (DAY + 2 * HOUR + 30 * MINUTE, DAY + 7 * HOUR + 15 * MINUTE)
    return _timelines(
        "misfire: an hourly job, and no replica from 02:30 to 07:15",
        lanes, DAY + 40 * MINUTE, DAY + 9 * HOUR + 20 * MINUTE, HOUR, ending, [away],
    )  # fmt: skip


def retries() -> str:
    """One slot whose attempts fail after five seconds each."""

    def failing(_: Run) -> tuple[Micros, AttemptEnd]:
        return 5 * SECOND, AttemptEnd.FAILED

    def succeeding_at_fourth(run: Run) -> tuple[Micros, AttemptEnd]:
        return 5 * SECOND, AttemptEnd.SUCCEEDED if run.attempt == 4 else AttemptEnd.FAILED

    once = 'triggers: [{at: "2026-11-16T00:00:00Z"}]'
    fixed = f"{once}\nretry: {{fixed: {{intervals: [10s, 1m, 5m]}}}}"
    lanes = [
        (Lane("exponential", once, ("10s, doubling, up to 10m,", "six retries (the default)")), failing),
        (Lane("exponential", once, ("no retry after a success",)), succeeding_at_fourth),
        (Lane("fixed: [10s, 1m, 5m]", fixed, ("one retry after each wait",)), failing),
        (Lane("timeouts.total: 3m", f"{once}\ntimeouts: {{total: 3m}}", ("no retry starts later",)), failing),
    ]
    begin, end = DAY - 20 * SECOND, DAY + 12 * MINUTE
    title = "retry: a run whose attempts fail after five seconds"
    sheet = Sheet(WIDTH, 64 + 54 * len(lanes) + 48, title)
    sheet.text(20, 30, title, size=15, bold=True)
    across = _across(begin, end)
    bottom = 52 + 54 * len(lanes)
    for minute in range(13):
        x = across(DAY + minute * MINUTE)
        sheet.line(x, 52, x, bottom)
        sheet.text(x, bottom + 16, f"{minute} min" if minute % 2 == 0 else "", size=11, ink=FAINT, anchor="middle")
    for index, (lane, ending) in enumerate(lanes):
        story = tell(lane.spec, DAY - SECOND, DAY + HOUR, ending)
        _lane(sheet, lane, 52 + 54 * index, story, across, end)
    _legend(sheet, bottom + 40, ("succeeded", GREEN), ("failed", RED))
    return sheet.svg()


def _timelines(
    title: str, lanes: Sequence[Lane], begin: Instant, end: Instant, grid: Micros, ending: Ending,
    away: Sequence[tuple[Instant, Instant]] = (),
) -> str:  # fmt: skip
    stories = [tell(lane.spec, begin, end, ending, away) for lane in lanes]
    heights = [54 + 12 * (_rows(story) - 1) for story in stories]
    bottom = 52 + sum(heights)
    sheet = Sheet(WIDTH, bottom + 60, title)
    sheet.text(20, 30, title, size=15, bold=True)
    across = _across(begin, end)
    for start, stop in away:
        sheet.box(across(start), 52, across(stop) - across(start), bottom - 52, GREY, opacity=0.22)
        sheet.text((across(start) + across(stop)) / 2, 48, "no replica", size=11, ink=FAINT, anchor="middle")
    mark = -(-begin // grid) * grid
    while mark <= end:
        sheet.line(across(mark), 52, across(mark), bottom)
        sheet.text(
            across(mark), bottom + 16, f"{to_datetime(mark):%H:%M}", size=11, ink=FAINT, anchor="middle"
        )  # fmt: skip
        mark += grid
    top = 52
    for lane, story, height in zip(lanes, stories, heights, strict=True):
        _lane(sheet, lane, top, story, across, end)
        top += height
    kinds = [("slot", INK), ("run", GREEN)]
    if any(attempt.end is AttemptEnd.CANCELLED for story in stories for attempt in story.attempts):
        kinds.append(("cancelled", AMBER))
    kinds.append(("slot counted as Missed", RED) if away else ("slot counted as SkippedOverlap", RED))
    _legend(sheet, bottom + 42, *kinds)
    return sheet.svg()


def _across(begin: Instant, end: Instant) -> Callable[[Instant], float]:
    def across(instant: Instant) -> float:
        return round(LEFT + (instant - begin) / (end - begin) * (WIDTH - LEFT - RIGHT), 1)

    return across


def _rows(story: Story) -> int:
    """Return how many attempts run at the same time at most."""
    return max(
        sum(other.started <= attempt.started < other.ends for other in story.attempts) for attempt in story.attempts
    )  # fmt: skip


def _lane(sheet: Sheet, lane: Lane, top: float, story: Story, across: Callable[[Instant], float], end: Instant) -> None:
    sheet.line(20, top, WIDTH - 20, top)
    sheet.text(20, top + 20, lane.name, bold=True, mono=True, size=12)
    for index, words in enumerate(lane.caption):
        sheet.text(20, top + 34 + 13 * index, words, size=11, ink=FAINT)
    passed_over = {*story.missed, *story.skipped}
    for slot in story.slots:
        sheet.slot(across(slot), top + 16, RED if slot in passed_over else INK)
        if slot in passed_over:
            sheet.cross(across(slot), top + 27, RED)
    rows: list[Instant] = []
    for attempt in story.attempts:
        row = next((index for index, ends in enumerate(rows) if ends <= attempt.started), len(rows))
        rows[row : row + 1] = [attempt.ends]
        x = across(attempt.started)
        width = max(across(min(attempt.ends, end)) - x, 4)
        sheet.box(x, top + 21 + 12 * row, width, 11, COLOURS[attempt.end])
        if attempt.slot < attempt.started - 30 * SECOND and attempt.number == 1:
            moment = to_datetime(attempt.slot)
            label = f"{moment:%H:%M}" if width > 26 else f"{moment:%H}h"
            sheet.text(x + width / 2, top + 44 + 12 * row, label, size=9, ink=FAINT, anchor="middle")


def _legend(sheet: Sheet, y: float, *entries: tuple[str, str]) -> None:
    x = float(LEFT)
    for words, colour in entries:
        if "slot" in words:
            sheet.slot(x + 6, y, colour)
        else:
            sheet.box(x, y - 10, 14, 11, colour)
        sheet.text(x + 20, y, words, size=11, ink=FAINT)
        x += 36 + 6.2 * len(words)


# ---------------------------------------------------------------- triggers


def triggers() -> str:
    """One day of several triggers: each alone, all together, with an excluded window, and with jitter."""
    cron = '{cron: "0 9-17/2 * * *"}'
    every = '{every: 5h, anchor: "2026-11-16T00:00:00Z"}'
    once = '{at: "2026-11-16T13:20:00Z"}'
    together = f"triggers: [{cron}, {every}, {once}]"
    window = '{from: "2026-11-16T12:00:00Z", to: "2026-11-16T15:00:00Z"}'
    begin, end, jitter = DAY - SECOND, DAY + 24 * HOUR - SECOND, 40 * MINUTE
    everything = slots_between(together, begin, end)
    kept = slots_between(f"{together}\nexclude: [{window}]", begin, end)
    lanes = [
        ('cron: "0 9-17/2 * * *"', "every two hours from 9 to 17", slots_between(f"triggers: [{cron}]", begin, end)),
        ("every: 5h", "with its anchor at midnight", slots_between(f"triggers: [{every}]", begin, end)),
        ("at: 13:20", "once", slots_between(f"triggers: [{once}]", begin, end)),
        ("all three", "the job's slots are their union", everything),
        ("exclude: 12:00 to 15:00", "counted as Excluded", everything),
        ("jitter: 40m", "each slot starts up to 40m later", kept),
    ]
    title = "triggers: the slots of one day"
    top, height = 52, 44
    bottom = top + height * len(lanes)
    sheet = Sheet(WIDTH, bottom + 56, title)
    sheet.text(20, 30, title, size=15, bold=True)
    across = _across(begin, end)
    for hour in range(0, 25, 3):
        x = across(DAY + hour * HOUR)
        sheet.line(x, top, x, bottom)
        sheet.text(x, bottom + 16, f"{hour:02}:00", size=11, ink=FAINT, anchor="middle")
    left_out = across(DAY + 12 * HOUR)
    sheet.box(left_out, top + 4 * height, across(DAY + 15 * HOUR) - left_out, height, GREY, opacity=0.22)
    for index, (name, caption, slots) in enumerate(lanes):
        y = top + height * index
        sheet.line(20, y, WIDTH - 20, y)
        sheet.text(20, y + 18, name, bold=True, mono=True, size=12)
        sheet.text(20, y + 33, caption, size=11, ink=FAINT)
        for slot in slots:
            excluded = index == 4 and slot not in kept
            sheet.slot(across(slot), y + 24, RED if excluded else INK)
            if index == 5:
                due = slot + jitter_of("uid", slot, jitter)
                sheet.box(across(slot), y + 26, across(due) - across(slot), 2, GREY, radius=0)
                sheet.box(across(due), y + 26, 10, 10, GREEN)
    _legend(sheet, bottom + 40, ("slot", INK), ("excluded slot", RED), ("start", GREEN))
    return sheet.svg()


# ---------------------------------------------------------------- daylight saving time


def dst(title: str, begin: datetime, zone: str) -> str:
    """Five hours in which the clocks of a time zone change, and the slots in them."""
    first, last = to_instant(begin), to_instant(begin) + 5 * HOUR
    triggers: list[tuple[str, str, Cron | Every]] = [
        ("0 30 1 * * ?", "at 01:30", Cron("0 30 1 * * ?", zone)),
        ("0 30 2 * * ?", "at 02:30", Cron("0 30 2 * * ?", zone)),
        ("0 */20 1-2 * * ?", "every 20 minutes, because of */", Cron("0 */20 1-2 * * ?", zone)),
        ("0 0 * * * ?", "every hour, on the hour", Cron("0 0 * * * ?", zone)),
        ("every: 45m", "intervals ignore clock changes", Every(45 * 60, begin)),
    ]
    top, height = 84, 42
    bottom = top + height * len(triggers)
    sheet = Sheet(WIDTH, bottom + 44, title)
    sheet.text(20, 30, title, size=15, bold=True)
    across = _across(first - 8 * MINUTE, last + 8 * MINUTE)
    local = zone_info(zone)
    before: timedelta | None = None
    for hour in range(6):
        instant = first + hour * HOUR
        moment = to_datetime(instant).astimezone(local)
        changed = before is not None and moment.utcoffset() != before
        sheet.line(across(instant), top - 14, across(instant), bottom, ink=BLUE if changed else EDGE)
        ink = BLUE if changed else INK
        sheet.text(across(instant), top - 20, f"{moment:%H:%M}", size=12, ink=ink, anchor="middle", bold=changed)
        if changed:
            sheet.text(across(instant), top - 35, "the clocks change", size=11, ink=BLUE, anchor="middle")
        sheet.text(
            across(instant), bottom + 18, f"{to_datetime(instant):%H:%M}Z", size=11, ink=FAINT, anchor="middle"
        )  # fmt: skip
        before = moment.utcoffset()
    sheet.text(20, top - 20, "local time", size=11, ink=FAINT)
    sheet.text(20, bottom + 18, "UTC", size=11, ink=FAINT)
    for index, (name, caption, trigger) in enumerate(triggers):
        y = top + height * index
        sheet.line(20, y, WIDTH - 20, y)
        sheet.text(20, y + 18, name, bold=True, mono=True, size=12)
        sheet.text(20, y + 33, caption, size=11, ink=FAINT)
        slot = trigger.next_instant(first - 1)
        while slot is not None and slot <= last:
            sheet.slot(across(slot), y + 20, GREEN)
            sheet.text(
                across(slot), y + 33, f"{to_datetime(slot).astimezone(local):%H:%M}", size=9, ink=FAINT, anchor="middle"
            )  # fmt: skip
            slot = trigger.next_instant(slot)
    return sheet.svg()


# ---------------------------------------------------------------- how a slot becomes a run


def slot_to_run() -> str:
    """The path from a trigger to the history of a run."""
    sheet = Sheet(WIDTH, 330, "How a slot becomes a run")

    def station(x: float, y: float, name: str, *caption: str, ink: str = BLUE, width: float = 150) -> None:
        sheet.box(x, y, width, 74, "#ffffff", edge=ink, radius=6)
        sheet.text(x + width / 2, y + 21, name, bold=True, anchor="middle")
        for index, words in enumerate(caption):
            sheet.text(x + width / 2, y + 39 + 14 * index, words, size=11, ink=FAINT, anchor="middle")

    sheet.text(20, 30, "How a slot becomes a run", size=15, bold=True)
    columns = [20, 190, 360, 530, 690]
    station(columns[0], 56, "trigger", "cron, every, at, after,", "following, manual")
    station(columns[1], 56, "slot", "an instant in UTC, after", "exclude and jitter")
    station(columns[2], 56, "claim", "one replica owns it", "under a lease")
    station(columns[3], 56, "run", "if concurrencyPolicy", "and misfire allow it", width=140)
    station(columns[4], 56, "attempt", "inline or in a Pod,", "with a time limit")
    for index, width in enumerate((150, 150, 150, 140)):
        sheet.arrow(columns[index] + width + 2, 93, columns[index + 1] - 2, 93)

    station(columns[4], 206, "outcome", "Succeeded, Failed", "or Cancelled", ink=GREEN)
    station(columns[3], 206, "hooks", "onSuccess, onFailure,", "at least once", width=140)
    station(columns[2], 206, "history", "in the store: outcome,", "times, output")
    station(columns[1], 206, "status", "conditions, next run,", "Events, metrics")
    sheet.arrow(765, 132, 765, 204)
    sheet.arrow(columns[4] - 2, 243, columns[3] + 142, 243)
    sheet.arrow(columns[3] - 2, 243, columns[2] + 152, 243)
    sheet.arrow(columns[2] - 2, 243, columns[1] + 152, 243)
    sheet.line(720, 132, 720, 166, ink=FAINT, dashed=True)
    sheet.line(720, 166, 600, 166, ink=FAINT, dashed=True)
    sheet.arrow(600, 166, 600, 132, dashed=True)
    sheet.text(592, 170, "failed: the next attempt, after a wait", size=11, ink=FAINT, anchor="end")
    sheet.text(20, 312, "If the replica dies, another one claims the slot when the lease expires. It starts the next "
               "attempt, or adopts the running Pod.", size=12, ink=FAINT)  # fmt: skip
    return sheet.svg()


if __name__ == "__main__":
    for name, picture in every_picture().items():
        (Path(sys.argv[1]) / name).write_text(picture, encoding="utf-8")
