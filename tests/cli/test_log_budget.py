"""What is logged for one namespace does not drown what others need to read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog

from scheduledjob.cli.shared import command_log
from scheduledjob.cli.shared.command_log import LogBudget
from scheduledjob.jobs.built_in_kind import JobContext
from scheduledjob.jobs.python.print_kind import PRINT
from tests.jobs.shell_support import attempt_of
from tests.support.moved_clock import MovedClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def lines(clock: MovedClock) -> Iterator[list[str]]:
    """What is logged with a budget of 1,000 bytes."""
    written: list[str] = []
    before = structlog.get_config()
    command_log.configure("info", written.append, str, form="json", budget=LogBudget(1_000, clock))
    yield written
    structlog.configure(**before)


def test_a_noisy_namespace_is_cut_and_a_line_says_how_much(lines: list[str], clock: MovedClock) -> None:
    log = structlog.get_logger("engine")
    for _ in range(1_000):
        log.warning("a hook failed", slug="noisy/job", reason="x" * 80)
    log.info("printed", slug="quiet/job", text="hello")
    log.info("the operator's own line")
    events = [json.loads(line) for line in lines]
    cut = sum(event.get("slug") == "noisy/job" for event in events)
    assert 5 < cut < 10
    assert [event["event"] for event in events[cut:]] == ["printed", "the operator's own line"]
    lines.clear()
    clock.now += LogBudget.WINDOW
    log.info("printed", slug="noisy/job", text="again")
    told, again = map(json.loads, lines)
    assert (told["namespace"], told["lines"]) == ("noisy", 1_000 - cut)
    assert told["bytes"] > 100 * told["lines"]
    assert again["text"] == "again"
    clock.now += LogBudget.WINDOW
    log.info("nothing was left out meanwhile")
    assert len(lines) == 3


def test_errors_are_always_logged(lines: list[str]) -> None:
    for _ in range(100):
        structlog.get_logger().error("this version can't read a schedule", slug="noisy/job", error="x" * 80)
    assert len(lines) == 100


def test_many_namespaces_together_are_bounded_too(lines: list[str]) -> None:
    for number in range(100):
        structlog.get_logger().info("printed", slug=f"team-{number}/job", text="x" * 900)
    assert len(lines) == LogBudget.SHARES


def test_many_noisy_namespaces_leave_room_for_a_quiet_one(lines: list[str]) -> None:
    for number in range(100):
        for length in (900, 100, 50):
            structlog.get_logger().info("printed", slug=f"team-{number}/job", text="x" * length)
    lines.clear()
    for _ in range(10):
        structlog.get_logger().info("printed", slug="quiet/job", text="hello")
    assert len(lines) == 1


def test_without_a_budget_every_line_is_logged() -> None:
    written: list[str] = []
    before = structlog.get_config()
    command_log.configure("info", written.append, str)
    for _ in range(100):
        structlog.get_logger().info("printed", slug="noisy/job", text="x" * 9_000)
    structlog.configure(**before)
    assert len(written) == 100


async def test_the_operator_finds_the_slug_in_what_a_print_job_prints() -> None:
    written: list[str] = []
    executor = PRINT.make_executor(JobContext(write=written.append))
    assert executor is not None
    attempt = attempt_of("")
    attempt.params = {"text": "two words"}
    await executor.run(attempt)
    attempt.params = {}
    await executor.run(attempt)
    assert [line.split(None, 2)[1] for line in written] == ["team-a/nightly"] * 2
