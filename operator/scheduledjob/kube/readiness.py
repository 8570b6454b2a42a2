"""Readiness: why which parts of the operator are not ready."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Readiness:
    """What ``/readyz`` answers. The functions that it calls return at once."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], str | None]] = {}

    def add(self, part: str, why_not: Callable[[], str | None]) -> None:
        """``why_not`` returns why the part is not ready, or None."""
        self._parts[part] = why_not

    @contextmanager
    def waiting(self, part: str, why: Callable[[], str | None]) -> Iterator[None]:
        """Report the part as not ready inside ``with``, for the reason that ``why`` returns."""
        self._parts[part] = lambda: why() or "not yet"
        try:
            yield
        finally:
            del self._parts[part]

    def __call__(self) -> dict[str, str | None]:
        return {part: why_not() for part, why_not in self._parts.items()}
