"""Each example of the library, run as its first lines say, until it has shown its output."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "library"
PATIENCE = 60.0


class Example:
    """A running example, whose output is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, *parts: str) -> None:
        """Read lines until each of these texts was in one."""
        assert self.process.stdout is not None
        missing = {part for part in parts if not any(part in line for line in self.lines)}
        while missing:
            line = self.process.stdout.readline()
            assert line, f"ended without {missing}: {self.lines}"
            self.lines.append(line.rstrip("\n"))
            missing = {part for part in missing if part not in line}

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.finish()

    def finish(self) -> None:
        out, _ = self.process.communicate(timeout=PATIENCE)
        self.lines += out.splitlines()
        assert self.process.returncode == 0, self.lines
        assert "Traceback" not in out


@contextmanager
def example(name: str, *arguments: str) -> Iterator[Example]:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Example(process)
        finally:
            if process.poll() is None:
                process.kill()


def test_all_examples_are_tested() -> None:
    tested = {"client.py", "one_shots.py", "replicas.py", "report.py", "shell_and_curl.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_a_job_with_trigger_and_backoff() -> None:
    with example("report.py") as report:
        report.wait_for("the database is down", "written in attempt 2", "written in attempt 1")
        report.end(signal.SIGINT)


def test_one_shots_with_payload_and_result() -> None:
    with example("one_shots.py") as one_shots:
        one_shots.finish()
        assert one_shots.lines[0] == "scheduled: image-1, image-2, image-3, rocket"
        assert "image-2: photo-2.png resized to 640 pixels" in one_shots.lines
        assert [line for line in one_shots.lines if "to go" in line] == [f"rocket: {left} to go" for left in (2, 1, 0)]
        assert one_shots.lines[-1] == "all done"


def test_shell_and_curl() -> None:
    with example("shell_and_curl.py") as both:
        both.wait_for("GET /health", "POST /notify", "the command wrote: greet, attempt 1")
        both.end(signal.SIGTERM)


@pytest.mark.postgres
def test_several_replicas_and_a_client(postgres_dsn: str) -> None:
    with example("replicas.py", postgres_dsn) as first, example("replicas.py", postgres_dsn) as second:
        first.wait_for("is ready")
        second.wait_for("is ready")
        with example("client.py", postgres_dsn) as client:
            client.finish()
            assert client.lines[0].startswith("already scheduled: 'reminder'")
            assert client.lines[-1] == "deleted: True"
        second.end(signal.SIGTERM)
        written = sum("writes" in line for line in second.lines)
        while written + sum("writes" in line for line in first.lines) < 10:
            assert first.process.stdout is not None
            first.lines.append(first.process.stdout.readline().rstrip("\n"))
        first.end(signal.SIGINT)
        done = Counter(line.split(" ", 1)[1] for line in first.lines + second.lines)
        assert {line: count for line, count in done.items() if count > 1 and "ready" not in line} == {}
        assert sum(line.startswith("writes invoice-") for line in done) == 10


def test_a_missing_store_is_reported() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "client.py"], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr.startswith("name the store")
