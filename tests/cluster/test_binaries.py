"""Where the programs of a cluster come from, and what is said where they can't be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.harness.binaries import CONTROL_PLANE, cache, programs, version
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of assets, beside an empty cache and on a machine without Go."""
    assets = tmp_path / "assets"
    assets.mkdir()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setenv("TEST_CLUSTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(assets))
    return assets


def test_assets_go_before_what_was_built(nothing_here: Path) -> None:
    cache().mkdir(parents=True)
    for name in CONTROL_PLANE:
        (cache() / name).touch()
    (nothing_here / "etcd").touch()
    found = programs(CONTROL_PLANE)
    assert found["etcd"] == nothing_here / "etcd"
    assert found["kubectl"] == cache() / "kubectl"


def test_what_is_missing_without_go_is_named_with_the_ways_to_get_it(nothing_here: Path) -> None:
    (nothing_here / "etcd").touch()
    with pytest.raises(ServerUnavailableError) as error:
        programs(CONTROL_PLANE)
    assert str(error.value).startswith("there is no kube-apiserver and no kube-controller-manager and no kubectl: ")
    assert "install Go" in str(error.value)


def test_assets_that_are_no_folder_are_refused(nothing_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(nothing_here / "absent"))
    with pytest.raises(ServerUnavailableError, match="KUBEBUILDER_ASSETS must name a folder"):
        programs(CONTROL_PLANE)


def test_the_cache_is_of_the_versions_that_are_pinned(nothing_here: Path) -> None:
    assert version("k8s.io/kubernetes") in cache().parent.name
    assert version("go.etcd.io/etcd/server/v3") in cache().parent.name
