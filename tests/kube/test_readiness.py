"""Readiness tells what is waited for; the start asks for exactly what the shipped rules grant, and says so seldom."""

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


def test_what_is_waited_for_is_said_as_long_as_it_is_waited_for() -> None:
    readiness = Readiness()
    why: list[str | None] = [None]
    readiness.add("engine", lambda: None)
    with readiness.waiting("store", lambda: why[0]):
        assert readiness() == {"engine": None, "store": "not yet"}
        why[0] = "it is away"
        assert readiness() == {"engine": None, "store": "it is away"}
    assert readiness() == {"engine": None}


def test_a_wait_that_ends_by_an_error_is_over_too() -> None:
    readiness = Readiness()
    with pytest.raises(RuntimeError), readiness.waiting("store", lambda: None):
        raise RuntimeError
    assert readiness() == {}


Granted = tuple[str, str, str, str, str]
"""(where, group, resource with subresource, name, verb)"""


def granted(*parts: str) -> set[Granted]:
    where = {"watched": "team-a", "own": "home", "cluster": "kube-system"}
    rules = yaml.safe_load(RULES.read_text())
    return {
        (where[part], group, resource, name, verb)
        for part in parts
        for rule in rules[part]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def asked(*, holds: bool) -> list[Granted]:
    return [
        (
            one.namespace,
            one.group,
            one.resource + (f"/{one.subresource}" if one.subresource else ""),
            one.name,
            one.verb,
        )
        for one in permissions_of(["team-a"], ("home", "scheduledjob"), holds=holds)
    ]


def test_an_operator_in_memory_asks_for_what_the_shipped_rules_grant() -> None:
    found = asked(holds=True)
    assert len(found) == len(set(found))
    assert set(found) == granted("watched", "own", "cluster")


def test_another_one_only_reads_the_lease() -> None:
    leases = {one for one in granted("own") if one[4] != "get"}
    assert set(asked(holds=False)) == granted("watched", "own", "cluster") - leases


def test_everywhere_and_in_each_of_several_namespaces() -> None:
    def jobs(*namespaces: str) -> list[str]:
        needed = permissions_of(namespaces, ("home", "lease"), holds=True)
        return [one.namespace for one in needed if one.resource == "scheduledjobs" and one.verb == "list"]

    assert jobs() == [""]
    assert jobs("a", "b") == ["a", "b"]
    words = [str(one) for one in permissions_of([], ("home", "lease"), holds=False)]
    assert 'list scheduledjobs of "scheduledjobs.dev" in all namespaces' in words
    assert "get pods/log in all namespaces" in words


class Cluster:
    """Answers a preflight as it is told to. Its own words are tested on a real API server."""

    def __init__(self) -> None:
        self.down: ApiError | None = None
        self.refused: set[str] = set()

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        if self.down is not None:
            raise self.down
        return {}

    async def post(self, _: str, body: dict[str, Any], **__: Any) -> dict[str, Any]:
        return {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] not in self.refused}}


def begin(cluster: Cluster) -> Preflight:
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
async def test_what_is_missing_is_said_in_words(down: ApiError, says: str | None) -> None:
    cluster = Cluster()
    cluster.down = down
    missing = await begin(cluster).check()
    assert missing is None if says is None else says in str(missing)


def test_it_says_so_once_a_minute_and_at_once_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loop, cluster = VirtualLoop(lambda: now[0]), Cluster()
    cluster.down = ApiUnavailable(0, "", "no answer")
    live = partial(live_on, loop, now)

    with structlog.testing.capture_logs() as logs:
        passing: asyncio.Task[None] = loop.create_task(begin(cluster).wait())
        live(150)
        assert [line["missing"] for line in logs] == ["no answer"] * 3
        cluster.down, cluster.refused = None, {"watch"}
        live(10)
        assert "watch scheduledjobs" in logs[-1]["missing"]
        assert len(logs) == 4
        cluster.refused = set()
        live(3)
        assert logs[-1]["event"] == "the cluster has everything now"
    assert passing.done()
    loop.close()


def live_on(loop: VirtualLoop, now: list[float], seconds: float) -> None:
    end = now[0] + seconds
    loop.run_ready()
    while (timer := loop.next_timer()) is not None and timer <= end:
        now[0] = max(now[0], timer)
        loop.run_ready()
    now[0] = end


class AwayStore(MemoryStore):
    """Can't be reached, for as long as it has words for it."""

    away = "connection refused"

    async def connect(self) -> None:
        if self.away:
            raise StoreError(self.away)


def test_a_store_that_is_away_is_told_of_once_a_minute_and_at_once_when_it_says_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loop, store, failures = VirtualLoop(lambda: now[0]), AwayStore(), [""]
    with structlog.testing.capture_logs() as logs:
        connecting: asyncio.Task[None] = loop.create_task(connect(store, failures))
        live_on(loop, now, 150)
        assert [line["error"] for line in logs] == ["connection refused"] * 3
        store.away = "no such database"
        live_on(loop, now, 10)
        assert logs[-1]["error"] == failures[-1] == "no such database"
        store.away = ""
        live_on(loop, now, 3)
        assert [line["event"] for line in logs[4:]] == ["connected to the store"]
    assert connecting.done()
    loop.close()
