"""Rules that span fields: what they refuse, and that the API server and the loader use the same words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from scheduledjob.domain.schedule.backoff import Exponential
from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.manifests.base import Model
from scheduledjob.manifests.models import ScheduledJob, Spec
from scheduledjob.manifests.policies import ExponentialRetry, TimeoutsModel
from scheduledjob.manifests.shape import fields_of
from scheduledjob.manifests.spanning_rules import (
    SpanningRule,
    alternatives,
    both_or_neither,
    matching_with,
    needed_unless,
    no_key_with,
    not_matching_unless,
    not_one_of,
    not_with,
    only_with,
    only_with_any,
    value_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Sample(Model):
    a: str | None = None
    b: str | None = None
    c: dict[str, str] | None = None


values = st.none() | st.sampled_from(["x", "y"])
samples = st.builds(
    lambda a, b, c: Sample.model_validate({"a": a, "b": b, "c": c}),
    values,
    values,
    st.none() | st.dictionaries(st.sampled_from(["n", "N", "m"]), st.just("")),
)

RULES: list[tuple[SpanningRule, Callable[[Sample], bool], str]] = [
    (only_with("a", "b"), lambda s: s.a is None or s.b is not None, "!(has(self.a)) || has(self.b)"),
    (
        only_with("a", "b", ("x",)),
        lambda s: s.a is None or s.b == "x",
        "!(has(self.a)) || has(self.b) && self.b in ['x']",
    ),
    (
        only_with_any("a", ("b", "c")),
        lambda s: s.a is None or s.b is not None or s.c is not None,
        "!(has(self.a)) || has(self.b) || has(self.c)",
    ),
    (
        matching_with("a", "^x$", ("b", "c"), message="m", advice="w"),
        lambda s: s.a in (None, "x") or (s.b is None and s.c is None),
        "!(has(self.a) && (has(self.b) || has(self.c))) || self.a.matches('^x$')",
    ),
    (
        not_matching_unless("a", "^x$", "b", message="m", advice="w"),
        lambda s: s.a != "x" or s.b is not None,
        "!has(self.a) || has(self.b) || !self.a.matches('^x$')",
    ),
    (
        alternatives(("a", "b"), needed=True, unless={"b": "a"}),
        lambda s: s.a is not None or s.b is not None,
        "size([has(self.a), has(self.b) && !has(self.a)].filter(given, given)) == 1",
    ),
    (
        not_with("a", "b", message="m", advice="w"),
        lambda s: s.a is None or s.b is None,
        "!(has(self.a)) || !(has(self.b))",
    ),
    (
        not_with("a", "b", ("x",), message="m", advice="w"),
        lambda s: s.a is None or s.b != "x",
        "!(has(self.a)) || !(has(self.b) && self.b in ['x'])",
    ),
    (
        needed_unless("a", "b", message="m", advice="w"),
        lambda s: s.a is not None or s.b is not None,
        "has(self.b) || has(self.a)",
    ),
    (both_or_neither("a", "b"), lambda s: (s.a is None) == (s.b is None), "has(self.a) == has(self.b)"),
    (
        not_one_of("a", ("x",), message="m", advice="w"),
        lambda s: s.a != "x",
        "!(self.a in ['x'])",
    ),
    (
        no_key_with("c", "n", "a", message="m", advice="w"),
        lambda s: s.a is None or not {"n", "N"} & (s.c or {}).keys(),
        "!has(self.a) || !has(self.c) || !self.c.exists(name, name.lowerAscii() == 'n')",
    ),
    (
        alternatives(("a", "b"), needed=True),
        lambda s: (s.a is None) != (s.b is None),
        "size([has(self.a), has(self.b)].filter(given, given)) == 1",
    ),
    (
        alternatives(("a", "b"), needed=False),
        lambda s: s.a is None or s.b is None,
        "size([has(self.a), has(self.b)].filter(given, given)) <= 1",
    ),
]


@pytest.mark.parametrize(("rule", "holds", "cel"), RULES)
def test_a_rule_says_the_same_in_cel(rule: SpanningRule, holds: object, cel: str) -> None:
    assert rule.cel.holds == cel


@pytest.mark.parametrize(("rule", "holds", "cel"), RULES)
def test_a_rule_refuses_what_it_describes(rule: SpanningRule, holds: Callable[[Sample], bool], cel: str) -> None:
    @given(samples)
    def check(sample: Sample) -> None:
        assert (rule.fault_in(sample) is None) == holds(sample)

    check()


durations = st.none() | st.sampled_from(["1s", "10s", "60s", "1m", "10m", "1h", "1d"])


@given(durations, durations)
def test_a_wait_that_is_not_given_has_its_default(initial: str | None, longest: str | None) -> None:
    fits = parse_duration(initial or "10s") <= parse_duration(longest or "10m")
    assert _is_valid(ExponentialRetry, {"initial": initial, "max": longest}) == fits


def test_the_defaults_of_a_rule_are_those_of_the_engine() -> None:
    assert Exponential().initial == 10.0
    assert Exponential().max == 600.0


@given(durations, durations)
def test_an_attempt_is_not_longer_than_the_run(attempt: str | None, total: str | None) -> None:
    fits = attempt is None or total is None or parse_duration(attempt) <= parse_duration(total)
    assert _is_valid(TimeoutsModel, {"attempt": attempt, "total": total}) == fits


def _is_valid(model: type[Model], value: Any) -> bool:
    try:
        TypeAdapter(model).validate_python(value)
    except ValidationError:
        return False
    return True


def _models(model: type[Model]) -> Iterator[type[Model]]:
    yield model
    for field in fields_of(model).values():
        for part in _in_annotation(field.annotation):
            yield from _models(part)


def _in_annotation(annotation: Any) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _in_annotation(argument)


def test_a_rule_names_the_field_and_what_to_write() -> None:
    found = {id(rule): (model, rule) for model in _models(ScheduledJob) for rule in model.rules}
    assert len(found) >= 12
    for model, rule in found.values():
        if isinstance(rule, SpanningRule):
            said, _, advice = rule.cel.message.partition(": ")
            assert said, rule
            assert advice, rule
            assert not rule.cel.field or rule.cel.field.split(".")[0] in fields_of(model)


def test_keys_are_those_of_the_manifest() -> None:
    spec = Spec.model_validate({"triggers": [{"every": "1h"}], "job": {"custom": {"kind": "print"}}, "maxRuns": 3})
    assert value_at(spec, "maxRuns") == 3
    assert value_at(spec, "job.custom.kind") == "print"
    assert value_at(spec, "execution.mode") is None


def test_rules_have_different_words() -> None:
    rules = {id(rule): rule for model in _models(ScheduledJob) for rule in model.rules}.values()
    said = [(rule if not isinstance(rule, SpanningRule) else rule.cel) for rule in rules]
    for first, second in itertools.combinations(said, 2):
        assert (first.message, first.field) != (second.message, second.field)
