"""``simulate`` draws the same starts as the engine's slots have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.cli.kubectl.plugin import execute
from scheduledjob.cli.shared import simulation
from scheduledjob.cli.shared.planned_schedule import PlannedSchedule
from scheduledjob.cli.shared.simulation import load_of
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND
from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.every import EveryTrigger

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BEGIN = 20_788 * DAY  # 2026-12-01T00:00:00Z
WINDOW = ("--from", "2026-12-01T00:00:00Z", "--to")


def schedule(*triggers: CronTrigger | EveryTrigger, jitter: int = 0, name: str = "job") -> PlannedSchedule:
    definition = Definition(kind="print", triggers=triggers, jitter=jitter)
    slots = slots_of(Plan(definition), seed=f"default/{name}", created=BEGIN)
    return PlannedSchedule("default", name, f"default/{name}", definition, slots)


def document(name: str, trigger: str, more: str = "") -> str:
    return f"""---
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {{name: {name}}}
spec:
  triggers: [{{{trigger}}}]
  job: {{custom: {{kind: print}}}}
{more}"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = execute(["simulate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@given(st.integers(1, 4000), st.integers(0, 3 * 3600), st.integers(1, 300))
def test_listed_and_counted_starts_agree(every: int, offset: int, minutes: int) -> None:
    interval = schedule(EveryTrigger(every * SECOND, BEGIN - offset * SECOND))
    begin, end = BEGIN + 30 * SECOND, BEGIN + 30 * SECOND + minutes * MINUTE
    walked = load_of([interval], begin, end)
    steps, simulation.STEPS = simulation.STEPS, 0
    try:
        counted = load_of([interval], begin, end)
    finally:
        simulation.STEPS = steps
    assert walked.minutes == counted.minutes
    assert walked.minutes.total() == len(
        [slot for slot in range(BEGIN - offset * SECOND, end, every * SECOND) if slot >= begin]
    )


def test_jitter_moves_starts_and_loses_none() -> None:
    herd = [schedule(CronTrigger("0 0 * * *"), name=f"job-{number}", jitter=HOUR) for number in range(300)]
    load = load_of(herd, BEGIN, BEGIN + DAY)
    assert load.minutes.total() == 300
    assert max(load.minutes.values()) < 20
    assert all(BEGIN // MINUTE <= minute <= BEGIN // MINUTE + 60 for minute in load.minutes)
    # Slots before the window may start in it.
    late = load_of(herd, BEGIN + 30 * MINUTE, BEGIN + DAY)
    assert 0 < late.minutes.total() < 300


def test_the_busiest_minutes_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(
        "".join(document(f"midnight-{number}", 'cron: "0 0 * * *"') for number in range(9))
        + document("spread", 'cron: "H * * * *"')
        + document("stopped", "every: 1s", "  suspend: true\n")
        + document("after", "following: {name: spread}")
    )
    code, out, err = run(capsys, "-f", tmp_path, *WINDOW, "2026-12-02T00:00:00Z")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == ("12 jobs, 33 starts from 2026-12-01T00:00:00Z to 2026-12-02T00:00:00Z, at most 9 in a minute")
    assert lines[3].startswith("12-01 00:00  |█")
    assert lines[3].endswith("|    10     9")
    assert len(lines) == 3 + 24 + 2 + 5
    busiest = next(line for line in lines if "2026-12-01T00:00:00Z      9" in line)
    assert "default/midnight-0, default/midnight-1" in busiest
    assert busiest.endswith("and 3 more")
    assert "suspended: stopped" in err
    assert "follow other runs are not counted: after" in err


def test_a_short_window_has_a_bar_for_each_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(document("a", 'cron: "*/15 * * * *"') + document("b", 'cron: "30 * * * *"'))
    _, out, _ = run(capsys, "-f", tmp_path, *WINDOW, "2026-12-01T01:00:00Z")
    bars = [line for line in out.splitlines() if line.startswith("12-01 ")]
    assert len(bars) == 60
    assert bars[0] == f"12-01 00:00  {'█' * 30} 1"
    assert bars[1] == "12-01 00:01"
    assert bars[30] == f"12-01 00:30  {'█' * 60} 2"


def test_the_load_as_plain_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(document("a", 'cron: "0 12 * * *"') + document("b", "after: 12h"))
    _, out, _ = run(capsys, "-f", tmp_path, *WINDOW, "2026-12-02T00:00:00Z", "-n", "team", "-o", "json")
    noon = {"minute": "2026-12-01T12:00:00Z", "starts": 2, "jobs": {"team/a": 1, "team/b": 1}}
    assert json.loads(out) == {
        "from": "2026-12-01T00:00:00Z",
        "to": "2026-12-02T00:00:00Z",
        "jobs": 2,
        "starts": 2,
        "busiest": [noon],
        "minutes": [noon],
    }
    _, out, _ = run(capsys, "-f", tmp_path, *WINDOW, "2026-12-02T00:00:00Z", "-o", "name")
    assert out == "2026-12-01T12:00:00Z\n"


def test_an_invalid_manifest_is_reported_and_the_others_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.yaml").write_text(document("a", 'cron: "0 12 * * *"') + document("b", "cron: never"))
    code, out, err = run(capsys, "-f", tmp_path, *WINDOW, "2026-12-02T00:00:00Z")
    assert code == 2
    assert out.startswith("1 job, 1 start from")
    assert "jobs.yaml:" in err


def test_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(document("a", 'cron: "0 0 1 1 *"'))
    code, out, _ = run(capsys, "-f", tmp_path, *WINDOW, "2026-12-02T00:00:00Z")
    assert (code, len(out.splitlines())) == (0, 1)
    assert execute(["simulate", "-f", str(tmp_path), *WINDOW, "2027-12-02T00:00:00Z"]) == 2
