"""Converts the ``podFailurePolicy`` of a Job to ``retry.notOn``, with notes about the rules that have no equivalent.

The first rule that matches a Pod decides. ``FailJob`` by exit codes becomes ``notOn.exitCodes``, without the codes that
an earlier rule takes. ``Count`` is what happens to every other failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_POLICY = "spec.jobTemplate.spec.podFailurePolicy"
_ALL_CODES = frozenset(range(1, 256))


def not_on(policy: Mapping[str, Any], main: str, notes: list[str]) -> list[int]:
    """Return the exit codes for ``retry.notOn``. ``main``: the name of the job's container in the CronJob.

    Raises ``ValueError`` for a policy that can't be read.
    """
    rules = policy.get("rules") or []
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError(f"{_POLICY}.rules must be a list of rules")
    decided: set[int] = set()
    found: set[int] = set()
    for number, rule in enumerate(rules):
        where = f"{_POLICY}.rules[{number}]"
        action, by_code = rule.get("action"), rule.get("onExitCodes")
        if rule.get("onPodConditions"):
            _note_conditions(where, action, notes)
        if not by_code:
            continue
        codes = _codes(by_code, where)
        container = by_code.get("containerName")
        if container not in (None, "", main):
            notes.append(f'not carried over: {where}: the exit code of container "{container}" decides nothing here')
            continue
        codes -= decided
        decided |= codes
        if action == "FailJob":
            found |= codes
        elif action in ("Ignore", "FailIndex"):
            why = "every failure uses up a retry" if action == "Ignore" else "there is no index"
            notes.append(f"not carried over: {where}: action {action}: {why}")
    return sorted(found)


def _note_conditions(where: str, action: Any, notes: list[str]) -> None:
    if action == "Count":
        return
    how = (
        "a Pod that was disrupted uses up a retry"
        if action == "Ignore"
        else "retry.notOn knows only results of the job"
    )
    notes.append(f"not carried over: {where}: action {action} on Pod conditions: {how}")


def _codes(by_code: Any, where: str) -> set[int]:
    values = by_code.get("values") if isinstance(by_code, dict) else None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{where}.onExitCodes.values must be a list of whole numbers")
    operator = by_code.get("operator")
    if operator not in ("In", "NotIn"):
        raise ValueError(f"{where}.onExitCodes.operator must be In or NotIn")
    codes = _ALL_CODES.intersection(values)
    return set(codes if operator == "In" else _ALL_CODES - codes)
