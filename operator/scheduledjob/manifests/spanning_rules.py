"""Rules that span several fields. A rule is declared once; it gives the CEL of the CRD and the check of manifest files.

A model lists its rules in ``rules``. Each public function here makes one rule (``not_longer_by_default`` three). Keys
are named as in a manifest, with dots for a key in a mapping below: ``execution.mode``. The API server and the loader
report a broken rule in the same words: what is wrong, and what to write instead.

The Python half of a rule runs after all fields were validated, so it sees only values that can be parsed. The CEL half
can't rely on that, and lets a value pass that another rule refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from scheduledjob.domain.time.durations import parse_duration

from . import checks, rules
from .problems import Path, listed
from .rules import Rule, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


_ESCAPED = {"true": "__true__"}
"""Keys that are reserved words of CEL."""


class Fault(NamedTuple):
    """Why a model breaks a rule: what is wrong, what to write instead, and the path to the field below the model."""

    message: str
    advice: str = ""
    path: Path = ()


@dataclass(frozen=True, slots=True)
class SpanningRule:
    """One rule in both of its forms."""

    cel: Rule
    fault_in: Callable[[BaseModel], Fault | None]
    """Returns how a model breaks the rule; None if it does not."""


AnyRule: TypeAlias = Rule | SpanningRule
"""A rule of a model: the API server checks a ``Rule``, the loader and the API server check a ``SpanningRule``."""


def value_at(model: BaseModel, key: str) -> Any:
    """The value of ``key`` in a model; None where the key, or a mapping above it, is missing."""
    value: Any = model
    for part in key.split("."):
        assert isinstance(value, BaseModel)
        kind: type[BaseModel] = type(value)
        value = getattr(value, _names_of(kind)[part])
        if value is None:
            return None
    return value


@cache
def _names_of(model: type[BaseModel]) -> dict[str, str]:
    """The attributes of a model by their keys in a manifest."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def only_with(key: str, other: str, values: Sequence[str] = ()) -> SpanningRule:
    """``key`` may be given only if ``other`` is given too and, if there are ``values``, has one of them."""
    allowed = f"{other} {listed(values)}" if values else other
    needed = f"{other}: {listed(values)}" if values else other
    cel = f"!({_given(key)}) || {_is_in(other, values)}"
    advice = f"write {needed}, or leave {key} out"
    return _rule(
        cel,
        lambda model: value_at(model, key) is not None and not _matches(value_at(model, other), values),
        Fault(f"can be used only with {allowed}", advice, _path(key)),
    )


def only_with_any(key: str, others: Sequence[str]) -> SpanningRule:
    """``key`` may be given only if one of ``others`` is given too."""
    return _rule(
        f"!({_given(key)}) || {_any_given(others)}",
        lambda model: value_at(model, key) is not None and not _has_any(model, others),
        Fault(f"can be used only with {listed(others)}", f"write {listed(others)}, or leave {key} out", _path(key)),
    )


def matching_with(key: str, pattern: str, others: Sequence[str], *, message: str, advice: str) -> SpanningRule:
    """``key`` must match ``pattern`` (RE2, not anchored) if it is given together with one of ``others``."""
    return _rule(
        f"!({_given(key)} && ({_any_given(others)})) || {rules.matches(f'self.{key}', pattern)}",
        lambda model: (
            (value := value_at(model, key)) is not None
            and _has_any(model, others)
            and re.search(pattern, value) is None
        ),
        Fault(message, advice, _path(key)),
    )


def not_matching_unless(key: str, pattern: str, other: str, *, message: str, advice: str) -> SpanningRule:
    """``key`` may not match ``pattern`` (RE2, not anchored) if ``other`` is not given."""
    return _rule(
        f"!{_given(key)} || {_given(other)} || !{rules.matches(f'self.{key}', pattern)}",
        lambda model: (
            (value := value_at(model, key)) is not None
            and value_at(model, other) is None
            and re.search(pattern, value) is not None
        ),
        Fault(message, advice, _path(key)),
    )


