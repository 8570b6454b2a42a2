"""The stores behind the engine's ``Store`` protocol, by URL.

A store's own module is imported only when it is asked for: nobody who runs on memory loads the client libraries of
the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scheduledjob.extras import needs_extra

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store

MEMORY_URL = "memory:"
ALLOWED = f"{MEMORY_URL}, postgresql://user:password@host:5432/database, or firestore://project/collection"


def is_memory(url: str) -> bool:
    """Whether ``url`` names the store in memory, which forgets everything when the process ends."""
    return url.lower().startswith(MEMORY_URL)


def open_store(url: str, installation: str = "local") -> Store:
    """The store that ``url`` names, for one installation in it; not connected yet.

    Each ``memory:`` is a new, empty store. Raises ``ValueError`` for a URL that names no store, and
    ``MissingExtraError`` where the store's client library is not installed.
    """
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if is_memory(url):
        if url[len(MEMORY_URL) :].strip("/"):
            raise ValueError(f"{url!r} says more than a store in memory can be told: write memory:")
        from .memory import MemoryStore

        return MemoryStore(installation=installation)
    if scheme in {"postgresql", "postgres"}:
        from .postgres import PostgresStore

        return PostgresStore(url, installation=installation)
    if scheme == "firestore":
        project, collection = urlsplit(url).netloc, urlsplit(url).path.strip("/")
        if not project or not collection or "/" in collection:
            raise ValueError(f"{url!r} does not name a Firestore collection: write firestore://project/collection")
        with needs_extra("firestore", "firestore://... needs Google's client"):
            from .firestore import FirestoreStore

        return FirestoreStore(url, installation=installation)
    # What was given may hold a password: only its scheme is repeated.
    given = f"{scheme!r} names no store" if scheme else "the store's URL has no scheme"
    raise ValueError(f"{given}: give one of {ALLOWED}")
