"""A meter of what Firestore would bill, which can also lose answers. Both happen in Google's client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.api_core.exceptions import ServiceUnavailable
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

LOST: Exception = ServiceUnavailable("the answer was lost")  # type: ignore[no-untyped-call]  # Google's is untyped


@dataclass
class Meter:
    """Counts documents read, written and deleted since the last reset."""

    read: int = 0
    written: int = 0
    deleted: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    lose: set[str] = field(default_factory=set)
    """Names of calls; for each, the answer of one call is lost after it was carried out."""

    def reset(self) -> None:
        self.read = self.written = self.deleted = 0
        self.calls.clear()

    def _count_writes(self, writes: Any, refused: set[int]) -> None:
        for number, write in enumerate(writes):
            if number in refused:
                continue
            if write.delete:
                self.deleted += 1
            else:
                self.written += 1

    def install(self, patch: pytest.MonkeyPatch) -> None:
        meter = self
        real: dict[str, Any] = {
            name: getattr(FirestoreAsyncClient, name)
            for name in ("commit", "batch_write", "run_query", "batch_get_documents")
        }

        async def commit(client: Any, request: Any, **options: Any) -> Any:
            meter.calls["commit"] += 1
            answer = await real["commit"](client, request, **options)
            meter._count_writes(request.writes, set())
            meter._may_lose("commit")
            return answer

        async def batch_write(client: Any, request: Any, **options: Any) -> Any:
            meter.calls["batch_write"] += 1
            answer = await real["batch_write"](client, request, **options)
            meter._count_writes(request.writes, {n for n, status in enumerate(answer.status) if status.code})
            meter._may_lose("batch_write")
            return answer

        def reading(name: str) -> Any:
            async def call(client: Any, request: Any, **options: Any) -> Any:
                meter.calls[name] += 1
                stream = await real[name](client, request, **options)

                async def counted() -> AsyncIterator[Any]:
                    documents = 0
                    async for answer in stream:
                        if name == "batch_get_documents":
                            documents += bool(answer.found or answer.missing)
                        else:
                            documents += bool(answer.document)
                        yield answer
                    # A query that finds nothing is billed as one read.
                    meter.read += max(1, documents)

                return counted()

            return call

        patch.setattr(FirestoreAsyncClient, "commit", commit)
        patch.setattr(FirestoreAsyncClient, "batch_write", batch_write)
        for name in ("run_query", "batch_get_documents"):
            patch.setattr(FirestoreAsyncClient, name, reading(name))

    def _may_lose(self, name: str) -> None:
        if name in self.lose:
            self.lose.discard(name)
            raise LOST
