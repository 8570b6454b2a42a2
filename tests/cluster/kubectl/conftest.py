"""What the tests of the plugin have in common: a cluster that knows ScheduledJobs, and the plugin as it is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.e2e.conftest import api, kubeconfig, sink, sjobs
from tests.cluster.kubectl.support import Plugin

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import Cluster

__all__ = ["api", "kubeconfig", "plugin", "sink", "sjobs"]


@pytest.fixture
def plugin(sjobs: Cluster, namespace: str, tmp_path: Path) -> Plugin:
    """The plugin of an administrator whose context has this test's namespace."""
    return Plugin(sjobs.kubeconfig, namespace, tmp_path)