def not_with(key: str, other: str, values: Sequence[str] = (), *, message: str, advice: str) -> SpanningRule:
    """``key`` may not be given if ``other`` is given and, if there are ``values``, has one of them."""
    return _rule(
        f"!({_given(key)}) || !({_is_in(other, values)})",
        lambda model: value_at(model, key) is not None and _matches(value_at(model, other), values),
        Fault(message, advice, _path(other if values else key)),
    )


def needed_unless(key: str, other: str, *, message: str, advice: str) -> SpanningRule:
    """``key`` must be given if ``other`` is not."""
    return _rule(
        f"{_given(other)} || {_given(key)}",
        lambda model: value_at(model, other) is None and value_at(model, key) is None,
        Fault(message, advice, _path(key)),
    )


def both_or_neither(first: str, second: str) -> SpanningRule:
    """``first`` and ``second``, keys without dots, must be given together."""
    return _rule(
        f"has(self.{first}) == has(self.{second})",
        lambda model: (value_at(model, first) is None) != (value_at(model, second) is None),
        Fault(f"{first} and {second} go together", "give both or none"),
    )


def not_one_of(key: str, values: Sequence[str], *, message: str, advice: str) -> SpanningRule:
    """``key``, which is required, may not have one of ``values``."""
    return _rule(
        f"!({_in(key, values)})",
        lambda model: value_at(model, key) in values,
        Fault(message, advice, _path(key)),
    )


def not_longer(first: str, second: str) -> SpanningRule:
    """The duration ``first`` must not be longer than ``second``, if both are given."""
    return _rule(
        f"!{_given(first)} || !{_given(second)} || {rules.not_longer(f'self.{first}', f'self.{second}')}",
        lambda model: _is_longer(value_at(model, first), value_at(model, second)),
        Fault(f"is shorter than {first}", f"write a duration at least as long as {first}", _path(second)),
    )


def not_longer_by_default(first: str, second: str, defaults: tuple[str, str]) -> tuple[SpanningRule, ...]:
    """``not_longer``, where a duration that is not given has its default: ``defaults`` of ``first`` and ``second``."""
    default_first, default_second = defaults
    return (
        not_longer(first, second),
        _rule(
            f"!{_given(first)} || {_given(second)} || {rules.not_longer(f'self.{first}', literal(default_second))}",
            lambda model: value_at(model, second) is None and _is_longer(value_at(model, first), default_second),
            Fault(
                f"is longer than the default of {second}, {default_second}",
                f"write a shorter duration, or also write {second}",
                _path(first),
            ),
        ),
        _rule(
            f"{_given(first)} || !{_given(second)} || {rules.not_longer(literal(default_first), f'self.{second}')}",
            lambda model: value_at(model, first) is None and _is_longer(default_first, value_at(model, second)),
            Fault(
                f"is shorter than the default of {first}, {default_first}",
                f"write a longer duration, or also write {first}",
                _path(second),
            ),
        ),
    )


def not_later(first: str, second: str, *, message: str, advice: str) -> SpanningRule:
    """The instant ``first`` must not be later than ``second``, if both are given."""

    def is_later(model: BaseModel) -> bool:
        start, end = value_at(model, first), value_at(model, second)
        return None not in (start, end) and checks.parse_instant(start) > checks.parse_instant(end)

    return _rule(
        f"!{_given(first)} || !{_given(second)} || {rules.not_later(f'self.{first}', f'self.{second}')}",
        is_later,
        Fault(message, advice, _path(second)),
    )


def earlier(
    start: str, end: str, zone: str, *, is_earlier: Callable[[Any], bool], message: str, advice: str
) -> SpanningRule:
    """``start`` must be earlier than ``end``, if both are given: instants, or dates in ``zone``.

    CEL compares a date with an instant only roughly. ``is_earlier`` decides for a model that has both keys.
    """

    def is_broken(model: BaseModel) -> bool:
        return None not in (value_at(model, start), value_at(model, end)) and not is_earlier(model)

    cel = rules.earlier(f"self.{start}", f"self.{end}", f"self.{zone}")
    return _rule(f"!{_given(start)} || !{_given(end)} || {cel}", is_broken, Fault(message, advice, _path(end)))


