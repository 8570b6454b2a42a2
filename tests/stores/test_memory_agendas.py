"""The agendas of the memory store: how much work a claim with quotas does beside many tenants."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import Batch, Quotas
from scheduledjob.stores.memory import MemoryStore
from scheduledjob.stores.memory.agendas import MAX_PAIRS, Agenda

from .support import KIND, LEASE, desired

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant


async def store_of(tenants: int, rows: int = 1, kinds: int = 1) -> MemoryStore:
    """A store with so many due rows of each tenant."""
    store = MemoryStore()
    due = await store.now() - HOUR
    for tenant in range(tenants):
        new = [desired(f"{tenant}-{number}", due + number) for number in range(rows)]
        for number, row in enumerate(new):
            row.tenant, row.kind = f"team-{tenant:05}", f"{KIND}-{number % kinds}"
        await store.put(new, replace=False)
    return store


async def claim_fairly(store: MemoryStore, quotas: dict[str, int], others: int, *, kinds: int = 1) -> Batch:
    names = [f"{KIND}-{number}" for number in range(kinds)]
    return await store.claim("alice", names, limit=64, ahead=0, lease=LEASE, quotas=Quotas(quotas, others))


@pytest.mark.parametrize("kinds", [1, 3])
async def test_a_claim_takes_no_more_rows_from_their_agendas_than_it_returns(
    kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, taken = await store_of(300, 3, kinds), Counter[str]()
    pop_of = Agenda.pop_of

    def counted(agenda: Agenda, tenant: str) -> object:
        taken[tenant] += 1
        return pop_of(agenda, tenant)

    monkeypatch.setattr(Agenda, "pop_of", counted)
    batch = await claim_fairly(store, {}, 16, kinds=kinds)
    assert len(batch.rows) == taken.total() == 64
    assert max(taken.values()) == 1, "the first row of each tenant comes first"
    assert len(batch.left) == 300


async def test_a_claim_looks_at_some_of_very_many_tenants_and_the_next_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, seen = await store_of(MAX_PAIRS + 500), Counter[str]()
    head_of = Agenda.head_of

    def counted(agenda: Agenda, tenant: str) -> tuple[Instant, int] | None:
        seen[tenant] += 1
        return head_of(agenda, tenant)

    monkeypatch.setattr(Agenda, "head_of", counted)
    first = await claim_fairly(store, {}, 0)
    assert (len(first.left), seen.total()) == (MAX_PAIRS, MAX_PAIRS)
    assert first.next_wake == first.now, "more tenants come with the next claim"
    second = await claim_fairly(store, {}, 0)
    assert first.left | second.left == set(seen), "the search goes on where the last one ended"
    assert len(seen) == MAX_PAIRS + 500


async def test_a_run_of_one_of_very_many_tenants_does_not_wait_for_the_backlogs_of_the_others() -> None:
    store = await store_of(MAX_PAIRS + 500, 2)
    last = f"team-{MAX_PAIRS + 499:05}"
    claims = 0
    while last not in {row.tenant for row in (await claim_fairly(store, {last: 1}, 0)).rows}:
        claims += 1
        assert claims <= 2


async def test_a_tenant_with_more_kinds_than_a_claim_looks_at_is_served() -> None:
    store = await store_of(2, MAX_PAIRS + 10, MAX_PAIRS + 10)
    tenants: set[str] = set()
    for _ in range(2):
        batch = await claim_fairly(store, {}, 10, kinds=MAX_PAIRS + 10)
        assert len(batch.rows) == 10
        tenants |= {row.tenant for row in batch.rows}
    assert len(tenants) == 2
