"""Errors for a wrong URL, wrong credentials or a network failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.api_core import exceptions as errors

from scheduledjob.engine.store import StoreError, StoreUnavailable
from scheduledjob.stores.firestore import FirestoreStore
from scheduledjob.stores.firestore.wire import Conflict, Refused, _translate_errors
from tests.support.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("firestore://project", "firestore://project/collection"),
        ("firestore:///collection", "firestore://project/collection"),
        ("firestore://project/a/b", "firestore://project/collection"),
        ("firestore://project/a?shard=2", "'shard'.*database and shards"),
        ("firestore://project/a?shards=0", "from 1 to 30"),
        ("firestore://project/a?shards=31", "from 1 to 30"),
        ("firestore://project/a?shards=two", "from 1 to 30"),
        ("firestore://project/a?shards=", "from 1 to 30"),
    ],
)
def test_the_error_for_a_wrong_url_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FirestoreStore(url)


async def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    store = FirestoreStore("firestore://project/collection")
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await store.connect()


async def test_the_error_without_credentials_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    store = FirestoreStore("firestore://project/collection")
    with pytest.raises(StoreError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        await store.connect()


async def test_a_store_that_is_not_connected_says_so() -> None:
    store = FirestoreStore("firestore://project/collection")
    with pytest.raises(StoreError, match="connect"):
        await store.get(["a"])


@pytest.mark.firestore
async def test_the_number_of_shards_cannot_be_changed(open_one: Callable[..., Awaitable[FirestoreStore]]) -> None:
    await open_one("?shards=3")
    await open_one()
    await open_one("?shards=3")
    with pytest.raises(StoreError, match=r"has 3 shards.*leave shards out"):
        await open_one("?shards=4")


def _error(name: str, words: str) -> Exception:
    made: Exception = getattr(errors, name)(words)
    return made


@pytest.mark.parametrize(
    ("error", "act", "what", "words"),
    [
        (_error("FailedPrecondition", "The query requires an index."), "read", StoreError, "firestore.indexes.json"),
        (_error("NotFound", "The database (default) does not exist"), "write", StoreError, "create the database"),
        (_error("NotFound", "no document to update"), "write", Conflict, "no document"),
        (_error("AlreadyExists", "it is there"), "write", Conflict, "there"),
        (_error("Aborted", "too much contention"), "write", Conflict, "contention"),
        (_error("Aborted", "too much contention"), "read", StoreUnavailable, "contention"),
        (_error("PermissionDenied", "no"), "read", StoreError, "roles/datastore.user"),
        (_error("InvalidArgument", "too long"), "write", Refused, "too long"),
        (_error("ServiceUnavailable", "down"), "read", StoreUnavailable, "down"),
        (_error("DeadlineExceeded", "slow"), "write", StoreUnavailable, "slow"),
        (_error("ResourceExhausted", "quota"), "write", StoreUnavailable, "quota"),
        (TimeoutError(), "read", StoreUnavailable, "TimeoutError"),
    ],
)
def test_each_error_says_what_to_do(error: Exception, act: str, what: type[Exception], words: str) -> None:
    with pytest.raises(what, match=words) as raised, _translate_errors(act):
        raise error
    assert type(raised.value) is what
