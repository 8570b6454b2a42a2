"""Queues in which groups, such as namespaces, take turns: many items of one group do not delay those of another."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Items that are ready, of which each group gets one in turn."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, deque[_T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def put(self, group: str, item: _T) -> None:
        self._groups.setdefault(group, deque()).append(item)

    def take(self) -> _T:
        """Return the oldest item of the group whose turn it is."""
        group, items = self._groups.popitem(last=False)
        item = items.popleft()
        if items:
            self._groups[group] = items
        return item
