"""An outage of the store alone costs time: what ended while it lasted is not run again.

The replicas live on and fence what they can't renew, so the ends that they know of are true. All that could bring a
finished run back is a claim that is carried out before its end is written.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from .checker import check
from .scenario import Scenario

if TYPE_CHECKING:
    from .scenario import History

SEEDS = 60
AT_A_TIME = 20


class Outage(Scenario):
    """Nothing goes wrong but that the store stands still.

    Everybody looks so often that he knows of each outage in which a lease may have passed. One who had no reason to ask
    for long, and asks in its last second, may take a row over before its end is written.
    """

    def choose_settings(self) -> dict[str, Any]:
        return super().choose_settings() | {"lease": 10.0, "heartbeat": 2.0}

    def troubles(self) -> list[Any]:
        return [self.store_stands_still]


def run_again(history: History) -> list[str]:
    """Runs that were started after their process had ended by itself, and well."""
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
