"""Polls of what schedules follow: tenants take turns."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from scheduledjob.engine import followers
from scheduledjob.engine.followers import UpstreamPoller
from scheduledjob.engine.owned_schedule import Phase

if TYPE_CHECKING:
    import pytest

    from scheduledjob.engine.owned_schedule import OwnedSchedule
    from scheduledjob.engine.store import Store


class EmptyHistory:
    """A store without ended runs, which takes a turn of the loop to say so."""

    async def history(self, *_: Any, **__: Any) -> list[Any]:
        await asyncio.sleep(0)
        return []


def a_follower(tenant: str) -> OwnedSchedule:
    schedule = SimpleNamespace(state=SimpleNamespace(followed=0))
    owned = SimpleNamespace(
        phase=min(Phase), tenant=tenant, row=SimpleNamespace(slug=f"{tenant}/job"), schedule=schedule
    )
    return cast("OwnedSchedule", owned)


async def test_a_lone_follower_is_read_soon_beside_many_of_another_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "upstreams", lambda _: ["upstream"])
    read: list[str] = []
    poller = UpstreamPoller(cast("Store", EmptyHistory()), None, lambda owned, _: read.append(owned.tenant))
    for _ in range(1000):
        poller.poll(a_follower("busy"))
    poller.poll(a_follower("quiet"))
    poller.close()
    await poller.run()
    assert len(read) == 1001, "close() reads what is queued"
    assert read.index("quiet") < 8
