"""An outage of the store alone costs only time: what ended during the outage does not run again.

The replicas survive and stop what they can't renew, so they know which runs have ended. A finished run could start
again only through a claim that the store carries out before the end is written.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from .checker import check
from .scenario import Scenario

if TYPE_CHECKING:
    from .history import History

SEEDS = 60
AT_A_TIME = 20


class Outage(Scenario):
    """Nothing goes wrong except that the store stands still.

    The heartbeat is short, so that every replica notices each outage in which a lease may have ended. A replica that
    had no reason to call the store for long, and claims in the last second of the outage, may claim a row before the
    end of its run is written.
    """

    def choose_settings(self) -> dict[str, Any]:
        return super().choose_settings() | {"lease": 10.0, "heartbeat": 2.0}

    def troubles(self) -> list[Any]:
        return [self.trouble.store_stands_still]


def run_again(history: History) -> list[str]:
    """Return the runs that started again after their process had succeeded."""
    ended: set[str] = set()
    again: dict[str, int] = defaultdict(int)
    for event in history.events:
        if event.kind == "end" and event.detail == "ok":
            ended.add(event.run_id)
        elif event.kind == "start" and event.run_id in ended:
            again[event.run_id] += 1
    return sorted(again)


@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_what_ended_while_the_store_stood_still_is_not_run_again(first: int) -> None:
    for seed in range(first, first + AT_A_TIME):
        history = Outage(seed).play()
        assert not check(history), f"Outage({seed})"
        assert not run_again(history), f"Outage({seed})"
