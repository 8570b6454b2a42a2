"""The SQL of the store: the named queries in the files beside this one, as one mapping ``SQL`` from name to text.

A file may also name fragments (``-- fragment: name``). A query or another fragment includes one by ``{name}``, so that
lists of columns and the like are written once.
"""

from __future__ import annotations

import re
from importlib.resources import files

_FILES = ("history", "claims", "settling", "presence", "schedules", "reconciling", "hook_calls")
_HEADING = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)


def load(*texts: str) -> dict[str, str]:
    """Return the queries of some files by name, with fragments filled in and without comments.

    The server need not read comments each time. Raises ValueError for a name given twice.
    """
    queries: dict[str, str] = {}
    fragments: dict[str, str] = {}
    for text in texts:
        _, *parts = _HEADING.split(text)
        for kind, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            if name in queries or name in fragments:
                raise ValueError(f"two queries or fragments have the name {name}")
            lines = [line for line in body.splitlines() if line and not line.lstrip().startswith("--")]
            (queries if kind == "name" else fragments)[name] = "\n".join(lines).rstrip(";")
    return {name: _filled(query, fragments) for name, query in queries.items()}


def _filled(text: str, fragments: dict[str, str]) -> str:
    """Replace ``{name}`` by the fragment of that name; other braces stay, for their callers to fill."""
    while (filled := re.sub(r"\{(\w+)\}", lambda found: fragments.get(found[1], found[0]), text)) != text:
        text = filled
    return text


SQL = load(*((files(__package__) / f"{name}.sql").read_text("utf-8") for name in _FILES))
