"""Capacity: the places of one replica, and how many of them a tenant or a schedule may use.

A running attempt takes a place, and so does a row of which no attempt runs. A tenant holds at most its share of what it
holds and what is free. So whatever tenants run, room is left for a tenant that runs nothing yet: with the default share
and one tenant whose runs hang, an eighth of the capacity; with two, a fifteenth. (Switches share their buffers between
ports by such a dynamic threshold.) A tenant that holds nothing may use the last free place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from .stored_row import DEFAULT_TENANT, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable

LIBRARY = Origin.LIBRARY.value  # looked up for each row

MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0
"""The least and the greatest weight of a tenant."""

SCHEDULE_SHARE = 0.5
"""The largest share for a schedule with active runs, of the places that it has and those that its tenant may still
take."""


class TenantRow(Protocol):
    """What a row's tenant follows from."""

    @property
    def origin(self) -> str: ...
    @property
    def slug(self) -> str: ...
    @property
    def tenant(self) -> str: ...


def tenant_of(row: TenantRow) -> str:
    """Return the tenant of a row: the namespace of its slug, or what the library's caller named."""
    return row.tenant if row.origin == LIBRARY else row.slug.partition("/")[0]


def describe_wait(position: int, exact: bool) -> str:
    """Return what a due row that nobody has claimed waits for. The arguments are those of ``Store.queue_position``."""
    return f"waiting for capacity, position {position}" + ("" if exact else " or later")


def bounded_room(held: int, free: int, share: float, *, others: bool = True) -> int:
    """Return how many of the ``free`` places a tenant or a schedule may take that already holds ``held``.

    If no ``others`` are known, a fraction of a place is rounded up, so that a lone tenant uses all of a small capacity.
    """
    if free <= 0:
        return 0
    most = share * (held + free)
    room = (math.floor(most + 1e-9) if others else math.ceil(most - 1e-9)) - held
    return min(max(room, 0 if held else 1), free)


class Capacity:
    """The places of one replica. ``Ownership`` takes and returns them."""

    def __init__(self, places: int, share: float) -> None:
        self.places = places
        self._share = share
        self.used = 0
        """Adopted attempts may take more places than there are."""
        self._held: dict[str, int] = {}

    @property
    def free(self) -> int:
        return self.places - self.used

    def take(self, tenant: str, places: int) -> None:
        """Take so many places for a tenant; a negative number returns them."""
        self.used += places
        held = self._held
        held[tenant] = left = held.get(tenant, 0) + places
        if not left:
            del held[tenant]

    def held(self, tenant: str) -> int:
        return self._held.get(tenant, 0)

    def tenants(self) -> Iterable[str]:
        """Return the tenants that hold places."""
        return self._held

    def room(self, tenant: str, *, taken: int = 0, quota: int = 0, others: bool = False) -> int:
        """Return how many more places a tenant may take.

        ``taken``: places that are about to be taken, ``quota`` of them for this tenant. ``others``: other tenants are
        known to have work.
        """
        others = others or len(self._held) > 1 or (bool(self._held) and tenant not in self._held)
        free = self.free - taken
        if tenant == DEFAULT_TENANT and not others:
            return max(free, 0)  # a program that names no tenants has all of its capacity
        return bounded_room(self.held(tenant) + quota, free, self._share, others=others)

    def room_of_newcomer(self, taken: int) -> int:
        """Return how many places a tenant may take that holds none."""
        return bounded_room(0, self.free - taken, self._share, others=bool(self._held))

    def room_of_any(self, taken: int) -> int:
        """Return how many places may be taken for rows whose tenants are not known yet."""
        return bounded_room(max(self._held.values(), default=0) + taken, self.free - taken, self._share)

    def room_of_schedule(self, tenant: str, places: int) -> int:
        """Return how many more attempts may start of a schedule that has ``places`` of its tenant's."""
        return bounded_room(places, self.room(tenant), SCHEDULE_SHARE)
