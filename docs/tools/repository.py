"""A hook of mkdocs: what a page links to outside ``docs/`` is published beside the pages, under ``repository/``.

On the code's own web pages ``../charts/.../rules.yaml`` is a file of the repository. Here such a file is copied into
the site, or made a page of it if it is one, and the link is led to where it went. A folder stands for its README; the
link to one that has none is left out, and its words stay. What is not there is left as it is, and a strict build ends.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
_BESIDE = "repository/"
_LINK = re.compile(r"\[([^][]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: Any) -> Files:
    """Add what is linked, and what is linked from there."""
    pages = [(file.src_uri, file.content_string) for file in files if file.src_uri.endswith(".md")]
    while pages:
        for target in _beside(*pages.pop()):
            if files.get_file_from_path(target) is None and (ROOT / _home(target)).is_file():
                content = (ROOT / _home(target)).read_text(encoding="utf-8")
                # The navigation has some of them; the others are reached by the links alone.
                found = File.generated(config, target, content=content, inclusion=InclusionLevel.NOT_IN_NAV)
                files.append(found)
                if target.endswith(".md"):
                    pages.append((target, content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead the links to where their files went."""
    here = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        target = _target(here, match[2])
        if (ROOT / _home(target)).is_dir():
            return match[1]
        return f"[{match[1]}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{match[3] or ''})"

    return "\n".join(_without_backslashes(line) for line in _LINK.sub(led, markdown).split("\n"))


def _without_backslashes(line: str) -> str:
    """A bar within code within a table needs one on the code's own web pages; here it would be seen."""

    def code(match: re.Match[str]) -> str:
        return "<code>" + html.escape(match[1].replace("\\|", "|")).replace("|", "&#124;") + "</code>"

    return re.sub(r"`([^`]*\\\|[^`]*)`", code, line) if line.startswith("|") else line


def _beside(page: str, text: str) -> Iterator[str]:
    for match in _LINK.finditer(_CODE.sub("", text)):
        target = _target(page, match[2])
        if target.startswith(_BESIDE):
            yield target


def _target(page: str, link: str) -> str:
    """Where in the site a link of a page leads."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_home(page)), link))
    if (ROOT / path / "README.md").is_file():
        path += "/README.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else _BESIDE + path


def _home(target: str) -> str:
    """Where in the repository a page or file of the site comes from."""
    return target.removeprefix(_BESIDE) if target.startswith(_BESIDE) else f"docs/{target}"
