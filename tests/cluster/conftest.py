"""Fixtures with the clusters of tests; tests/cluster/harness shows how to use them.

Each worker of pytest-xdist has its own control plane, started on first use and shared by its tests, which use one
namespace each. A test that breaks a control plane uses `own_cluster`.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.cluster.harness import Cluster, ControlPlane, GivenCluster, Node, NotOursError
from tests.support.absent import do_without, or_do_without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Generator, Iterator

T = TypeVar("T")

A_CONTROL_PLANE = "a Kubernetes control plane"
ONE_TO_BREAK = "a cluster that may be broken"
A_NODE = "a Kubernetes node"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests that share a node to one worker, so that there is one (`--dist loadgroup`)."""
    for item in items:
        if isinstance(item, pytest.Function) and "node" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("node"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """A test that finds the cluster to be the user's own, while it needs one of the harness, is not run."""
    try:
        return (yield)
    except NotOursError as reason:
        do_without(ONE_TO_BREAK, reason)


pytest_runtest_call = pytest_runtest_setup


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that tests share: the user's own by TEST_KUBECONFIG, or one that is started here."""
    with or_do_without(_any_cluster(), A_CONTROL_PLANE) as running:
        yield running


@pytest.fixture
def shared_control_plane(cluster: Cluster) -> ControlPlane:
    """`cluster`, whose processes can be seen; a test that kills or pauses one takes `own_cluster`."""
    return _ours(cluster)


@pytest.fixture
async def namespace(cluster: Cluster) -> AsyncIterator[str]:
    """A namespace of the shared cluster that is this test's own; nothing waits for its deletion."""
    name = await cluster.new_namespace()
    yield name
    await cluster.delete_namespace(name)


@pytest.fixture
def own_cluster() -> Iterator[ControlPlane]:
    """A control plane that is this test's own, to kill, pause and restart; it takes three seconds to start."""
    with or_do_without(_new_control_plane(), ONE_TO_BREAK) as running:
        yield running


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The node that tests share, with a control plane of its own: in `cluster` Pods stay as the test left them."""
    with or_do_without(_new_node(), A_NODE) as running:
        yield running


@pytest.fixture
async def node_namespace(node: Node) -> AsyncIterator[str]:
    """A namespace of the node's cluster that is this test's own; its Pods end with it."""
    name = await node.cluster.new_namespace()
    yield name
    await node.cluster.delete_namespace(name)


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A node, and a control plane, that are this test's own, to kill and restart; they take four seconds to start."""
    with or_do_without(_new_node(), A_NODE) as running:
        yield running


@contextmanager
def _any_cluster() -> Iterator[Cluster]:
    if given := os.environ.get("TEST_KUBECONFIG"):
        cluster = GivenCluster(given)
        try:
            yield cluster
        finally:
            _in_a_loop_of_its_own(cluster.close())
        return
    with _new_control_plane() as control_plane:
        yield control_plane


@contextmanager
def _new_control_plane() -> Iterator[ControlPlane]:
    if given := os.environ.get("TEST_KUBECONFIG"):
        raise NotOursError(f"TEST_KUBECONFIG={given} names the cluster to use, and nothing of that may be killed")
    control_plane = ControlPlane()
    try:
        _in_a_loop_of_its_own(control_plane.start())
        yield control_plane
    finally:
        _in_a_loop_of_its_own(control_plane.close())


@contextmanager
def _new_node() -> Iterator[Node]:
    with _new_control_plane() as control_plane:
        node = Node(control_plane)
        try:
            _in_a_loop_of_its_own(node.start())
            yield node
        finally:
            _in_a_loop_of_its_own(node.close())


def _ours(cluster: Cluster) -> ControlPlane:
    if not isinstance(cluster, ControlPlane):
        do_without(ONE_TO_BREAK, "TEST_KUBECONFIG names the cluster to use")
    return cluster


def _in_a_loop_of_its_own(work: Coroutine[object, object, T]) -> T:
    """A fixture of the session outlives the event loops of its tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work)).result()
