"""The corpus: each invalid manifest has exactly the errors that it announces, and each valid one has none.

An invalid manifest has the expected errors in comments at its top, ``# expect: LINE FIELD: MESSAGE``, or in a file
beside it with the suffix ``.expect``, without the ``# expect:``. If another library words a part of the message, the
expectation ends with ``…`` before that part.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.manifests.loader import load
from scheduledjob.manifests.translate import needs_pod, to_definition

HERE = Path(__file__).parent
INVALID = sorted(path.name for path in (HERE / "invalid").iterdir() if path.suffix != ".expect")
VALID = sorted(path.name for path in (HERE / "valid").iterdir())
MARK = "# expect: "


def expectations(path: Path) -> list[str]:
    beside = path.with_name(path.name + ".expect")
    if beside.exists():
        return beside.read_text(encoding="utf-8").splitlines()
    lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


def matches(said: str, expected: str) -> bool:
    if expected.endswith("…"):
        return said.startswith(expected.removesuffix("…").rstrip())
    return said == expected


def test_the_corpus_is_large() -> None:
    assert len(INVALID) >= 70
    assert len(VALID) >= 35


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE / "invalid")
    expected = expectations(Path(name))
    said = [str(problem).removeprefix(f"{name}:").replace(": ", " ", 1) for problem in load([name]).problems]
    assert expected, "an invalid manifest says what is wrong with it"
    assert len(said) == len(expected), said
    for line, expectation in zip(said, expected, strict=True):
        assert matches(line, expectation), (line, expectation)
        assert line.isprintable()
        assert len(line) < 500


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE / "valid")
    loaded = load([name])
    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.jobs
    for found in loaded.jobs.values():
        definition = to_definition(found.job)
        assert Definition.decode(definition.encode()) == definition
        assert needs_pod(found.job) is None or "pod" in name or "container" in name
