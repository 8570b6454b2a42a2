"""Fair shares: how many due rows of each tenant a claim takes when more are due than fit.

Tenants are served by weighted deficit round robin. Each turn adds the tenant's quantum to its deficit, and the tenant
takes as many rows as its deficit allows. What a batch had no place for stays in the deficit, so that the shares are
exact over many batches. A tenant without due rows keeps no deficit: it can't save up turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Set


TURNS = 8
"""How many turns each tenant has in a batch, if it is large enough. More are fairer, and take longer to work out."""


class Room(Protocol):
    """Returns how many more places a tenant may take after ``taken`` in all, ``quota`` of them for this tenant."""

    def __call__(self, tenant: str, *, taken: int, quota: int) -> int: ...


class FairShares:
    """The deficits and the order of the tenants of one replica."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._deficits: dict[str, float] = {}
        """By tenant with due rows, in the order of their turns."""
        self._served: set[str] = set()
        """Tenants that had a turn in the last batch."""

    def allot(self, demand: Mapping[str, float], limit: int, room: Room) -> dict[str, int]:
        """Return how many rows of each tenant to claim, at most ``limit`` in all.

        ``demand``: how many rows of each tenant with due rows are due; infinity: nobody counted them.
        """
        deficits = self._deficits = self._turns_of(demand.keys())
        self._served.clear()
        if not deficits:
            return {}
        if len(deficits) == 1:
            (tenant,) = deficits
            quota = int(min(demand[tenant], limit, room(tenant, taken=0, quota=0)))
            return {tenant: quota} if quota > 0 else {}
        least = min(map(self._weight, deficits)) / max(1, limit // (TURNS * len(deficits)))
        quotas: dict[str, int] = {}
        taken = 0
        turns = list(deficits)
        while turns and taken < limit:
            following = []
            for tenant in turns:
                quota = quotas.get(tenant, 0)
                wanted = min(demand[tenant] - quota, room(tenant, taken=taken, quota=quota))
                if wanted <= 0:
                    continue
                if taken >= limit:
                    break
                if deficits[tenant] < 1:
                    deficits[tenant] += self._weight(tenant) / least
                served = int(min(deficits[tenant], wanted, limit - taken))
                quotas[tenant] = quota + served
                taken += served
                deficits[tenant] -= served
                if quotas[tenant] >= demand[tenant]:
                    deficits[tenant] = 0.0
                if deficits[tenant] < 1:
                    self._served.add(tenant)
                    deficits[tenant] = deficits.pop(tenant)  # its next turn comes last
                following.append(tenant)
            turns = following
        return quotas

    def _turns_of(self, waiting: Set[str]) -> dict[str, float]:
        """Return the deficits of tenants in the order of their turns.

        First come tenants that had no turn in the last batch, then those that had no due rows then, then the others.
        """
        known = [tenant for tenant in self._deficits if tenant in waiting]
        order = [tenant for tenant in known if tenant not in self._served]
        order += sorted(waiting - self._deficits.keys())
        order += [tenant for tenant in known if tenant in self._served]
        return {tenant: self._deficits.get(tenant, 0.0) for tenant in order}

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)
