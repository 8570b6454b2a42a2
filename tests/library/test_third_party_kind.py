"""A job kind from outside the package: the one of docs/run-python.md, installed beside the program.

Nothing of the package knows it. It is run through manifests, through the runner of a Pod and by a program that uses
the library.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_spec import CustomSpec, PodSettings, PodSpec
from scheduledjob.jobs.container.runner_order import read_report
from scheduledjob.jobs.job_registry import summary_of
from tests.cli.support import PATIENCE, PROGRAM, Running
from tests.cli.test_run_one import attempt, environment_of

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[2] / "docs" / "run-python.md"

PROGRAM_WITH_THE_LIBRARY = """
import asyncio
from importlib.metadata import entry_points

from scheduledjob import Every, Scheduler

scheduler = Scheduler("memory:")
for point in entry_points(group="scheduledjob.jobs"):
    scheduler.register(point.load(), name=point.name, trigger=Every(1.0))


async def main():
    async with scheduler:
        await scheduler.schedule("sales", "report", payload=b"3")
        while await scheduler.slugs():
            await asyncio.sleep(0.05)


asyncio.run(main())
"""

JOB = """
import sys


async def report(task):
    left = int(task.payload or b"1") - 1
    print("report for", task.params.get("region", "everybody"), left, file=sys.stderr, flush=True)
    task.output = b"reported"
    task.payload = str(left).encode()
    return task if left else None
"""


def fence(title: str) -> str:
    """A file that the page shows."""
    (text,) = re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```$', PAGE.read_text("utf-8"), re.M | re.S)
    assert isinstance(text, str)
    return text


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which the page's package is installed, with a job that ends after some runs."""
    project = tomllib.loads(fence("our-jobs/pyproject.toml"))["project"]
    module = tmp_path / "our_jobs.py"
    module.write_text(JOB, encoding="utf-8")
    information = tmp_path / f"our_jobs-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "report.yaml"
    path.write_text(fence("report.yaml").replace('cron: "0 6 * * *"', "every: 1s"), encoding="utf-8")
    return path


def run(*command: str | Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_it_runs_from_a_manifest(manifest: Path, environment: Mapping[str, str]) -> None:
    with Running("run", "--plugins", "-f", manifest, environment=dict(environment)) as running:
        record = running.wait_for_run(lambda run: run["name"] == "report")
        assert running.end() == 0
        assert "report for eu 0" in running.errors
    assert record["outcome"] == "Succeeded"


def test_its_manifest_is_checked_and_explained_where_it_is_not_installed(manifest: Path) -> None:
    assert "no faults; 1 valid job in 1 file" in run(PROGRAM, "validate", manifest, environment={}).stdout
    (explained,) = json.loads(run(PROGRAM, "explain", "-f", manifest, "-o", "json", environment={}).stdout)
    assert explained["name"] == "report"
    assert explained["Runs"] == ["every 1s, counted from the object's creation"]


def test_lists_show_its_name() -> None:
    assert summary_of({"custom": {"kind": "report", "params": {"region": "eu"}}}) == ("report", "")


def test_it_runs_in_a_pod(tmp_path: Path, environment: Mapping[str, str]) -> None:
    spec = PodSpec(custom=CustomSpec("report", {"region": "eu"}))
    pod = build_pod(attempt(), spec, PodSettings(image="ours", plugins=True))
    (container,) = pod["spec"]["containers"]
    message = tmp_path / "message"
    run(PROGRAM, *container["command"][1:], "--message", message, environment=environment_of(pod) | dict(environment))
    report = read_report(message.read_text())
    assert report is not None
    assert (report.ok, report.complete, report.output) == (True, True, "reported")


def test_it_runs_in_a_program_with_the_library(tmp_path: Path, environment: Mapping[str, str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM_WITH_THE_LIBRARY, encoding="utf-8")
    done = run(sys.executable, program, environment=environment)
    assert [line for line in done.stderr.splitlines() if line.startswith("report for")] == [
        f"report for everybody {left}" for left in (2, 1, 0)
    ]
