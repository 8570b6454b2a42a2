"""The examples for a cluster: each is valid, and does what its comments say."""

from __future__ import annotations

import importlib
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scheduledjob import Cron, Task
from scheduledjob.domain.time.zone_data import zone_info
from scheduledjob.jobs.python.python_job import ENTRY_POINT_GROUP
from scheduledjob.manifests.loader import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.manifests.models import ScheduledJob

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
PYTHON = EXAMPLES / "custom-python"


def jobs_in(path: Path) -> dict[str, ScheduledJob]:
    loaded = load([str(path)])
    assert loaded.problems == []
    return {name: found.job for (_, name), found in loaded.jobs.items()}


def slots(cron: Cron, start: datetime, end: datetime) -> Iterator[datetime]:
    at = cron.next(start)
    while at is not None and at < end:
        yield at
        at = cron.next(at)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_says_what_it_shows(path: Path) -> None:
    assert jobs_in(path)
    assert path.read_text().startswith("# ")


def test_the_readme_lists_every_example() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"]({path.name}" in listed, path.name


def test_names_are_unique_so_that_all_can_be_applied_at_once() -> None:
    names = [name for path in FILES for name in jobs_in(path)]
    assert len(names) == len(set(names)) >= 10


def test_wages_are_paid_once_a_week_when_the_clocks_change() -> None:
    (trigger,) = jobs_in(EXAMPLES / "payroll.yaml")["payroll"].spec.triggers
    assert trigger.cron is not None
    cron = Cron(trigger.cron, trigger.time_zone or "UTC")
    year = list(slots(cron, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)))
    zone = zone_info("Europe/Lisbon")
    sundays = [datetime(2026, 1, 4).date() + timedelta(weeks=week) for week in range(52)]  # noqa: DTZ001  # a date
    assert [at.astimezone(zone).date() for at in year] == sundays
    odd = [at for at in year if at.astimezone(zone).strftime("%H:%M") != "01:30"]
    assert odd == [datetime(2026, 3, 29, 1, 0, tzinfo=UTC)]
    assert datetime(2026, 10, 25, 0, 30, tzinfo=UTC) in year


def test_a_herd_is_spread_by_name() -> None:
    jobs = jobs_in(EXAMPLES / "herd-spread.yaml")
    (trigger,) = jobs["herd-spread-nightly"].spec.triggers
    assert trigger.cron is not None
    after = datetime(2026, 1, 1, tzinfo=UTC)
    starts = [Cron(trigger.cron, seed=f"team-{number}/nightly").next(after) for number in range(200)]
    assert all(start is not None and start.hour <= 5 for start in starts)
    assert len(set(starts)) > 120  # of 360 minutes; 200 at random meet about 154 of them


def test_the_pipeline_is_whole() -> None:
    jobs = jobs_in(EXAMPLES / "pipeline.yaml")
    for job in jobs.values():
        for trigger in job.spec.triggers:
            assert trigger.following is None or trigger.following.name in jobs


async def test_the_python_job_is_announced_under_the_name_that_the_manifest_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(PYTHON))
    announced = tomllib.loads((PYTHON / "pyproject.toml").read_text())["project"]["entry-points"][ENTRY_POINT_GROUP]
    ((_, job),) = jobs_in(PYTHON / "job.yaml").items()
    custom, payload = job.spec.job.custom, job.spec.payload
    assert custom is not None
    assert payload is not None
    module, _, name = announced[custom.kind].partition(":")
    function = getattr(importlib.import_module(module), name)
    task = Task("default/word-count", custom.kind, payload.encode(), 0, 1, 1, "r", params=custom.params or {})
    returned = await function(task)
    assert returned is task
    assert returned.output == b"5 words\n"
    task.payload = None
    with pytest.raises(ValueError, match=r"set spec\.payload"):
        await function(task)
