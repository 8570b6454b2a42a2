"""Stores of one installation in the emulator, and a meter of what they would cost."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from scheduledjob.stores.firestore import FirestoreStore

from .metering import Meter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.firestore import FirestoreTarget


@pytest.fixture
async def open_one(firestore_target: FirestoreTarget) -> AsyncIterator[Callable[..., Awaitable[FirestoreStore]]]:
    """Return a function that opens stores of one fresh installation; ``options`` is the query of the URL."""
    async with AsyncExitStack() as stack:

        async def open_store(options: str = "") -> FirestoreStore:
            store = FirestoreStore(firestore_target.url + options)
            await store.connect()
            stack.push_async_callback(store.close)
            return store

        yield open_store


@pytest.fixture
async def store(open_one: Callable[..., Awaitable[FirestoreStore]]) -> FirestoreStore:
    return await open_one()


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    meter = Meter()
    meter.install(monkeypatch)
    return meter
