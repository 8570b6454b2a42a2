"""One name for one thing: no two classes of the package have the same name, and no two modules."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "operator" / "scheduledjob"
STORE_MODULES = {
    "store", "schedules", "claims", "settling", "presence", "history", "hook_calls", "clock", "reconciling", "wakes",
}  # fmt: skip
"""Modules that all stores have. Two of them implement a protocol of ``engine``, whose module has the same name."""


def clashes(places: dict[str, list[str]]) -> str:
    """A line for each name that occurs more than once."""
    return "\n".join(f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1)


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert len(places) > 300
    assert not clashes(places), f"two classes have the same name:\n{clashes(places)}"


def test_no_two_modules_have_the_same_name() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        is_alike = place.parts[0] == "stores" and path.stem in STORE_MODULES
        if path.stem != "__init__" and not is_alike:
            places[path.stem].append(str(place))
    assert len(places) > 150
    assert not clashes(places), f"two modules have the same name:\n{clashes(places)}"
