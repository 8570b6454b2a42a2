"""The Firestore harness: a real emulator answers, and each test has its own collection."""

from __future__ import annotations

import os

import psutil
import pytest
from google.cloud.firestore import AsyncClient

from tests.support import firestore
from tests.support.firestore import FirestoreTarget, any_firestore, new_target

pytestmark = pytest.mark.firestore


async def test_documents_are_read_from_their_own_collection_only(firestore_target: FirestoreTarget) -> None:
    other = new_target(firestore_target.host)
    client = AsyncClient(project=firestore_target.project)
    await client.collection(firestore_target.collection).document("a").set({"text": "não"})
    await client.collection(other.collection).document("b").set({"text": "другой"})

    found = {
        document.id: document.to_dict() async for document in client.collection(firestore_target.collection).stream()
    }
    assert found == {"a": {"text": "não"}}
    client.close()  # type: ignore[no-untyped-call]  # the library leaves it untyped


def test_clients_find_the_emulator_by_its_variable(firestore_host: str) -> None:
    assert os.environ["FIRESTORE_EMULATOR_HOST"] == firestore_host
    with any_firestore() as given:
        assert given == firestore_host


def test_an_emulator_ends_with_all_its_processes(firestore_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = firestore.local_command()
    if command is None:
        pytest.skip("the emulator is not of this machine")
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST")
    before = set(psutil.Process().children(recursive=True))
    with any_firestore() as host:
        started = set(psutil.Process().children(recursive=True)) - before
        assert host != firestore_host
        assert any("java" in process.name() for process in started)
    _, alive = psutil.wait_procs(list(started), timeout=10)
    assert not alive
