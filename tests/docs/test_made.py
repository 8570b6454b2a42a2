"""Generated pages and pictures are up to date: somebody has run `make docs`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from docs.tools.cli_page import cli_page
from docs.tools.crd_page import crd_page
from docs.tools.pictures import every_picture
from docs.tools.terminal import picture, screen
from scheduledjob.manifests.loader import load_text
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
SVG = "{http://www.w3.org/2000/svg}"


def _stale(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(ROOT)} is out of date: run make docs"


def test_the_crd_reference_is_up_to_date() -> None:
    _stale(DOCS / "crd-reference.md", crd_page())


def test_the_cli_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SJOB_STORE", raising=False)
    monkeypatch.delenv("SJOB_INSTANCE", raising=False)
    _stale(DOCS / "cli-reference.md", cli_page())


@pytest.mark.parametrize("name", every_picture())
def test_the_pictures_are_up_to_date(name: str) -> None:
    text = every_picture()[name]
    _stale(DOCS / "pictures" / name, text)
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    assert not re.search(r'(?:href|src)=|url\("?http', text), "it loads something from the network"


def test_the_terminal_is_complete_and_loads_nothing_from_the_network() -> None:
    text = (DOCS / "pictures" / "terminal.svg").read_text(encoding="utf-8")
    words = " ".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ")
    for word in ("make demo", "started", "heartbeat", "Succeeded", "next", "Ctrl-C to stop"):
        assert word in words
    assert not re.search(r'(?:href|src)=|url\("?http', text)


def test_a_terminal_shows_the_last_frame() -> None:
    written = "one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2K\x1b[1mONE\x1b[0m\r\n\x1b[?25htwo\r\n"
    assert screen(written) == ["\x1b[1mONE\x1b[0m", "two", ""]
    assert "ONE" in picture("make demo", screen(written))


def test_every_picture_is_used() -> None:
    shown = {name for page in PAGES for name in re.findall(r"pictures/([\w-]+\.svg)", page.read_text(encoding="utf-8"))}
    assert shown == {path.name for path in (DOCS / "pictures").iterdir()}


FIGURES = {
    "p50 2.06 ms, p99 4.17 ms": "p50 2.06, p99 4.17,",
    "0.51 s": "0.51 s",
    "0.28 s": "0.28 s",
    "0.286 s": "median 0.286,",
    "1.525 s": "median 1.525,",
    "p50 0.74 s, last 1.26 s": "median p50 0.74, last 1.26 s",
    "worst 0.88 and 1.49 s": "(worst 0.88, 1.49)",
    "14.2 ms": "14.2 ms",
    "median 0.007 s, longest of twenty 0.013 s": "median 0.007, max 0.013 s",
    "p99 lateness of 2 ms": "p50 0.84, p99 2.05,",
    "0.08 % of a core, 52 MiB": "0.08 %, 52 MiB",
    "1.3 ms at p99": "p99 1.26 ms",
    "788 bytes": "788 bytes",
    "177 MiB and is ready 7.0 s": "ready in 7.0 s, 177 MiB",
    "some 26,000 no-op runs a second": "25,918/s",
}
"""Figures in comparison.md and production.md, and their form in benchmarks.md. New measurements change both."""


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_those_of_the_benchmarks(figure: str) -> None:
    text = " ".join(f"{(DOCS / name).read_text(encoding='utf-8')}" for name in ("comparison.md", "production.md"))
    assert figure in " ".join(text.split())
    assert FIGURES[figure] in (DOCS / "benchmarks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_partial_spec_is_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(spec:\n.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        spec = {"triggers": [{"every": "1m"}], "job": {"shell": {"command": "true"}}} | yaml.safe_load(block)["spec"]
        manifest = {"apiVersion": "scheduledjobs.dev/v1beta1", "kind": "ScheduledJob", "metadata": {"name": "a"}}
        loaded = load_text(yaml.safe_dump(manifest | {"spec": spec}))
        assert [str(problem) for problem in loaded.problems] == [], block


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make site installs mkdocs")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    # Without --quiet, because --quiet also ignores warnings.
    command = [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").exists()
    assert (tmp_path / "repository" / "charts" / "scheduledjob-operator" / "files" / "rules.yaml").exists()
    # A page named README would replace the heading of its section, and would have no entry of its own.
    wanted = re.findall(r'^ *- "?([^"\n]+?)"?: [\w/-]+\.md$', navigation, re.MULTILINE)
    shown = [text.strip() for text in re.findall(r'md-ellipsis">([^<]*)<', (tmp_path / "index.html").read_text())]
    assert len(wanted) > 25
    assert set(wanted) <= set(shown)
