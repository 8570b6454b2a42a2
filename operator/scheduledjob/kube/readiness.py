"""Readiness: what every part of the operator says of itself, in one place."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Readiness:
    """Asked by ``/readyz``; nobody is asked anything that takes time."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], str | None]] = {}

    def add(self, part: str, why_not: Callable[[], str | None]) -> None:
        """``why_not``: None where that part is ready."""
        self._parts[part] = why_not

    @contextmanager
    def waiting(self, part: str, why: Callable[[], str | None]) -> Iterator[None]:
        """As long as this is open that part is not ready, for the reason that ``why`` gives."""
        self._parts[part] = lambda: why() or "not yet"
        try:
            yield
        finally:
            del self._parts[part]

    def __call__(self) -> dict[str, str | None]:
        return {part: why_not() for part, why_not in self._parts.items()}
