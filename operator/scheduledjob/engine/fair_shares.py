"""Fair shares: how many due rows of each tenant a claim takes when more are due than fit.

Tenants are served by weighted deficit round robin. Each visit adds the tenant's quantum to its deficit, and the tenant
takes as many rows as its deficit allows. What a batch had no place for stays in the deficit, so that the shares are
exact over many batches. A tenant without due rows keeps no deficit: it can't save up turns.

A tenant's room is bounded, too. It holds at most ``share`` of what it holds and what is free, so whatever tenants run,
room is left for a tenant that runs nothing yet. (Switches share their buffers between ports by such a dynamic
threshold.) A tenant that runs nothing may always use the last free place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_TENANT = ""
"""The tenant of library schedules that name none."""

SCHEDULE_SHARE = 0.5
"""A schedule may start another run beside its active ones while it has at most this share of what it has and what its
tenant may still use."""


def bounded_room(held: int, free: int, share: float) -> int:
    """Return how many more places somebody may take who holds ``held``, of ``free`` ones."""
    if free <= 0:
        return 0
    # held + n <= share * (held + free), with a little for rounding.
    room = math.floor(share * (held + free) - held + 1e-9)
    return min(max(room, 0 if held else 1), free)


class FairShares:
    """The deficits and the order of the tenants of one replica."""

    def __init__(self, weights: Mapping[str, float], share: float) -> None:
        self._weights = weights
        self._share = share
        self._deficits: dict[str, float] = {}
        """By tenant with due rows, in the order of their turns."""
        self._served: set[str] = set()
        """Tenants that had a turn in the last batch."""

    def allot(
        self, demand: Mapping[str, float], limit: int, free: int, held: Callable[[str], int], *, bounded: bool = True
    ) -> dict[str, int]:
        """Return how many rows of each tenant to claim, at most ``limit`` in all.

        ``demand``: how many rows of each tenant are due; infinity: more than were counted. ``free``: the free places
        of this replica. ``held``: the places that a tenant holds. ``bounded``: leave room for other tenants.
        """
        deficits = self._deficits = self._turns_of({tenant for tenant, count in demand.items() if count > 0})
        self._served.clear()
        if not deficits:
            return {}
        least = min(self._weight(tenant) for tenant in deficits)
        quotas: dict[str, int] = {}
        left = min(limit, free)
        turns = list(deficits)
        while turns and left > 0:
            following = []
            for tenant in turns:
                quota = quotas.get(tenant, 0)
                wanted = min(demand[tenant] - quota, self._room(held(tenant) + quota, free, bounded))
                if wanted <= 0:
                    continue
                if left <= 0:
                    break
                if deficits[tenant] < 1:
                    deficits[tenant] += self._weight(tenant) / least
                taken = int(min(deficits[tenant], wanted, left))
                quotas[tenant] = quota + taken
                left -= taken
                free -= taken
                deficits[tenant] -= taken
                if quotas[tenant] >= demand[tenant]:
                    deficits[tenant] = 0.0
                if deficits[tenant] < 1:
                    self._served.add(tenant)
                    deficits[tenant] = deficits.pop(tenant)  # its next turn comes last
                following.append(tenant)
            turns = following
        return quotas

    def _turns_of(self, waiting: set[str]) -> dict[str, float]:
        """Return the deficits of tenants in the order of their turns.

        First come tenants that had no turn in the last batch, then those that had no due rows then, then the others.
        """
        known = [tenant for tenant in self._deficits if tenant in waiting]
        order = [tenant for tenant in known if tenant not in self._served]
        order += sorted(waiting - self._deficits.keys())
        order += [tenant for tenant in known if tenant in self._served]
        return {tenant: self._deficits.get(tenant, 0.0) for tenant in order}

    def _room(self, held: int, free: int, bounded: bool) -> int:
        return bounded_room(held, free, self._share) if bounded else max(free, 0)

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)
