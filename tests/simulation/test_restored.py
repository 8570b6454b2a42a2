"""What the checker expects after a restore: the attempts that status mentions are not repeated."""

from __future__ import annotations

import pytest

from scheduledjob.domain.schedule.definition import Definition

from .history import DesiredState, Restore
from .restored import Lifetime, repeated
from .world import Event

BACKED_UP, STARTED, TOLD, RESTORED, REPEATED = 10, 20, 30, 40, 50


def restore(*, attempts: dict[str, int] | None = None, unchanged: bool = True, known: bool = False) -> Restore:
    return Restore(
        BACKED_UP,
        TOLD,
        RESTORED,
        known={"run"} if known else set(),
        told_attempts=attempts or {},
        unchanged={"uid"} if unchanged else set(),
    )


@pytest.mark.parametrize(
    ("restored", "complaints"),
    [
        (restore(), 0),
        (restore(attempts={"run": 1}), 1),
        (restore(known=True), 1),
        (restore(unchanged=False), 1),
    ],
    ids=["not in status", "active in status", "ended in status", "the row is made from status"],
)
def test_an_attempt_may_be_repeated_only_if_status_does_not_know_it(restored: Restore, complaints: int) -> None:
    desired = DesiredState("ns/a", "uid", Definition(kind="job"), 0, None, generation=1)
    starts = [Event(at, "start", "replica", "uid", "run", attempt=1) for at in (STARTED, REPEATED)]
    assert len(repeated([Lifetime(start) for start in starts], desired, restored)) == complaints
