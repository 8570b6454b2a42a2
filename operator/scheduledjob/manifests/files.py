"""Finds manifest files and reads their text.

A path on a command line may be anything: a directory with a link to itself, a pipe that never ends, a database of ten
gigabytes, text in Latin-1. So no directory is visited twice, files are read up to a limit, and a decoding error gives
the place of the first bad byte.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".yaml", ".yml", ".json")
SIZE_LIMIT = 1 << 20
"""Maximum bytes of one file."""
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
"""JSON's escape of a character beyond U+FFFF. YAML, otherwise a superset of JSON, has another escape for it."""

_NOT_AS_IT_IS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON allows without an escape, but that YAML refuses or takes for the end of a line."""

FILES_LIMIT = 10_000
"""Maximum files of one directory, including all directories below it."""


def discover(path: str) -> Iterator[str | Problem]:
    """Yield ``path`` itself if it is a file, else the manifest files below it, sorted, without hidden ones."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        yield Problem(path, 0, 0, "", _reason(error))
        return
    if not stat.S_ISDIR(status.st_mode):
        yield path
        return
    found = 0
    visited: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        directory = pending.pop()
        try:
            status = os.stat(directory)
            identity = (status.st_dev, status.st_ino)
            if identity in visited:
                continue
            visited.add(identity)
            with os.scandir(directory) as listing:
                entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            yield Problem(directory, 0, 0, "", _reason(error))
            continue
        below: list[str] = []
        for entry in entries:
            try:
                is_directory = entry.is_dir()
            except OSError:  # a link to itself
                is_directory = False
            if is_directory:
                below.append(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                found += 1
                if found > FILES_LIMIT:
                    yield Problem(path, 0, 0, "", f"more than {FILES_LIMIT} manifest files", "name a smaller directory")
                    return
                yield entry.path
        pending.extend(reversed(below))


def read(path: str) -> str | Problem:
    """Return the text of a file, without a byte order mark."""
    try:
        # O_NONBLOCK, so that a pipe without a writer in a directory does not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                os.set_blocking(descriptor, True)
                if not stat.S_ISFIFO(mode) or not path.startswith("/dev/"):
                    return Problem(path, 0, 0, "", "not a regular file", "name a file or a directory")
            data = file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        return Problem(path, 0, 0, "", _reason(error))
    if len(data) > SIZE_LIMIT:
        return Problem(path, 0, 0, "", f"larger than {SIZE_LIMIT >> 20} MiB", "split it into several files")
    return decode(path, data)


def decode(path: str, data: bytes) -> str | Problem:
    """Return the text of these bytes, or the problem with them."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem(path, 1, 1, "", "the file is UTF-16", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].removeprefix(b"\xef\xbb\xbf")
        line, column = _after(before.decode())
        bad = error.object[error.start]
        return Problem(path, line, column, "", f"byte 0x{bad:02X} is not UTF-8", "save the file as UTF-8")
    if "\0" in text:
        line, column = _after(text[: text.index("\0")])
        return Problem(path, line, column, "", "a NUL character", "YAML is text: remove it")
    return as_yaml(text) if path.lower().endswith(".json") else text


def as_yaml(json: str) -> str:
    """Return the same JSON in a form that YAML reads in the same way, with the same lines."""
    return _PAIR.sub(_joined, _NOT_AS_IT_IS.sub(lambda found: f"\\u{ord(found[0]):04X}", json))


def _joined(pair: re.Match[str]) -> str:
    high, low = int(pair[2], 16), int(pair[3], 16)
    return f"{pair[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"


def _after(before: str) -> tuple[int, int]:
    """Return the line and column of what follows this text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or directory"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    # Python's own message depends on its version.
    return "a path can't contain a NUL character" if "null" in str(error) else str(error)
