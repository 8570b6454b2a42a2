"""What `make node` prints about the image of `make image`, which the harness' node can't pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cluster.harness.__main__ import _about_images

if TYPE_CHECKING:
    from pathlib import Path

NODE = {"importing": ["ctr", "--address", "/tmp/a node/containerd.sock", "--namespace", "k8s.io", "images", "import"]}


def test_the_printed_command_can_be_typed_unchanged(tmp_path: Path) -> None:
    image = tmp_path / "scheduledjob.tar"
    before, line = _about_images(NODE, image)
    assert "after `make image`" in before
    assert line == f"ctr --address '/tmp/a node/containerd.sock' --namespace k8s.io images import {image}"
    image.touch()
    assert "make image" not in _about_images(NODE, image)[0]


def test_without_a_node_nothing_is_printed_about_images(tmp_path: Path) -> None:
    assert _about_images({"kubeconfig": "x"}, tmp_path / "scheduledjob.tar") == []
