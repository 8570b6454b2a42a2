"""GitHub's workflows, which nothing here can run, as actionlint reads them: what it knows of their syntax and types."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.chart.go import answers

pytestmark = pytest.mark.cluster

WORKFLOWS = sorted((Path(__file__).parents[3] / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = Path(__file__).with_name("actionlint")


async def test_there_is_nothing_to_say_of_the_workflows() -> None:
    assert {each.stem for each in WORKFLOWS} >= {"checks", "nightly", "release"}
    assert await answers(ACTIONLINT, [str(each) for each in WORKFLOWS]) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("runs-on: ubuntu-latest", "runs-on: debian-latest", 'label "debian-latest" is unknown'),
        ("github.event_name", "github.event_nmae", 'property "event_nmae" is not defined'),
        ("matrix.python", "matrix.pyhton", 'property "pyhton" is not defined'),
        ("timeout-minutes: 20", "timeout_minutes: 20", 'unexpected key "timeout_minutes"'),
        ("python-version:", "pyhton-version:", 'input "pyhton-version" is not defined in action'),
    ],
)
async def test_what_is_wrong_is_found(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    text = WORKFLOWS[0].read_text()
    assert right in text
    broken = tmp_path / "broken.yml"
    broken.write_text(text.replace(right, wrong, 1))
    assert said in await answers(ACTIONLINT, [str(broken)])
