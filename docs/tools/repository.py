"""A hook of mkdocs that publishes linked files from outside ``docs/`` under ``repository/``.

On the repository's web pages, ``../charts/.../rules.yaml`` is a file. The hook copies such a file into the site, as a
page if it is Markdown, and rewrites the link. A link to a directory leads to its README; without a README, only the
link's text remains. Links to missing files are left unchanged, so a strict build fails.
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
    """Add the linked files, and the files that those link to."""
    pages = [(file.src_uri, file.content_string) for file in files if file.src_uri.endswith(".md")]
    while pages:
        for target in _beside(*pages.pop()):
            if files.get_file_from_path(target) is None and (ROOT / _home(target)).is_file():
                content = (ROOT / _home(target)).read_text(encoding="utf-8")
                # Some of them are in the navigation; the others can be reached only by links.
                found = File.generated(config, target, content=content, inclusion=InclusionLevel.NOT_IN_NAV)
                files.append(found)
                if target.endswith(".md"):
                    pages.append((target, content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite the links to the files of the repository."""
    here = page.file.src_uri

    def rewritten(match: re.Match[str]) -> str:
        target = _target(here, match[2])
        if (ROOT / _home(target)).is_dir():
            return match[1]
        return f"[{match[1]}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{match[3] or ''})"

    return "\n".join(_without_backslashes(line) for line in _LINK.sub(rewritten, markdown).split("\n"))


def _without_backslashes(line: str) -> str:
    """Remove the backslash before a bar in code in a table, which the repository needs and mkdocs would show."""

    def code(match: re.Match[str]) -> str:
        return "<code>" + html.escape(match[1].replace("\\|", "|")).replace("|", "&#124;") + "</code>"

    return re.sub(r"`([^`]*\\\|[^`]*)`", code, line) if line.startswith("|") else line


def _beside(page: str, text: str) -> Iterator[str]:
    for match in _LINK.finditer(_CODE.sub("", text)):
        target = _target(page, match[2])
        if target.startswith(_BESIDE):
            yield target


def _target(page: str, link: str) -> str:
    """Return the path in the site that a link of a page leads to."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_home(page)), link))
    if (ROOT / path / "README.md").is_file():
        path += "/README.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else _BESIDE + path


def _home(target: str) -> str:
    """Return the path in the repository that a page or file of the site comes from."""
    return target.removeprefix(_BESIDE) if target.startswith(_BESIDE) else f"docs/{target}"
