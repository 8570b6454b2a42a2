"""The SQL of the store, in files of named queries beside this one."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(file: str) -> dict[str, str]:
    """The queries of ``<file>.sql`` by name."""
    return named((files(__package__) / f"{file}.sql").read_text("utf-8"))


def named(text: str) -> dict[str, str]:
    """The queries of a file by name, without their comments, which the server need not read each time."""
    _, *parts = _NAME.split(text)
    return {
        name: "\n".join(line for line in body.splitlines() if line and not line.lstrip().startswith("--")).rstrip(";")
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
