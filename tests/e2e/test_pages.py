"""The commands on README and on the pages that need the operator's image, on a cluster with a node.

The reader is an administrator of a cluster without ScheduledJob, and has helm and kubectl.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.cluster.chart.helm import program
from tests.docs.pages import ROOT, Command, File, pages, steps
from tests.docs.reader import Reader, copy_repository

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.node]


def _typed(page: Path) -> list[File | Command]:
    return [step for step in steps(page) if isinstance(step, File) or step.needs_image]


PAGES = [page for page in pages() if any(isinstance(step, Command) for step in _typed(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_a_reader_can_install_it_as_the_page_says(page: Path, release: Release, tmp_path: Path) -> None:
    repository, programs = tmp_path / "repository", tmp_path / "programs"
    repository.mkdir()
    copy_repository(repository)
    programs.mkdir()
    (programs / "kubectl").symlink_to(release.node.cluster.program("kubectl"))
    (programs / "helm").symlink_to(program())
    environment = {"KUBECONFIG": str(release.node.cluster.kubeconfig)}
    async with release.diagnosed():
        with Reader(repository, environment, programs) as reader:
            for step in _typed(page):
                if isinstance(step, File):
                    reader.save(step)
                else:
                    await asyncio.to_thread(reader.type, step)
