"""What the pages of docs/ say can be typed with a cluster does what they say, in the order in which they say it.

The reader has an administrator's kubeconfig, whose context has a namespace of the test's own, and kubectl. An operator
works in that namespace, with its store in memory unless the page needs a Postgres, and may run shell jobs inline,
because there is no node for Pods. Where a page says how to start a cluster, it is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml

from scheduledjob.jobs.shell.confinement import landlock_status
from tests.cluster.e2e.conftest import kubeconfig, sjobs
from tests.cluster.e2e.operators import OperatorProcess
from tests.cluster.harness.binaries import cache
from tests.docs.pages import ROOT, Command, File, pages, steps
from tests.docs.reader import Reader, copy_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

__all__ = ["kubeconfig", "sjobs"]


def _pages_with(what: Callable[[Command], bool]) -> list[Path]:
    return [page for page in pages() if any(isinstance(step, Command) and what(step) for step in steps(page))]


@pytest.mark.parametrize(
    "page", _pages_with(lambda step: step.needs_cluster), ids=lambda page: page.relative_to(ROOT).as_posix()
)
async def test_a_reader_with_a_cluster_can_do_what_it_says(
    page: Path, sjobs: Cluster, kubeconfig: Path, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    flags = [f"--namespaces={namespace}", f"--inline-shell-namespaces={namespace}"]
    if not landlock_status().available:
        flags.append("--accept-unconfined-shell")
    environment = {"KUBECONFIG": str(_in_namespace(sjobs.kubeconfig, namespace, tmp_path))}
    if page in _pages_with(lambda step: step.needs_cluster and step.needs_postgres):
        environment["SJOB_STORE"] = request.getfixturevalue("postgres_dsn")
        flags.append(f"--store={environment['SJOB_STORE']}")
    async with OperatorProcess(kubeconfig, namespace, *flags):
        with _reader(tmp_path, sjobs, environment) as reader:
            for step in steps(page):
                if isinstance(step, File):
                    reader.save(step)
                elif step.needs_cluster or (
                    step.needs_no_cluster and not step.ends_by_interrupt and not step.needs_postgres
                ):
                    await asyncio.to_thread(reader.type, step)


@pytest.mark.parametrize(
    "page", _pages_with(lambda step: step.starts_cluster), ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_a_reader_can_start_a_cluster_as_it_says(
    page: Path, sjobs: Cluster, programs_and_clusters: Path, tmp_path: Path
) -> None:
    """With the programs that are built already, and beside whatever cluster a developer has running."""
    with _reader(tmp_path, sjobs, {"TEST_CLUSTER_CACHE": str(programs_and_clusters)}) as reader:
        for step in steps(page):
            if isinstance(step, Command) and step.starts_cluster:
                reader.type(step)


def test_a_cluster_of_a_page_that_fails_is_stopped(sjobs: Cluster, tmp_path: Path) -> None:
    start = Command(1, 'eval "$(make --silent cluster)"', "", starts_cluster=True)
    fail = Command(2, "pwd; false", "", starts_cluster=True)
    with (
        _programs_and_clusters(tmp_path) as folder,
        _reader(tmp_path, sjobs, {"TEST_CLUSTER_CACHE": str(folder)}) as reader,
    ):
        reader.type(start)
        (state,) = folder.glob("*/running/state.json")
        holder = psutil.Process(json.loads(state.read_text())["pid"])
        started = [holder, *holder.children(recursive=True)]
        with pytest.raises(AssertionError, match="exit code 1"):
            reader.type(fail)
    assert len(started) > 1
    assert not any(process.is_running() for process in started)


@pytest.fixture
def programs_and_clusters(tmp_path: Path) -> Iterator[Path]:
    """A folder for TEST_CLUSTER_CACHE. A cluster that was started with it is stopped, also if the page fails."""
    with _programs_and_clusters(tmp_path) as folder:
        yield folder


@contextmanager
def _programs_and_clusters(tmp_path: Path) -> Iterator[Path]:
    there, folder = cache(), tmp_path / "cache"
    (folder / there.parent.name).mkdir(parents=True)
    (folder / there.parent.name / "bin").symlink_to(there)
    try:
        yield folder
    finally:
        command = [sys.executable, "-m", "tests.cluster.harness", "down"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"TEST_CLUSTER_CACHE": str(folder)}, check=True)


def _reader(folder: Path, cluster: Cluster, environment: dict[str, str]) -> Reader:
    repository, programs = folder / "repository", folder / "programs"
    repository.mkdir()
    copy_repository(repository)
    programs.mkdir()
    (programs / "kubectl").symlink_to(cluster.program("kubectl"))
    return Reader(repository, environment, programs)


def _in_namespace(given: Path, namespace: str, folder: Path) -> Path:
    content: Any = yaml.safe_load(given.read_text())
    for context in content["contexts"]:
        context["context"]["namespace"] = namespace
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))
    return path
