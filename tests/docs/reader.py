"""A reader who does what a page says: in a shell, in a copy of the repository, in the order of the page.

The copy is of the files that git knows, with the virtual environment that the tests run in, so that ``make venv`` has
nothing to do. The shell is one for the whole page: what is exported stays, what is put into the background goes on.
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
"""Seconds after which a command will never end."""
_VARYING = (
    (re.compile(r"\b\d{8}t\d{6}z-[0-9a-f]+\b"), "<token>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<instant>"),
    (re.compile(r"\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)?(ms|s|m|h|d)\b"), "<length>"),
    (re.compile(r"[ \t]+"), " "),
)


def copy_repository(folder: Path) -> None:
    """A checkout as a new user has it, after ``make venv``."""
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
        """``programs``: a folder of further programs that can be typed."""
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR"}}
        folders = [programs, Path(sys.executable).parent, kept["PATH"]]
        kept["PATH"] = ":".join(str(one) for one in folders if one is not None)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            # Unbuffered: what is printed and what is told as an error come in the order in which a terminal has them.
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
        """Type it and see what comes of it; AssertionError where that is not what the page says."""
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
                f"{where}\nis not what the page says:\n{command.prints}"
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
                raise AssertionError(f"line {command.line}: $ {command.typed}\ndoes not end; so far: {self._read!r}")
            part = os.read(output, 65536)
            assert part, f"line {command.line}: $ {command.typed}\nended the shell: {self._read!r}"
            self._read += part
        return match


def matches(says: str, printed: str, *, times_vary: bool) -> bool:
    """Whether this was printed; ``...`` stands for anything."""
    said, found = _lines(says, times_vary), _lines(printed, times_vary)
    return re.fullmatch(".*?".join(re.escape(part) for part in said.split("...")), found, re.DOTALL) is not None


def _lines(text: str, times_vary: bool) -> str:
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    for pattern, word in _VARYING if times_vary else ():
        text = pattern.sub(word, text)
    return text