def no_item_with(items: str, key: str, other: str, *, message: str, advice: str) -> SpanningRule:
    """No item of the list ``items`` may have in ``key`` the value that ``other`` has."""
    has = " && ".join(f"has(item.{part})" for part in _prefixes(key))
    cel = f"!self.{items}.exists(item, {has} && item.{key} == self.{other})"

    def fault_in(model: BaseModel) -> Fault | None:
        for index, item in enumerate(value_at(model, items)):
            if value_at(item, key) == value_at(model, other):
                return Fault(message, advice, (*_path(items), index, *_path(key)))
        return None

    return SpanningRule(Rule(cel, f"{message}: {advice}", items), fault_in)


def no_key_with(mapping: str, name: str, other: str, *, message: str, advice: str) -> SpanningRule:
    """``mapping`` may not have the key ``name`` (lower case, matched in any case) if ``other`` is given."""
    cel = (
        f"!{_given(other)} || !{_given(mapping)} || !self.{mapping}.exists(name, name.lowerAscii() == {literal(name)})"
    )

    def fault_in(model: BaseModel) -> Fault | None:
        if value_at(model, other) is not None:
            for key in value_at(model, mapping) or ():
                if key.lower() == name:
                    return Fault(message, advice, (*_path(mapping), key))
        return None

    return SpanningRule(Rule(cel, f"{message}: {advice}", mapping), fault_in)


def alternatives(keys: tuple[str, ...], *, needed: bool, unless: Mapping[str, str] | None = None) -> SpanningRule:
    """Exactly one of the keys has a value; at most one, unless one is ``needed``.

    A key in ``unless`` does not count if the other key that it names has a value.
    """
    other_of = unless or {}
    expected = f"{'exactly' if needed else 'at most'} one of {', '.join(keys)}"

    def fault_in(model: BaseModel) -> Fault | None:
        given = {key for key in keys if value_at(model, key) is not None}
        found = [key for key in keys if key in given and other_of.get(key) not in given]
        if len(found) > 1 or (needed and not found):
            return Fault(f"{expected}; found {', '.join(found) or 'none'}")
        return None

    counts = {key: f"{_given(key)} && !{_given(other_of[key])}" if key in other_of else _given(key) for key in keys}
    given = "[" + ", ".join(counts.values()) + "].filter(given, given)"
    # A sum of strings, because the API server can't bound the cost of `join`.
    found = " + ".join(f"({count} ? ', {key}' : '')" for key, count in counts.items())
    any_given = _any_given(keys)
    answer = f"'{expected}; found ' + ({any_given} ? ({found}).substring(2) : 'none')"
    return SpanningRule(Rule(f"size({given}) {'==' if needed else '<='} 1", expected, answer=answer), fault_in)


def _rule(cel: str, is_broken: Callable[[BaseModel], bool], fault: Fault) -> SpanningRule:
    message = f"{fault.message}: {fault.advice}"
    field = ".".join(str(part) for part in fault.path)
    return SpanningRule(Rule(cel, message, field), lambda model: fault if is_broken(model) else None)


def _prefixes(key: str) -> list[str]:
    """``a`` and ``a.b`` of ``a.b``."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _given(key: str) -> str:
    """CEL: the key has a value."""
    return " && ".join(f"has(self.{_ESCAPED.get(prefix, prefix)})" for prefix in _prefixes(key))


def _any_given(keys: Sequence[str]) -> str:
    """CEL: one of the keys has a value."""
    return " || ".join(_given(key) for key in keys)


def _has_any(model: BaseModel, keys: Sequence[str]) -> bool:
    return any(value_at(model, key) is not None for key in keys)


def _is_in(key: str, values: Sequence[str]) -> str:
    """CEL: the key has a value, and it is one of ``values`` if there are any."""
    if not values:
        return _given(key)
    return f"{_given(key)} && {_in(key, values)}"


def _in(key: str, values: Sequence[str]) -> str:
    """CEL: the value of the key, which has one, is one of ``values``."""
    return f"self.{key} in [{', '.join(literal(value) for value in values)}]"


def _matches(value: Any, values: Sequence[str]) -> bool:
    return value in values if values else value is not None


def _path(key: str) -> Path:
    return tuple(key.split("."))


def _is_longer(first: str | None, second: str | None) -> bool:
    return first is not None and second is not None and parse_duration(first) > parse_duration(second)
