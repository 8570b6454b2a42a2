"""Fair shares: weighted deficit round robin over tenants, bounded by the room of the replica."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.capacity import Capacity, bounded_room
from scheduledjob.engine.fair_shares import TURNS, FairShares, Room

if TYPE_CHECKING:
    from collections.abc import Mapping

TENANTS = st.sampled_from([f"team-{letter}" for letter in "abcdefgh"])
DEMANDS = st.dictionaries(TENANTS, st.integers(1, 50) | st.just(inf), max_size=8)
WEIGHTS = st.dictionaries(TENANTS, st.floats(0.1, 10))


def places(count: int) -> Room:
    """Return room for so many rows, whatever their tenants."""

    def room(tenant: str, *, taken: int, quota: int) -> int:
        return count - taken

    return room


def served(shares: FairShares, demand: Mapping[str, float], batches: int, limit: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for _ in range(batches):
        total.update(shares.allot(demand, limit, places(limit)))
    return total


@given(demand=DEMANDS, weights=WEIGHTS, limit=st.integers(0, 100), free=st.integers(0, 100))
def test_a_batch_is_as_full_as_the_demand_and_the_room_allow(
    demand: dict[str, float], weights: dict[str, float], limit: int, free: int
) -> None:
    quotas = FairShares(weights).allot(demand, limit, places(free))
    assert sum(quotas.values()) == min(limit, free, sum(demand.values()))
    assert all(quotas[tenant] <= demand[tenant] for tenant in quotas)


@given(demands=st.lists(DEMANDS, min_size=1, max_size=10), weights=WEIGHTS, limit=st.integers(1, 20))
def test_no_tenant_starves(demands: list[dict[str, float]], weights: dict[str, float], limit: int) -> None:
    shares = FairShares(weights)
    for demand in demands:
        shares.allot(demand, limit, places(limit))
    # A newcomer comes after those that had no turn in the last batch, each of which may have one of 100 rows.
    batches = 8 * 100 // limit + 2
    assert any("lone" in shares.allot({**demands[-1], "lone": inf}, limit, places(limit)) for _ in range(batches))


@given(
    weights=st.dictionaries(TENANTS, st.floats(0.1, 10), min_size=2, max_size=8),
    limit=st.integers(1, 40),
)
def test_shares_are_proportional_to_the_weights(weights: dict[str, float], limit: int) -> None:
    shares, rounds = FairShares(weights), 60
    least = min(weights.values())
    quanta = {tenant: weight / least for tenant, weight in weights.items()}
    batches = int(rounds * sum(quanta.values()) / limit) + 1
    total = served(shares, dict.fromkeys(weights, inf), batches, limit)
    assert total.total() == batches * limit
    for tenant in weights:
        expected = total.total() * quanta[tenant] / sum(quanta.values())
        # At most the turn that is under way, of this tenant or of all others, is out of proportion.
        assert abs(total[tenant] - expected) <= 2 * quanta[tenant] * max(1, limit // (TURNS * len(weights))) + 2


@given(
    demand=st.dictionaries(TENANTS, st.just(inf), min_size=1, max_size=8),
    capacity=st.integers(1, 500),
    limit=st.integers(1, 100),
    share=st.floats(0.5, 0.95),
)
def test_tenants_that_never_end_leave_room_for_another_one(
    demand: dict[str, float], capacity: int, limit: int, share: float
) -> None:
    shares, held = FairShares({}), Capacity(capacity, share)

    def claim(demand: Mapping[str, float]) -> dict[str, int]:
        quotas = shares.allot(demand, min(limit, held.free), partial(held.room, others=True))
        for tenant, quota in quotas.items():
            held.take(tenant, quota)
        return quotas

    while claim(demand):
        assert held.used <= capacity
    if len(demand) < capacity:
        assert held.used < capacity
        assert claim({**demand, "lone": 1}) == {"lone": 1}


def test_a_lone_run_is_in_the_next_batch_whatever_is_due() -> None:
    shares = FairShares({"heavy": 10.0})
    shares.allot({"heavy": inf, "other": inf}, 500, places(4096))
    assert shares.allot({"heavy": inf, "other": inf, "lone": 1}, 500, places(3596))["lone"] == 1


def test_a_newcomer_comes_after_those_that_had_no_turn_in_the_last_batch() -> None:
    shares = FairShares({})
    turns = [
        shares.allot(dict.fromkeys(due, inf), 1, places(1)) for due in ("ab", "abn", "abn", "abmn", "abmn", "abmn")
    ]
    assert [next(iter(turn)) for turn in turns] == ["a", "b", "n", "a", "b", "m"]


def test_a_tenant_saves_up_no_turns_while_nothing_of_it_is_due() -> None:
    shares = FairShares({})
    for _ in range(50):
        shares.allot({"a": inf}, 10, places(10))
    assert served(shares, {"a": inf, "b": inf}, 10, 10) == {"a": 50, "b": 50}


@pytest.mark.parametrize(
    ("held", "free", "share", "room"),
    [
        (0, 8, 0.875, 7),
        (7, 1, 0.875, 0),
        (0, 1, 0.875, 1),
        (1, 1, 0.875, 0),
        (0, 4096, 0.875, 3584),
        (0, 10, 1.0, 10),
        (5, 0, 1.0, 0),
    ],
)
def test_a_tenant_holds_at_most_its_share_of_what_it_holds_and_what_is_free(
    held: int, free: int, share: float, room: int
) -> None:
    assert bounded_room(held, free, share) == room
