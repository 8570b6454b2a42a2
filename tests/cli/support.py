"""`scheduledjob run` as a real process. Its output is read as it is written, and tests wait for lines."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

PROGRAM = str(Path(sys.executable).with_name("scheduledjob"))
PATIENCE = 60.0
"""Seconds after which a waiting test fails."""


def job(name: str, trigger: str = "every: 1s", what: str = "", *, namespace: str = "", more: str = "") -> str:
    """A manifest in one document; without `what` it prints its name."""
    what = what or f"custom: {{kind: print, params: {{text: this is {name}}}}}"
    where = f", namespace: {namespace}" if namespace else ""
    return f"""---
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {{name: {name}{where}}}
spec:
  triggers:
    - {trigger}
  job:
    {what}
{more}"""


class Running:
    """A process of the program. Threads read its output, so that it never blocks."""

    def __init__(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
        self.runs: list[dict[str, Any]] = []
        """Lines of standard output so far, each of which must be JSON."""
        self.errors: list[str] = []
        self._news: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout: IO[str] = self._process.stdout
        self._stderr: IO[str] = self._process.stderr
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self.stdout), ("err", self._stderr))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        self.stdout.close()
        self._stderr.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            self._news.put((name, line.rstrip("\n")))
        self._news.put((name, None))

    def wait_for_run(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the next run that fits, and return it."""
        self._wait(lambda name, line: name == "out" and fits(self.runs[-1]))
        return self.runs[-1]

    def wait_for_error(self, part: str) -> str:
        """Wait for the next line of standard error that contains a text, and return it."""
        self._wait(lambda name, line: name == "err" and part in line)
        return self.errors[-1]

    def listen(self) -> None:
        """Take a line if there is one now or soon."""
        with contextlib.suppress(queue.Empty):
            name, line = self._news.get(timeout=0.05)
            if line is not None:
                self._take(name, line)

    def _wait(self, fits: Callable[[str, str], bool]) -> None:
        end = time.monotonic() + PATIENCE
        ended = 0
        while ended < 2:
            try:
                name, line = self._news.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if line is None:
                ended += 1
                continue
            self._take(name, line)
            if fits(name, line):
                return
        raise AssertionError(f"this did not come\nruns: {self.runs[-10:]}\nerrors: {self.errors[-20:]}")

    def _take(self, name: str, line: str) -> None:
        if name == "err":
            self.errors.append(line)
        else:
            self.runs.append(json.loads(line))

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, read the rest of the output, and return the exit code."""
        if number is not None:
            self._process.send_signal(number)
        code = self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join()
        while not self._news.empty():
            name, line = self._news.get()
            if line is not None:
                self._take(name, line)
        return code


def names(runs: list[dict[str, Any]]) -> set[str]:
    return {run["name"] for run in runs}
