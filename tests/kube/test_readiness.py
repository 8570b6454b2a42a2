"""Readiness, and the checks of the cluster at the start: they need exactly what the shipped rules grant."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import yaml

from scheduledjob.engine.store import StoreError
from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable, Forbidden, NotFound
from scheduledjob.kube.operator import connect
from scheduledjob.kube.preflight import Preflight, permissions_of
from scheduledjob.kube.readiness import Readiness
from scheduledjob.stores.memory.store import MemoryStore
from tests.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    import asyncio

RULES = Path(__file__).parents[2] / "charts" / "scheduledjob-operator" / "files" / "rules.yaml"


def test_a_part_is_not_ready_while_the_operator_waits_for_it() -> None:
    readiness = Readiness()
    why: list[str | None] = [None]
    readiness.add("engine", lambda: None)
    with readiness.waiting("store", lambda: why[0]):
        assert readiness() == {"engine": None, "store": "not yet"}
        why[0] = "it is unavailable"
        assert readiness() == {"engine": None, "store": "it is unavailable"}
    assert readiness() == {"engine": None}


def test_a_wait_that_fails_is_over_too() -> None:
    readiness = Readiness()
    with pytest.raises(RuntimeError), readiness.waiting("store", lambda: None):
        raise RuntimeError
    assert readiness() == {}


Granted = tuple[str, str, str, str, str]
"""(where, group, resource with subresource, name, verb)"""


def granted(*parts: str) -> set[Granted]:
    where = {"watched": "team-a", "own": "home", "cluster": "kube-system"}
    rules = yaml.safe_load(RULES.read_text())
    optional = {"services", "endpointslices", "nodes"}  # the addresses of the API server
    return {
        (where[part], group, resource, name, verb)
        for part in parts
        for rule in rules[part]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if resource not in optional
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def needed_permissions(*, holds: bool) -> list[Granted]:
    return [
        (
            permission.namespace,
            permission.group,
            permission.resource + (f"/{permission.subresource}" if permission.subresource else ""),
            permission.name,
            permission.verb,
        )
        for permission in permissions_of(["team-a"], ("home", "scheduledjob"), holds=holds)
    ]


def test_an_operator_in_memory_needs_what_the_shipped_rules_grant() -> None:
    found = needed_permissions(holds=True)
    assert len(found) == len(set(found))
    assert set(found) == granted("watched", "own", "cluster")


def test_an_operator_with_another_store_only_reads_the_lease() -> None:
    leases = {permission for permission in granted("own") if permission[4] != "get"}
    assert set(needed_permissions(holds=False)) == granted("watched", "own", "cluster") - leases


def test_permissions_are_needed_everywhere_or_in_each_namespace() -> None:
    def jobs(*namespaces: str) -> list[str]:
        needed = permissions_of(namespaces, ("home", "lease"), holds=True)
        return [
            permission.namespace
            for permission in needed
            if permission.resource == "scheduledjobs" and permission.verb == "list"
        ]

    assert jobs() == [""]
    assert jobs("a", "b") == ["a", "b"]
    words = [str(permission) for permission in permissions_of([], ("home", "lease"), holds=False)]
    assert 'list scheduledjobs of "scheduledjobs.dev" in all namespaces' in words
    assert "get pods/log in all namespaces" in words


class Cluster:
    """Stands in for the API server. The messages of a real one are tested elsewhere."""

    def __init__(self) -> None:
        self.down: ApiError | None = None
        self.refused: set[str] = set()

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        if self.down is not None:
            raise self.down
        return {}

    async def post(self, _: str, body: dict[str, Any], **__: Any) -> dict[str, Any]:
        return {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] not in self.refused}}


def preflight_of(cluster: Cluster) -> Preflight:
    needed = permissions_of([], ("home", "lease"), holds=False)
    return Preflight(cluster, [], needed)  # type: ignore[arg-type]  # it stands in for the client


@pytest.mark.parametrize(
    ("down", "says"),
    [
        (NotFound(404, "NotFound", "the server could not find it"), "apply the CustomResourceDefinition"),
        (ApiUnavailable(0, "", "no answer"), "no answer"),
        (Forbidden(403, "Forbidden", "no"), None),
    ],
)
async def test_what_is_missing_is_explained(down: ApiError, says: str | None) -> None:
    cluster = Cluster()
    cluster.down = down
    missing = await preflight_of(cluster).check()
    assert missing is None if says is None else says in str(missing)


def test_a_missing_prerequisite_is_logged_once_a_minute_and_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loop, cluster = VirtualLoop(lambda: now[0]), Cluster()
    cluster.down = ApiUnavailable(0, "", "no answer")
    advance = partial(run_for, loop, now)

    with structlog.testing.capture_logs() as logs:
        passing: asyncio.Task[None] = loop.create_task(preflight_of(cluster).wait())
        advance(150)
        assert [line["missing"] for line in logs] == ["no answer"] * 3
        cluster.down, cluster.refused = None, {"watch"}
        advance(10)
        assert "watch scheduledjobs" in logs[-1]["missing"]
        assert len(logs) == 4
        cluster.refused = set()
        advance(3)
        assert logs[-1]["event"] == "the cluster has everything now"
    assert passing.done()
    loop.close()


def run_for(loop: VirtualLoop, now: list[float], seconds: float) -> None:
    end = now[0] + seconds
    loop.run_ready()
    while (timer := loop.next_timer()) is not None and timer <= end:
        now[0] = max(now[0], timer)
        loop.run_ready()
    now[0] = end


class AwayStore(MemoryStore):
    """Can't be reached while ``away`` is set."""

    away = "connection refused"

    async def connect(self) -> None:
        if self.away:
            raise StoreError(self.away)


def test_an_unavailable_store_is_logged_once_a_minute_and_when_the_error_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loop, store, failures = VirtualLoop(lambda: now[0]), AwayStore(), [""]
    with structlog.testing.capture_logs() as logs:
        connecting: asyncio.Task[None] = loop.create_task(connect(store, failures))
        run_for(loop, now, 150)
        assert [line["error"] for line in logs] == ["connection refused"] * 3
        store.away = "no such database"
        run_for(loop, now, 10)
        assert logs[-1]["error"] == failures[-1] == "no such database"
        store.away = ""
        run_for(loop, now, 3)
        assert [line["event"] for line in logs[4:]] == ["connected to the store"]
    assert connecting.done()
    loop.close()
