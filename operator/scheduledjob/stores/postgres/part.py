"""What the parts of the store share: server, pool, installation and claim watermark."""

from __future__ import annotations

from scheduledjob.engine.store import StoreError

from .address import parse_address
from .claim_watermark import ClaimWatermark
from .connections import Pool, PostgresServer

POOL_SIZE = 4
COMMAND_TIMEOUT = 10.0
"""Time limit in seconds of one call; after it, the store counts as unavailable."""

SEARCH_START = ("\U0010ffff", "")
"""The place behind all tenants."""


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
