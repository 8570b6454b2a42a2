"""The commands on README and on the pages of docs/ do what the pages say, in the order of the pages.

tests/cluster/docs runs the commands that need a cluster, and tests/e2e those that need the operator's image.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import ROOT, Command, File, PageError, pages, steps
from tests.docs.reader import Reader, copy_repository, matches

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_reader_can_follow_the_page(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    todo = [step for step in steps(page) if isinstance(step, File) or step.needs_no_cluster]
    if not any(isinstance(step, Command) for step in todo):
        return
    copy_repository(tmp_path)
    environment = {}
    if any(isinstance(step, Command) and step.needs_postgres for step in todo):
        environment["SJOB_STORE"] = request.getfixturevalue("postgres_dsn")
    with Reader(tmp_path, environment) as reader:
        for step in todo:
            if isinstance(step, File):
                reader.save(step)
            else:
                reader.type(step)


def test_every_command_is_in_a_console_block() -> None:
    """Commands in other blocks would never be tested."""
    for page in (*pages(), *sorted((ROOT / "docs").glob("*.md"))):
        fences = re.findall(r"^ *```(\w+)[^\n]*\n(.*?)^ *```$", page.read_text(), re.M | re.S)
        for language, text in fences:
            assert language not in ("sh", "bash", "shell"), page.name
            assert language == "console" or not re.search(r"^ *\$ ", text, re.MULTILINE), (page.name, text)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_files_and_commands_are_found_in_order(page: Path) -> None:
    page.write_text(
        'Save it:\n\n```yaml title="a.yaml"\nb: 1\n```\n\n<!-- exit code 2; times vary -->\n'
        "```console\n$ one \\\n  two\nprinted\n$ three\n```\n\n```text\n$ never\n```\n"
    )
    file, one, three = steps(page)
    assert file == File(3, "a.yaml", "b: 1\n")
    assert one == Command(9, "one \\\n  two", "printed\n", code=2, times_vary=True)
    assert three == Command(12, "three", "", code=2, times_vary=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- need a cluster -->\n```console\n$ a\n```\n", "unknown comment 'need a cluster'"),
        ("```console\na\n```\n", "must start with a command"),
    ],
)
def test_a_malformed_page_is_reported(page: Path, text: str, message: str) -> None:
    page.write_text(text)
    with pytest.raises(PageError, match=message):
        steps(page)


def test_the_output_must_be_the_one_on_the_page(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        reader.type(Command(1, "export WORD=hello", ""))
        reader.type(Command(2, "echo $WORD; echo and more", "hello\n...\n"))
        with pytest.raises(AssertionError, match="is not the output on the page"):
            reader.type(Command(3, "echo $WORD", "goodbye\n"))
        with pytest.raises(AssertionError, match="exit code 1"):
            reader.type(Command(4, "false", ""))
        reader.type(Command(5, "echo began; sleep 60   # press Ctrl-C to stop", "began\n"))
        reader.type(Command(6, "echo $WORD", "hello\n"))


def test_times_may_vary_if_the_page_says_so() -> None:
    assert matches("ran at 20:24:00, took 26ms", "ran at 23:01:59, took 1.2s", times_vary=True)
    assert not matches("ran at 20:24:00", "ran at 23:01:59", times_vary=False)
    assert not matches("ran at 20:24:00", "ran", times_vary=True)
