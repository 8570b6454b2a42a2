"""How the plugin prints: tables for people, with colour on a terminal only, and whole objects for programs.

What comes from the cluster is somebody else's text: control characters never reach the terminal.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND, rfc3339
from scheduledjob.manifests.models import GROUP

from .formats import as_json, as_yaml, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros

RED, GREEN, YELLOW, BOLD, DIM = "31", "32", "33", "1", "2"
_COLOURS = {
    "Succeeded": GREEN,
    "Failed": RED,
    "Cancelled": YELLOW,
    "SkippedOverlap": YELLOW,
    "Missed": YELLOW,
    "suspended": YELLOW,
    "paused": YELLOW,
    "invalid": RED,
}
"""Of a cell by what stands in it."""


class Form(StrEnum):
    """What ``-o`` takes."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def is_for_people(self) -> bool:
        return self in (Form.TABLE, Form.WIDE)


def say(line: str) -> None:
    """A line for people that is no result, on standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # a command prints


def out(line: str) -> None:
    print(line)  # noqa: T201  # a command prints


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """``text`` in a colour where people see it on a terminal and did not ask for none (NO_COLOR)."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and has_colour(stream or sys.stdout) else text


def has_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def print_table(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """A heading and a line for each row; ``empty`` goes to standard error where there is none."""
    if not rows:
        say(empty)
        return
    names = list(rows[0])
    cells = [["" if row[name] is None else printable(str(row[name])) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip([name.upper() for name in names], *cells, strict=True)]
    out(coloured(_line([name.upper() for name in names], widths), BOLD))
    for line in cells:
        out(_line(line, widths))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    last = len(cells) - 1
    padded = (cell if place == last else cell + " " * (widths[place] - len(cell)) for place, cell in enumerate(cells))
    return "  ".join(_painted(cell) for cell in padded).rstrip()


def _painted(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    return cell if colour is None else coloured(cell, colour)


def print_objects(objects: Sequence[Mapping[str, Any]], form: Form, *, one: bool = False) -> None:
    """Objects of the cluster as JSON, as YAML or by their names; ``one``: by itself, else in a List."""
    if form is Form.NAME:
        for each in objects:
            out(f"scheduledjob.{GROUP}/{each['metadata']['name']}")
        return
    plain = [without_managed_fields(each) for each in objects]
    print_plain(plain[0] if one else {"apiVersion": "v1", "kind": "List", "items": plain}, form)


def print_plain(value: Any, form: Form) -> None:
    """Plain data as JSON or YAML."""
    sys.stdout.write(as_json(value) + "\n" if form is Form.JSON else as_yaml(value))


def without_managed_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """As kubectl shows an object: without what only server-side apply reads."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}


def age(since: Instant | None, now: Instant) -> str:
    """``5d``, ``3h``, ``12m``, ``40s``: as kubectl tells an age."""
    if since is None:
        return ""
    length = max(0, now - since)
    for unit, name, enough in ((DAY, "d", 2), (HOUR, "h", 2), (MINUTE, "m", 2), (SECOND, "s", 0)):
        if length >= enough * unit:
            return f"{length // unit}{name}"
    return "0s"


def took(length: Micros) -> str:
    """A length for people: milliseconds below a second, tenths below a minute."""
    if length < SECOND:
        return f"{length // 1000}ms"
    return format_duration(length // 100_000 * 100_000 if length < MINUTE else length // SECOND * SECOND)


def second(instant: Instant | None) -> str:
    """To the second; empty where there is none."""
    return "" if instant is None else rfc3339(instant // SECOND * SECOND)
