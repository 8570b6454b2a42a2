"""The stores behind the engine's ``Store`` protocol, by URL.

A store's package is imported only when a URL names it, so the memory store does not load the others' client libraries.
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
    """Return whether ``url`` names the store in memory, which loses everything when the process exits."""
    return url.lower().startswith(MEMORY_URL)


def open_store(url: str, installation: str = "local") -> Store:
    """Return the store that ``url`` names, for one installation in it. It is not connected yet.

    Each ``memory:`` is a new, empty store. Raises ValueError for a URL that names no store, and MissingExtraError if
    the store's client library is not installed.
    """
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if is_memory(url):
        if url[len(MEMORY_URL) :].strip("/"):
            raise ValueError(f"{url!r} has a path, but the store in memory has none: write memory:")
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
    # The URL may contain a password, so only its scheme is shown.
    given = f"{scheme!r} names no store" if scheme else "the store's URL has no scheme"
    raise ValueError(f"{given}: give one of {ALLOWED}")
