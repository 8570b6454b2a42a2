"""Secrets for masking a Pod's output: only those of its own namespace are read, whatever name the Pod gives."""

from __future__ import annotations

from typing import Any

import pytest

from scheduledjob.jobs.container.pods_protocol import PodRefused, SecretVersion
from scheduledjob.kube.client.api_errors import error_of_status
from scheduledjob.kube.pods.pods_api import ClusterPods


class RecordingApi:
    """Stands in for the client, and records the requested paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def get(self, path: str, **_: object) -> dict[str, Any]:
        self.paths.append(path)
        return {"kind": "Secret", "metadata": {"uid": "u", "resourceVersion": "7"}, "data": {"key": "dmFsdWU="}}


@pytest.mark.parametrize(
    "name", ["../../kube-system/secrets/db", "..", ".", "a/b", "a?x=1", "a%2Fb", "a#b", "", "a\n", "A", "a" * 254]
)
async def test_an_invalid_name_is_never_requested(name: str) -> None:
    api = RecordingApi()
    pods = ClusterPods(api)  # type: ignore[arg-type]  # it needs only this method of the client
    assert await pods.secret("team-a", name) == SecretVersion("", {})
    assert api.paths == []


async def test_a_secret_of_the_namespace_is_read() -> None:
    api = RecordingApi()
    pods = ClusterPods(api)  # type: ignore[arg-type]  # it needs only this method of the client
    assert await pods.secret("team-a", "db.v1") == SecretVersion("u/7", {"key": b"value"})
    assert api.paths == ["/api/v1/namespaces/team-a/secrets/db.v1"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (413, "Request entity too large: limit is 3145728"),
        (500, "etcdserver: request is too large"),
        (
            500,
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2146345 vs. 2097152)",
        ),
    ],
)
async def test_a_pod_that_is_too_large_is_refused_at_once(status: int, message: str) -> None:
    class Api:
        async def post(self, *_: object, **__: object) -> None:
            raise error_of_status(status, {"message": message})

    pods = ClusterPods(Api())  # type: ignore[arg-type]  # it needs only this method of the client
    with pytest.raises(PodRefused, match=r"too large|larger than max.*: make its template or its payload smaller"):
        await pods.create({"metadata": {"namespace": "team-a", "name": "a"}})
