"""The outbox of hooks in the memory store: calls that are not delivered yet."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.stored_row import HookCall, HookEnd


class HookCalls:
    """The calls of one installation, by when they are due."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], tuple[Instant, HookCall]] = {}
        self._agenda: list[tuple[Instant, tuple[str, int]]] = []
        """A heap. An entry whose instant is not that of its call is out of date."""

    def add(self, calls: Iterable[HookCall], now: Instant) -> None:
        for call in calls:
            if (call.run_id, call.number) not in self._calls:
                self._enter(now, call)

    def _enter(self, due: Instant, call: HookCall) -> None:
        key = (call.run_id, call.number)
        self._calls[key] = due, call
        heapq.heappush(self._agenda, (due, key))

    def claim(self, now: Instant, limit: int, lease: Micros, without: Sequence[str]) -> list[HookCall]:
        """Claim up to ``limit`` calls that are due, for ``lease``, except those of the groups in ``without``."""
        claimed: list[HookCall] = []
        left: list[tuple[Instant, tuple[str, int]]] = []
        while len(claimed) < limit and self._agenda and self._agenda[0][0] <= now:
            due, key = heapq.heappop(self._agenda)
            entry = self._calls.get(key)
            if entry is None or entry[0] != due:
                continue
            if entry[1].group in without:
                left.append((due, key))
            else:
                claimed.append(replace(entry[1], attempt=entry[1].attempt + 1))
        for place in left:
            heapq.heappush(self._agenda, place)
        for call in claimed:  # only now, so that this claim does not find them again
            self._enter(now + lease, call)
        return claimed

    def settle(self, ends: Iterable[HookEnd], now: Instant) -> None:
        for end in ends:
            key = (end.run_id, end.number)
            entry = self._calls.get(key)
            if entry is None or entry[1].attempt != end.attempt:
                continue
            if end.retry_in is None:
                del self._calls[key]
            else:
                self._enter(now + end.retry_in, entry[1])
