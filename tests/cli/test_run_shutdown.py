"""The time limits of ``run`` at shutdown, and the places that repeat them."""

from __future__ import annotations

from pathlib import Path

import typer

from scheduledjob.cli.scheduledjob.main import app
from scheduledjob.cli.scheduledjob.run import GRACE, LATEST_END
from scheduledjob.engine.shutdown import shutdown_limit

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_process_exits_when_the_limits_of_its_replica_have_passed() -> None:
    assert shutdown_limit(GRACE) == LATEST_END


def test_the_help_says_the_limits() -> None:
    """``--help`` repeats the numbers, because it must not load what ``run`` needs at work."""
    help_text = " ".join((typer.main.get_group(app).commands["run"].help or "").split())
    assert f"running jobs get {GRACE:g} seconds to finish" in help_text
    assert f"exits after at most {LATEST_END:g} seconds" in help_text


def test_the_documentation_says_the_limits() -> None:
    text = " ".join((DOCS / "when-something-dies.md").read_text().split())
    assert f"`scheduledjob run` gives its jobs {GRACE:g} seconds to finish" in text
    assert f"exits after at most {LATEST_END:g} seconds" in text
