"""Definitions: canonical, with the resource's defaults, and distinguished by what decides their slots."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from scheduledjob.domain.schedule.backoff import Exponential
from scheduledjob.domain.schedule.definition import (
    CatchUp,
    Concurrency,
    Definition,
    ExcludeCron,
    ExcludeWindow,
    Misfire,
)
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.time.instants import MINUTE, SECOND, to_datetime
from scheduledjob.domain.triggers.cron import Cron, CronTrigger
from scheduledjob.domain.triggers.every import Every, EveryTrigger
from scheduledjob.domain.triggers.once import AfterTrigger, At, AtTrigger
from scheduledjob.domain.triggers.registry import spec_of
from tests.domain.test_schedule_machine import definitions

T = 1_790_000_000 * SECOND


@given(definitions)
def test_a_definition_survives_being_stored_and_has_one_text(definition: Definition) -> None:
    text = definition.encode()
    assert Definition.decode(text) == definition
    assert Definition.decode(text).encode() == text


def test_the_order_of_keys_makes_no_difference() -> None:
    one = Definition(kind="k", job={"a": 1, "b": {"c": 2, "d": 3}})
    other = Definition(kind="k", job={"b": {"d": 3, "c": 2}, "a": 1})
    assert one.encode() == other.encode()


def test_the_defaults_of_the_resource() -> None:
    definition = Definition.decode('{"kind":"k"}')
    assert definition.concurrency is Concurrency.FORBID
    assert (definition.queue_depth, definition.max_concurrent) == (1, None)
    assert definition.misfire == Misfire(CatchUp.LAST, 5, None)
    assert definition.retry == Exponential(10, 600, 2, 6)
    assert (definition.timeouts.attempt, definition.timeouts.pending, definition.timeouts.total) == (
        None,
        5 * MINUTE,
        None,
    )
    assert (definition.keep.succeeded, definition.keep.failed, definition.keep.ttl) == (3, 5, 7 * 24 * 60 * MINUTE)


@pytest.mark.parametrize("text", ["", "{}", '{"kind":1}', '{"kind":"k","triggers":[{"trigger":"moon"}]}'])
def test_what_no_version_wrote_is_an_error(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        Definition.decode(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"triggers": (EveryTrigger(2 * SECOND),)},
        {"exclude": (ExcludeWindow(0, 1),)},
        {"start_at": T},
        {"end_at": T},
        {"jitter": SECOND},
    ],
)
def test_what_decides_slots_is_an_edit_of_the_triggers(changes: dict[str, object]) -> None:
    old = Definition(kind="k", triggers=(EveryTrigger(SECOND),))
    assert msgspec.structs.replace(old, **changes).when_digest != old.when_digest


def test_nothing_else_is_one() -> None:
    old = Definition(kind="k", triggers=(EveryTrigger(SECOND),))
    new = Definition(
        kind="k2", triggers=old.triggers, max_runs=3, suspend=True, job=1, misfire=Misfire(CatchUp.ALL), queue_depth=9
    )
    assert new.when_digest == old.when_digest
    assert Definition(kind="k").when_digest == ""


def test_a_plan_is_shared_by_rows_where_no_row_changes_it() -> None:
    shared = Plan(Definition(kind="k", triggers=(CronTrigger("*/5 * * * *"), EveryTrigger(SECOND, T), AtTrigger(T))))
    assert slots_of(shared, seed="a", created=T) is slots_of(shared, seed="b", created=T + 1)
    for trigger in (EveryTrigger(7 * SECOND), AfterTrigger(SECOND), CronTrigger("H * * * *"), CronTrigger("@every 7s")):
        own = Plan(Definition(kind="k", triggers=(trigger,)))
        firsts = set()
        for seed, created in (("a", T), ("b", T + 3 * SECOND), ("c", T + 5 * SECOND)):
            slots = slots_of(own, seed=seed, created=created)
            assert slots is not None
            firsts.add(slots.next(T + MINUTE) or slots.next(T))
        assert len(firsts) > 1, trigger
    assert slots_of(Plan(Definition(kind="k")), seed="a", created=T) is None


def test_an_h_among_the_exclusions_spreads_by_the_row_too() -> None:
    plan = Plan(Definition(kind="k", triggers=(EveryTrigger(MINUTE, T),), exclude=(ExcludeCron("H * * * *"),)))
    left_out = set[int]()
    for seed in "abcdef":
        slots = slots_of(plan, seed=seed, created=T)
        assert slots is not None
        left_out.update(minute for minute in range(60) if slots.previous(T + minute * MINUTE) != T + minute * MINUTE)
    assert len(left_out) > 1


def test_the_triggers_of_the_library_as_a_definition_has_them() -> None:
    assert spec_of(Cron("@daily", "Europe/Lisbon", seed="x")) == CronTrigger("@daily", "Europe/Lisbon", "x")
    assert spec_of(Every(30.0)) == EveryTrigger(30 * SECOND)
    assert spec_of(Every(30.0, to_datetime(T))) == EveryTrigger(30 * SECOND, T)
    assert spec_of(At(to_datetime(T))) == AtTrigger(T)
    with pytest.raises(TypeError, match=r"give Cron\(...\), Every\(...\), Calendar\(...\) or At\(...\)"):
        spec_of("@daily")  # type: ignore[arg-type]  # what a user may try
