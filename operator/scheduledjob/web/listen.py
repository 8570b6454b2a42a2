"""Addresses to listen on, as people write them: ``:8080``, ``127.0.0.1:0``, ``[::1]:8080``.

This is apart from the server, because reading settings and showing ``--help`` must not load the server's libraries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]*)):([0-9]{1,5})")
_LARGEST = 65_535


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on."""

    host: str
    """Empty means every address of this machine, IPv4 and IPv6."""
    port: int
    """0 means a free port."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Listen:
    """Parse an address. Raises ``ValueError`` that says what to write instead."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text[:60]!r} is not an address to listen on: write host:port, as in 127.0.0.1:8080 or [::1]:8080, "
            "or :8080 for every address of this machine"
        )
    if int(found[3]) > _LARGEST:
        raise ValueError(f"{found[3]} is not a port: write a number up to {_LARGEST}, or 0 for a free one")
    return Listen(found[1] or found[2], int(found[3]))
