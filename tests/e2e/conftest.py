"""A node with the operator's image, for the tests of `make e2e`, which builds the image first.

The tests are skipped, with a message, if there is no node or no image.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from image.build import archive
from tests.cluster.harness import ControlPlane, Node
from tests.e2e.release import Release
from tests.support.absent import do_without
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AN_IMAGE = "the operator's image"
A_NODE = "a Kubernetes node"


@pytest.fixture
async def release() -> AsyncIterator[Release]:
    """A release that is not installed yet, on a node and a control plane of the test's own."""
    if not archive().exists():
        do_without(AN_IMAGE, f"there is no {archive()}: make image")
    async with AsyncExitStack() as stack:
        try:
            node = await stack.enter_async_context(Node(await stack.enter_async_context(ControlPlane())))
        except ServerUnavailableError as missing:
            do_without(A_NODE, missing)
        await node.import_archive(archive())
        yield Release(node)
