"""What README says can be typed: its manifest is valid, its commands exist, its programs are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scheduledjob.cli.main import execute
from scheduledjob.manifests.definition import needs_pod
from scheduledjob.manifests.loader import load_text

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    words = [shlex.split(line[2:].split(" | ")[0], comments=True) for line in lines if line.startswith("$ ")]
    return [line[1:] for line in words if line[0] == "scheduledjob"]


def test_the_manifest_is_valid_and_runs_anywhere() -> None:
    (manifest,) = blocks("yaml")
    loaded = load_text(manifest)
    assert [str(problem) for problem in loaded.problems] == []
    (job,) = loaded.jobs.values()
    assert needs_pod(job.job) is None


@pytest.mark.parametrize("arguments", [words for words in commands() if words[0] in {"next", "explain"}], ids=" ".join)
def test_the_questions_are_answered_as_it_says(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(arguments) == 0
    out = capsys.readouterr().out
    if arguments[0] == "explain":
        assert out in TEXT
    else:
        assert len(out.splitlines()) == 1 + 3


def test_every_command_and_option_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert {words[0] for words in commands()} == {"validate", "run", "next", "explain"}
    for words in commands():
        assert execute([words[0], "--help"]) == 0
        options = [word for word in words[1:] if re.fullmatch("-[a-z]|--[a-z]+", word)]
        shown = capsys.readouterr().out
        assert all(option in shown for option in options), words


def test_the_program_is_right() -> None:
    (program,) = blocks("python")
    lines = program.replace('"postgresql://user@localhost/jobs"', '"memory:"').replace("asyncio.run(main())", "")
    names: dict[str, object] = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert "report" in names


def test_what_it_names_is_there() -> None:
    for path in re.findall(r"\]\(([\w/.]+)\)", TEXT):
        assert (ROOT / path).exists(), path
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", TEXT):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target
