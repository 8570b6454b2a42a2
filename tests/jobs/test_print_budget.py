"""What print jobs write into the operator's log is bounded for each namespace."""

from __future__ import annotations

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.built_in_kind import JobContext
from scheduledjob.jobs.python.print_kind import PRINT, SHARES, PrintBudget


def attempt_in(namespace: str, text: str) -> Attempt:
    return Attempt(
        run_id="run",
        uid="6c7f",
        namespace=namespace,
        name="noisy",
        slot=1_796_119_200_000_000,
        attempt=1,
        version=1,
        deadline=float("inf"),
        timeout=None,
        params={"text": text},
        payload=None,
        references=None,
    )


async def test_a_namespace_that_prints_a_lot_leaves_room_for_another() -> None:
    lines: list[str] = []
    executor = PRINT.make_executor(JobContext(write=lines.append, print_budget=10_000))
    assert executor is not None
    for _ in range(1_000):
        result: Result = await executor.run(attempt_in("noisy", "x" * 900))
        assert result.ok
        assert len(result.output) > 900  # history keeps it
    await executor.run(attempt_in("quiet", "hello"))
    assert sum("x" in line for line in lines) == 10
    assert lines[-1].endswith("quiet/noisy hello\n")


async def test_one_line_says_how_much_was_left_out_and_a_new_window_begins() -> None:
    lines: list[str] = []
    budget = PrintBudget(lines.append, 10)
    for _ in range(3):
        budget.write("team-a", "12345\n")
    budget.write("team-b", "é" * 10)  # 20 bytes
    assert lines == ["12345\n"]
    budget.end_window()
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "left out 2 lines (12 bytes) of the print jobs in namespace team-a",
        "left out 1 line (20 bytes) of the print jobs in namespace team-b",
    ]
    lines.clear()
    budget.end_window()
    budget.write("team-a", "12345\n")
    assert lines == ["12345\n"]
    budget.end_window()
    assert lines == ["12345\n"]


async def test_many_namespaces_together_are_bounded_too() -> None:
    lines: list[str] = []
    budget = PrintBudget(lines.append, 10)
    for number in range(100):
        budget.write(f"team-{number}", "1234567890")
    assert len(lines) == SHARES
    budget.end_window()
    # A line for each namespace of which something was left out.
    assert len(lines) == 100


async def test_without_a_budget_every_line_is_written() -> None:
    lines: list[str] = []
    executor = PRINT.make_executor(JobContext(write=lines.append))
    assert executor is not None
    for _ in range(100):
        await executor.run(attempt_in("team-a", "x" * 9_000))
    assert len(lines) == 100
