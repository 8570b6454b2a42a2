"""What the pages of docs/ say can be typed with a cluster does what they say, in the order in which they say it.

The reader has an administrator's kubeconfig, whose context has a namespace of the test's own, and kubectl. An operator
works in that namespace, with its store in memory, and may run shell jobs inline, because there is no node for Pods.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scheduledjob.executors.confine import landlock_status
from tests.cluster.e2e.conftest import kubeconfig, sjobs
from tests.cluster.e2e.operators import OperatorProcess
from tests.docs.pages import ROOT, Command, File, pages, steps
from tests.docs.reader import Reader, copy_repository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

__all__ = ["kubeconfig", "sjobs"]

PAGES = [page for page in pages() if any(isinstance(step, Command) and step.needs_cluster for step in steps(page))]


@pytest.fixture
async def operator(kubeconfig: Path, namespace: str) -> AsyncIterator[OperatorProcess]:
    flags = [f"--namespaces={namespace}", f"--inline-shell-namespaces={namespace}"]
    if not landlock_status().available:
        flags.append("--accept-unconfined-shell")
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        yield operator


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_a_reader_with_a_cluster_can_do_what_it_says(
    page: Path, sjobs: Cluster, namespace: str, tmp_path: Path
) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    copy_repository(folder)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "kubectl").symlink_to(sjobs.program("kubectl"))
    environment = {"KUBECONFIG": str(_in_namespace(sjobs.kubeconfig, namespace, tmp_path))}
    with Reader(folder, environment, programs) as reader:
        for step in steps(page):
            if isinstance(step, File):
                reader.save(step)
            elif not step.ends_by_interrupt and not step.needs_postgres:
                await asyncio.to_thread(reader.type, step)


def _in_namespace(given: Path, namespace: str, folder: Path) -> Path:
    content: Any = yaml.safe_load(given.read_text())
    for context in content["contexts"]:
        context["context"]["namespace"] = namespace
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))
    return path
