"""What the parts of the store share: server, pool, installation and claim watermark."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from scheduledjob.engine.store import StoreError

from .address import parse_address
from .claim_watermark import ClaimWatermark
from .connections import Pool, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterable

POOL_SIZE = 4
COMMAND_TIMEOUT = 10.0
"""Time limit in seconds of one call; after it, the store counts as unavailable."""

SEARCH_START = ("\U0010ffff", "")
"""The place behind all tenants."""


MAX_GROWN = 20_000
"""Slugs with new records that are remembered until the next pruning."""


class GrownHistory:
    """The slugs of which this store has written records since they were pruned last."""

    def __init__(self) -> None:
        self._slugs: dict[str, None] = {}
        self.examined = False
        """The whole history was examined, so only what these slugs have may be pushed out."""

    def add(self, slugs: Iterable[str]) -> None:
        self._slugs.update(dict.fromkeys(slugs))
        if len(self._slugs) > MAX_GROWN:
            self._slugs.clear()
            self.examined = False

    def take(self, limit: int) -> list[str]:
        """Return up to ``limit`` slugs, and forget them."""
        taken = list(islice(self._slugs, limit))
        for slug in taken:
            del self._slugs[slug]
        return taken


class PostgresPart:
    """Base of the parts. Made from a URL, usable once the store is connected."""

    def __init__(self, url: str, *, installation: str = "local", timeout: float = COMMAND_TIMEOUT) -> None:
        self._server = PostgresServer(parse_address(url), timeout)
        self._timeout = timeout
        self._installation_name = installation
        self._installation_id: int | None = None
        self._pool = Pool(self._server, POOL_SIZE, timeout)
        self._watermark = ClaimWatermark()
        self._search_from = SEARCH_START
        """The tenant and the kind before which the next claim with quotas begins to search."""
        self.history_grew = GrownHistory()
        self._replicas: set[str] = set()
        """Replicas in this process: they need not hear their own notifications."""

    @property
    def _installation(self) -> int:
        if self._installation_id is None:
            raise StoreError("the store is not connected: call connect() first")
        return self._installation_id

    @property
    def _channel(self) -> str:
        return f"scheduledjob_{self._installation}"
