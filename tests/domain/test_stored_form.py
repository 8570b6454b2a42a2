"""What is stored keeps its form: texts that earlier versions wrote are read, and written again byte for byte.

The texts below have every field of every stored value. They are literal on purpose: a renamed field without its alias,
a changed default or another order of the fields fails here, before it loses the state of somebody's schedules.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.schedule.state import Completion, Run, State


def run_text(first: int) -> str:
    """A run whose numbers count up from ``first``."""
    slot, due, attempt, failed, lost, begun = range(first, first + 6)
    return (
        f'{{"slot":{slot},"due":{due},"attempt":{attempt},"failed":{failed},"lost":{lost},"begun":{begun},'
        '"token":"tok","catch_up":true,"payload":"cGF5","outlives":true,"handed_on":true,"cancelling":"why",'
        '"chain":"a/b","named":true,"revision":8,"repeat":9}'
    )


STATE = (
    f'{{"floor":1000,"next":{run_text(100)},"runs":[{run_text(200)}],"waiting":[{run_text(300)}],"revision":1004,'
    '"when":"digest","suspended":true,"paused":true,"paused_under":1008,"completed":"MaxRuns","started":1010,'
    '"succeeded":1011,"failed":1012,"cancelled":1013,"skipped":1014,"missed":1015,"excluded":1016,'
    '"failures_in_row":1017,"last_schedule":1018,"last_success":1019,"last_failure":1020,"expect_from":1021,'
    '"overdue":true,"generation":1023,"handled":["run-now/a","cancel/u-1"],"followed":1025,'
    f'"followed_ids":{{"up-1":7}},"upcoming":[{run_text(400)}],"zones":"2026f","first_named_at":10,'
    '"unrecorded":[{"run_id":"u-1","uid":"u","slug":"s","slot":1,"started":2,"finished":3,"attempt":4,'
    '"outcome":"Cancelled","reason":"why"}]}'
)

DEFINITION = (
    '{"kind":"k","job":{"a":[2],"b":1},"triggers":[{"trigger":"cron","expression":"0 6 * * *",'
    '"time_zone":"Europe/Berlin","seed":"seed"},{"trigger":"every","every":60,"anchor":5},{"trigger":"at","at":7},'
    '{"trigger":"after","after":8},{"trigger":"following","name":"up","outcome":"Failed"}],'
    '"exclude":[{"exclude":"window","start":1,"end":2},{"exclude":"cron","expression":"* * 1 1 *",'
    '"time_zone":"Asia/Tokyo"}],"start_at":1,"end_at":2,"max_runs":3,"jitter":4,"suspend":true,"concurrency":"Allow",'
    '"max_concurrent":5,"queue_depth":6,"misfire":{"catch_up":"All","max_catch_up":7,"starting_deadline":8},'
    '"retry":{"backoff":"exponential","initial":1.0,"max":2.0,"multiplier":3.0,"max_retries":4},'
    '"timeouts":{"attempt":9,"pending":10,"total":11},"pause_after_failures":12,"expect_success_within":13,'
    '"keep":{"succeeded":14,"failed":15,"ttl":16},"on_failure":[{"url":"f"}],"on_success":[{"url":"s"}],'
    '"payload_from":{"optional":true,"secret":["n","k"]}}'
)


def test_a_state() -> None:
    state = State.decode(STATE)
    assert state.encode().decode() == STATE
    assert (state.decided_until, state.completed, state.followed_ids) == (1000, Completion.MAX_RUNS, {"up-1": 7})
    (run,) = state.runs
    assert (run.slot, run.begun, run.payload) == (200, 205, b"pay")
    assert (run.detached, run.adoptable, run.cancel_reason) == (True, True, "why")


@pytest.mark.parametrize(
    "text",
    [
        DEFINITION,
        '{"kind":"k"}',
        '{"kind":"k","retry":{"backoff":"fixed","intervals":[1.0,2.5],"max_retries":9}}',
        '{"kind":"k","triggers":[{"trigger":"manual"}]}',
        '{"kind":"k","triggers":[{"trigger":"calendar","weeks":2,"on":["MON","THU"],"at":"09:00",'
        '"time_zone":"Europe/Lisbon","anchor":5},{"trigger":"calendar","days":3}]}',
    ],
)
def test_a_definition(text: str) -> None:
    assert Definition.decode(text).encode() == text


def test_the_digest_of_triggers() -> None:
    """An upgrade that changed it would take every schedule for edited."""
    assert Definition.decode(DEFINITION).when_digest == "8b7d6354ea3566d3"


def test_requests() -> None:
    text = '{"run":"r","payload":"cA==","cancel":"c","resume":"s","earlier":[{"run":"q"}]}'
    assert Requests.decode(text).encode() == text


@pytest.mark.parametrize(
    ("stored", "text"),
    [(State, STATE), (Run, run_text(1)), (Definition, DEFINITION)],
    ids=["State", "Run", "Definition"],
)
def test_every_field_is_pinned(stored: Any, text: str) -> None:
    assert [field.encode_name for field in msgspec.structs.fields(stored)] == list(json.loads(text))
