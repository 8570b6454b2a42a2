"""A reader who follows a page in a shell, in a copy of the repository, in the order of the page.

The copy contains the files that git tracks and the virtual environment of the tests, so ``make venv`` has nothing to
do. The whole page uses one shell: exported variables and background jobs stay.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.docs.pages import ROOT, Command, File

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE = 120.0
"""How many seconds a command may take."""
_VARYING = (
    (re.compile(r"\b\d{8}t\d{6}z-[0-9a-f]+\b"), "<token>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<instant>"),
    (re.compile(r"\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)?(ms|s|m|h|d)\b"), "<length>"),
    (re.compile(r"[ \t]+"), " "),
)


def copy_repository(folder: Path) -> None:
    """Create a checkout as a new user has it after ``make venv``."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    environment = folder / ".venv"
    environment.mkdir()
    for part in ("bin", "lib", "include"):
        (environment / part).symlink_to(Path(sys.prefix) / part)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    for stamp in (".uv", ".demo", ".installed"):
        (environment / stamp).touch()


class Reader:
    """One reader of one page."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, programs: Path | None = None
    ) -> None:
        """``programs``: a directory with more programs that can be typed."""
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR"}}
        folders = [programs, Path(sys.executable).parent, kept["PATH"]]
        kept["PATH"] = ":".join(str(part) for part in folders if part is not None)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            # Unbuffered, so that output and errors come in the same order as on a terminal.
            env=kept | {"HOME": str(folder), "TERM": "dumb", "PYTHONUNBUFFERED": "1"} | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._read = b""
        self._write("trap : INT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def save(self, file: File) -> None:
        path = self._folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")

    def type(self, command: Command) -> None:
        """Run a command. AssertionError: its exit code or its output is not the one on the page."""
        mark = uuid.uuid4().hex
        self._write(f"eval {shlex.quote(command.typed)} </dev/null; printf '\\n%s %d\\n' {mark} $?")
        if command.ends_by_interrupt:
            self._until(rb"(?s)(.+)", command)
            os.killpg(self._process.pid, signal.SIGINT)
        found = self._until(rf"(?s)(.*)\n{mark} (\d+)\n".encode(), command)
        printed, code = found[1].decode(errors="replace"), int(found[2])
        self._read = self._read[found.end() :]
        where = f"line {command.line}: $ {command.typed}\n{printed}"
        assert code in ({0, 2, 130} if command.ends_by_interrupt else {command.code}), f"exit code {code}, {where}"
        if command.prints:
            assert matches(command.prints, printed, times_vary=command.times_vary), (
                f"{where}\nis not the output on the page:\n{command.prints}"
            )

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _until(self, pattern: bytes, command: Command) -> re.Match[bytes]:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while (match := re.match(pattern, self._read)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise AssertionError(f"line {command.line}: $ {command.typed}\ndoes not end; output: {self._read!r}")
            part = os.read(output, 65536)
            assert part, f"line {command.line}: $ {command.typed}\nended the shell. Output: {self._read!r}"
            self._read += part
        return match


def matches(expected: str, printed: str, *, times_vary: bool) -> bool:
    """Return whether the output matches the page; ``...`` matches anything."""
    pattern, found = _lines(expected, times_vary), _lines(printed, times_vary)
    return re.fullmatch(".*?".join(re.escape(part) for part in pattern.split("...")), found, re.DOTALL) is not None


def _lines(text: str, times_vary: bool) -> str:
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    for pattern, word in _VARYING if times_vary else ():
        text = pattern.sub(word, text)
    return text
