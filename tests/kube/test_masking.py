"""Whose Secrets are read for masking a Pod's output: only those of its own namespace, whatever the Pod calls them."""

from __future__ import annotations

from typing import Any

import pytest

from scheduledjob.kube.pods.pods_api import ClusterPods


class Asked:
    """Remembers, in place of a client, what it was asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def get(self, path: str, **_: object) -> dict[str, Any]:
        self.paths.append(path)
        return {"kind": "Secret", "data": {"key": "dmFsdWU="}}


@pytest.mark.parametrize(
    "name", ["../../kube-system/secrets/db", "..", ".", "a/b", "a?x=1", "a%2Fb", "a#b", "", "a\n", "A", "a" * 254]
)
async def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    asked = Asked()
    pods = ClusterPods(asked)  # type: ignore[arg-type]  # of the client it needs one method
    assert await pods.secret("team-a", name) == {}
    assert asked.paths == []


async def test_a_secret_of_the_namespace_is_read() -> None:
    asked = Asked()
    pods = ClusterPods(asked)  # type: ignore[arg-type]  # of the client it needs one method
    assert await pods.secret("team-a", "db.v1") == {"key": b"value"}
    assert asked.paths == ["/api/v1/namespaces/team-a/secrets/db.v1"]
