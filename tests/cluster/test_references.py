"""Values of Secrets and ConfigMaps from the real API server, and what is said where there are none."""

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


class Asking:
    def __init__(self, cluster: Cluster, namespace: str, user: str = "") -> None:
        self.namespace = namespace
        self.asked: list[tuple[str, str, int]] = []
        kubeconfig = cluster.kubeconfig_for(user) if user else cluster.kubeconfig
        self.api = Api.from_config(str(kubeconfig), on_request=lambda *call: self.asked.append(call[:3]))
        self.references = ClusterReferences(self.api)

    async def value(self, kind: str, name: str, key: str) -> bytes:
        return await self.references.resolve(kind, f"{self.namespace}/{name}", key)


@pytest.fixture
async def asking(cluster: Cluster, namespace: str) -> AsyncIterator[Asking]:
    made = Asking(cluster, namespace)
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
        made.asked.clear()
        yield made


async def test_values_come_as_they_are(asking: Asking) -> None:
    assert await asking.value("Secret", "one", "password") == BYTES
    assert await asking.value("ConfigMap", "one", "text") == "ß".encode()
    assert await asking.value("ConfigMap", "one", "bytes") == BYTES


async def test_a_rotated_secret_counts_at_once(asking: Asking) -> None:
    assert await asking.value("Secret", "one", "user") == b"me"
    path = f"/api/v1/namespaces/{asking.namespace}/secrets/one"
    await asking.api.patch(path, {"stringData": {"user": "you"}})
    assert await asking.value("Secret", "one", "user") == b"you"


async def test_what_is_missing_is_named(asking: Asking) -> None:
    with pytest.raises(LookupError, match=rf'no Secret "two" in namespace "{asking.namespace}" for key "a": create it'):
        await asking.value("Secret", "two", "a")
    with pytest.raises(LookupError, match=r'Secret "one" .* has no key "a": its keys are password, user$'):
        await asking.value("Secret", "one", "a")
    with pytest.raises(LookupError, match=r'ConfigMap "one" .* has no key "a": its keys are bytes, text$'):
        await asking.value("ConfigMap", "one", "a")
    many = {"metadata": {"name": "many"}, "data": {f"k{number:02}": "" for number in range(13)}}
    await asking.api.post(f"/api/v1/namespaces/{asking.namespace}/configmaps", many)
    with pytest.raises(LookupError, match=r"its keys are k00, .*, k09 and 3 more$"):
        await asking.value("ConfigMap", "many", "a")
    with pytest.raises(LookupError, match=r"its keys are none$"):
        await asking.value("ConfigMap", "empty", "a")


@pytest.mark.parametrize(
    "name", ["../../default/secrets/one", "one/../two", "", ".", "..", "One", "a b", "one?x=y", "ü"]
)
async def test_a_name_is_never_a_path(asking: Asking, name: str) -> None:
    with pytest.raises(LookupError, match="is not a valid name of a Secret"):
        await asking.value("Secret", name, "user")
    assert not asking.asked


async def test_those_who_ask_together_ask_once(asking: Asking) -> None:
    values = await asyncio.gather(*(asking.value("Secret", "one", key) for key in ["user", "password"] * 500))
    assert values == [b"me", BYTES] * 500
    assert asking.asked == [("get", "secrets", 200)]
    await asking.value("Secret", "one", "user")
    assert len(asking.asked) == 2, "nothing is kept"


async def test_who_is_cancelled_takes_nobody_along(asking: Asking) -> None:
    tasks = [asyncio.create_task(asking.value("Secret", "one", "user")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # the one that asks
    tasks[1].cancel()  # one that waits for its answer
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes[:2]] == [asyncio.CancelledError] * 2
    assert outcomes[2:] == [b"me"] * 3


async def test_what_may_not_be_read_says_what_to_grant(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    asking = Asking(own_cluster, namespace, "operator")
    async with asking.api:
        with pytest.raises(CannotRead, match='grant its service account the verb "get" on "secrets" there') as error:
            await asking.value("Secret", "one", "user")
    assert not isinstance(error.value, LookupError), "an optional reference is not left out for that"
    assert 'User "operator" cannot get resource "secrets"' in str(error.value)


async def test_a_server_that_is_away_is_said_after_some_tries(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduledjob.kube.client.api.FIRST_PAUSE", 0.001)
    asking = Asking(own_cluster, "default")
    async with asking.api:
        own_cluster.apiserver.kill()
        with pytest.raises(CannotRead, match=r'Secret "one" .* could not be read for key "a": .*can.t be reached'):
            await asking.value("Secret", "one", "a")
    assert [status for *_, status in asking.asked] == [0] * 4
