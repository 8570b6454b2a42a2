"""How commands print: tables for people, coloured on a terminal only, and whole objects for programs.

Text from a cluster was written by somebody else, so its control characters never reach the terminal.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND, rfc3339
from scheduledjob.resource_names import GROUP

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
"""The colour of a cell, by its text."""


class Form(StrEnum):
    """The values of ``-o``."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def is_for_people(self) -> bool:
        return self in (Form.TABLE, Form.WIDE)


def say(line: str) -> None:
    """Print a remark for people to standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # a command prints


def out(line: str) -> None:
    """Print a line of the result to standard output."""
    print(line)  # noqa: T201  # a command prints


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Return ``text`` in a colour if ``stream`` is a terminal and NO_COLOR is not set."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and has_colour(stream or sys.stdout) else text


def has_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def print_table(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print a heading and a line for each row; without rows, print ``empty`` to standard error."""
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
    """Print objects of the cluster as JSON, as YAML or by name. ``one`` prints a single object without a List."""
    if form is Form.NAME:
        for body in objects:
            out(f"scheduledjob.{GROUP}/{body['metadata']['name']}")
        return
    plain = [without_managed_fields(body) for body in objects]
    print_plain(plain[0] if one else {"apiVersion": "v1", "kind": "List", "items": plain}, form)


def print_plain(value: Any, form: Form) -> None:
    """Plain data as JSON or YAML."""
    sys.stdout.write(as_json(value) + "\n" if form is Form.JSON else as_yaml(value))


def without_managed_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object without ``managedFields``, as kubectl shows it."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}


def age(since: Instant | None, now: Instant) -> str:
    """Return an age as kubectl prints it: ``5d``, ``3h``, ``12m``, ``40s``."""
    if since is None:
        return ""
    length = max(0, now - since)
    for unit, name, fewest in ((DAY, "d", 2), (HOUR, "h", 2), (MINUTE, "m", 2), (SECOND, "s", 0)):
        if length >= fewest * unit:
            return f"{length // unit}{name}"
    return "0s"


def took(length: Micros) -> str:
    """Return a duration for people: milliseconds below a second, tenths of a second below a minute."""
    if length < SECOND:
        return f"{length // 1000}ms"
    return format_duration(length // 100_000 * 100_000 if length < MINUTE else length // SECOND * SECOND)


def second(instant: Instant | None) -> str:
    """Return an instant in RFC 3339, rounded down to the second; empty for None."""
    return "" if instant is None else rfc3339(instant // SECOND * SECOND)
