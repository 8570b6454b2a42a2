"""No modules of the package import each other in a circle, not even for the names of types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grimp
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping


def imports_of_the_package() -> dict[str, set[str]]:
    graph = grimp.build_graph("scheduledjob")
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def circle_in(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of a circle, each of which imports the next; empty if there is none."""
    finished: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in finished:
            return []
        for imported in sorted(imports.get(module, ())):
            if found := search(imported, [*path, module]):
                return found
        finished.add(module)
        return []

    return next((found for module in sorted(imports) if (found := search(module, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = imports_of_the_package()
    assert len(imports) > 200
    assert circle_in(imports) == []


@pytest.mark.parametrize(
    ("imports", "circle"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c"]),
        ({"a": {"a"}}, ["a"]),
    ],
)
def test_a_circle_is_found(imports: Mapping[str, set[str]], circle: list[str]) -> None:
    assert circle_in(imports) == circle
