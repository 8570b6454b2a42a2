"""Output formats of the commands: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def short_name(slug: str) -> str:
    """Return the slug without the namespace ``default``, which people leave out."""
    return slug.removeprefix("default/")


def print_rows(rows: Sequence[Mapping[str, Any]], output: str, *, columns: Sequence[str] = (), empty: str = "") -> None:
    """Print rows with equal keys. ``columns`` are those of a table (default: all); ``empty`` is printed for no rows."""
    if output == "table":
        for line in table_lines(rows, columns) if rows else [empty]:
            print(line)  # noqa: T201  # a command prints
    else:
        print_value(list(rows), output)


def print_value(value: Any, output: str) -> None:
    """Print plain data as JSON or YAML."""
    sys.stdout.write(as_yaml(value) if output == "yaml" else as_json(value) + "\n")


def as_json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=2)


def as_yaml(value: Any, *, explicit_start: bool = False) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, explicit_start=explicit_start)
    return text


def table_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> list[str]:
    """Return a heading and a line for each row, each column as wide as its longest cell."""
    names = columns or list(rows[0])
    lines = [[name.upper() for name in names]]
    lines += [["" if row[name] is None else printable(str(row[name])) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def printable(text: str) -> str:
    """Replace control characters in text that came from a job, a server or a file."""
    return "".join(char if char.isprintable() else " " for char in text)
