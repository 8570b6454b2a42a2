"""Values of Secrets and ConfigMaps from a real API server, and the errors if there are none."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.references import CannotRead, ClusterReferences

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.harness import Cluster, ControlPlane

pytestmark = pytest.mark.cluster

BYTES = bytes(range(256))


class Resolver:
    def __init__(self, cluster: Cluster, namespace: str, user: str = "") -> None:
        self.namespace = namespace
        self.requests: list[tuple[str, str, int]] = []
        kubeconfig = cluster.kubeconfig_for(user) if user else cluster.kubeconfig
        self.api = Api.from_config(str(kubeconfig), on_request=lambda *call: self.requests.append(call[:3]))
        self.references = ClusterReferences(self.api)

    async def value(self, kind: str, name: str, key: str) -> bytes:
        return await self.references.resolve(kind, f"{self.namespace}/{name}", key)


@pytest.fixture
async def resolver(cluster: Cluster, namespace: str) -> AsyncIterator[Resolver]:
    made = Resolver(cluster, namespace)
    async with made.api as api:
        data = {"password": base64.b64encode(BYTES).decode(), "user": base64.b64encode(b"me").decode()}
        await api.post(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": "one"}, "data": data})
        config_map = {
            "metadata": {"name": "one"},
            "data": {"text": "ß"},
            "binaryData": {"bytes": base64.b64encode(BYTES).decode()},
        }
        await api.post(f"/api/v1/namespaces/{namespace}/configmaps", config_map)
        await api.post(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "empty"}})
        made.requests.clear()
        yield made


async def test_values_are_decoded(resolver: Resolver) -> None:
    assert await resolver.value("Secret", "one", "password") == BYTES
    assert await resolver.value("ConfigMap", "one", "text") == "ß".encode()
    assert await resolver.value("ConfigMap", "one", "bytes") == BYTES


async def test_a_rotated_secret_is_used_at_once(resolver: Resolver) -> None:
    assert await resolver.value("Secret", "one", "user") == b"me"
    path = f"/api/v1/namespaces/{resolver.namespace}/secrets/one"
    await resolver.api.patch(path, {"stringData": {"user": "you"}})
    assert await resolver.value("Secret", "one", "user") == b"you"


async def test_a_missing_reference_is_named(resolver: Resolver) -> None:
    with pytest.raises(
        LookupError, match=rf'no Secret "two" in namespace "{resolver.namespace}" for key "a": create it'
    ):
        await resolver.value("Secret", "two", "a")
    with pytest.raises(LookupError, match=r'Secret "one" .* has no key "a": its keys are password, user$'):
        await resolver.value("Secret", "one", "a")
    with pytest.raises(LookupError, match=r'ConfigMap "one" .* has no key "a": its keys are bytes, text$'):
        await resolver.value("ConfigMap", "one", "a")
    many = {"metadata": {"name": "many"}, "data": {f"k{number:02}": "" for number in range(13)}}
    await resolver.api.post(f"/api/v1/namespaces/{resolver.namespace}/configmaps", many)
    with pytest.raises(LookupError, match=r"its keys are k00, .*, k09 and 3 more$"):
        await resolver.value("ConfigMap", "many", "a")
    with pytest.raises(LookupError, match=r"its keys are none$"):
        await resolver.value("ConfigMap", "empty", "a")


@pytest.mark.parametrize(
    "name", ["../../default/secrets/one", "one/../two", "", ".", "..", "One", "a b", "one?x=y", "ü"]
)
async def test_a_name_is_never_a_path(resolver: Resolver, name: str) -> None:
    with pytest.raises(LookupError, match="is not a valid name of a Secret"):
        await resolver.value("Secret", name, "user")
    assert not resolver.requests


async def test_concurrent_reads_share_a_request(resolver: Resolver) -> None:
    values = await asyncio.gather(*(resolver.value("Secret", "one", key) for key in ["user", "password"] * 500))
    assert values == [b"me", BYTES] * 500
    assert resolver.requests == [("get", "secrets", 200)]
    await resolver.value("Secret", "one", "user")
    assert len(resolver.requests) == 2, "nothing is cached"


async def test_a_cancelled_read_does_not_cancel_others(resolver: Resolver) -> None:
    tasks = [asyncio.create_task(resolver.value("Secret", "one", "user")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # it sends the request
    tasks[1].cancel()  # it waits for the answer
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:2]] == [asyncio.CancelledError] * 2
    assert outcomes[2:] == [b"me"] * 3


async def test_a_forbidden_read_says_what_to_grant(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    resolver = Resolver(own_cluster, namespace, "operator")
    async with resolver.api:
        with pytest.raises(CannotRead, match='grant its service account the verb "get" on "secrets" there') as error:
            await resolver.value("Secret", "one", "user")
    assert not isinstance(error.value, LookupError), "an optional reference must not be left out"
    assert 'User "operator" cannot get resource "secrets"' in str(error.value)


async def test_an_outage_is_reported_after_some_attempts(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduledjob.kube.client.api.FIRST_PAUSE", 0.001)
    resolver = Resolver(own_cluster, "default")
    async with resolver.api:
        own_cluster.apiserver.kill()
        with pytest.raises(CannotRead, match=r'Secret "one" .* could not be read for key "a": .*can.t be reached'):
            await resolver.value("Secret", "one", "a")
    assert [status for *_, status in resolver.requests] == [0] * 4
