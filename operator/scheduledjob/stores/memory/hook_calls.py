"""The outbox of hooks in the memory store: calls that are not delivered yet."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.stored_row import HookCall, HookEnd

_Key = tuple[str, int]


class HookCalls:
    """The calls of one installation, by group and by when they are due.

    Each group has an agenda of its own, so a claim that leaves a group out does not walk over the calls of that group.
    """

    def __init__(self) -> None:
        self._calls: dict[_Key, tuple[Instant, HookCall]] = {}
        self._agendas: dict[str, list[tuple[Instant, _Key]]] = {}
        """By group: a heap. An entry whose instant is not that of its call is out of date."""
        self._groups: list[tuple[Instant, str]] = []
        """A heap. An entry whose instant is not that of the first entry of its group is out of date."""

    def add(self, calls: Iterable[HookCall], now: Instant) -> None:
        for call in calls:
            if (call.run_id, call.number) not in self._calls:
                self._enter(now, call)

    def _enter(self, due: Instant, call: HookCall) -> None:
        key, group = (call.run_id, call.number), call.group
        self._calls[key] = due, call
        agenda = self._agendas.setdefault(group, [])
        heappush(agenda, (due, key))
        if agenda[0] == (due, key):
            heappush(self._groups, (due, group))

    def claim(self, now: Instant, limit: int, lease: Micros, without: Sequence[str]) -> list[HookCall]:
        """Claim up to ``limit`` calls that are due, for ``lease``, except those of the groups in ``without``."""
        claimed: dict[_Key, HookCall] = {}
        left: set[tuple[Instant, str]] = set()
        while len(claimed) < limit and self._groups and self._groups[0][0] <= now:
            first = due, group = heappop(self._groups)
            agenda = self._agendas.get(group)
            if not agenda or agenda[0][0] != due:
                continue
            if group in without:
                left.add(first)
                continue
            _, key = heappop(agenda)
            if agenda:
                heappush(self._groups, (agenda[0][0], group))
            else:
                del self._agendas[group]
            entry = self._calls.get(key)
            if entry is not None and entry[0] == due and key not in claimed:  # it may have two entries
                claimed[key] = replace(entry[1], attempt=entry[1].attempt + 1)
        for first in left:
            heappush(self._groups, first)
        for call in claimed.values():  # only now, so that this claim does not find them again
            self._enter(now + lease, call)
        return list(claimed.values())

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
