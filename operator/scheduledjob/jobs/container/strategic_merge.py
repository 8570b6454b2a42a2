"""Merges the operator's fields into the user's template: a strategic merge, as in ``kubectl patch``.

Objects are merged field by field. A list whose items have a key (containers by name, volume mounts by path) is merged
item by item. In any other list, the operator's list replaces the template's. Items of the operator come first, so that
the template's variables may refer to the operator's. A volume is replaced as a whole, because it can have one source
only.

A template that can't be merged (a list instead of an object, an item without its key, a key given twice) raises
``ValueError``, which says where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
"""The lists that are merged item by item, and the key of their items."""

_WHOLE = frozenset({"volumes"})
_MAY_REPEAT = frozenset({"ports", "topologySpreadConstraints"})
"""Lists in which a key may repeat: a port may be open for TCP and UDP, a topology key may have two constraints."""


def merge(under: Mapping[str, Any], over: Mapping[str, Any], where: str = "template") -> dict[str, Any]:
    """Return ``under`` overridden by ``over``. Neither is changed; the result may share parts with both."""
    merged = dict(under)
    for name, value in over.items():
        below = under.get(name)
        if below is None:
            merged[name] = value
        elif isinstance(value, Mapping):
            merged[name] = merge(as_object(below, f"{where}.{name}"), value, f"{where}.{name}")
        elif isinstance(value, Sequence) and not isinstance(value, str) and name in KEYS:
            merged[name] = _merge_lists(name, as_list(below, f"{where}.{name}"), value, f"{where}.{name}")
        else:
            merged[name] = value
    return merged


def _merge_lists(name: str, under: Sequence[Any], over: Sequence[Any], where: str) -> list[Any]:
    key = KEYS[name]
    below = by_key(under, name, where)
    above = by_key(over, name, where)
    merged: list[Any] = [item for item_key, item in above.items() if item_key not in below]
    seen: set[Any] = set()
    for item in under:
        found = above.get(item[key])
        if found is None:
            merged.append(item)
        elif item[key] not in seen:
            seen.add(item[key])
            whole = name in _WHOLE
            merged.append(found if whole else merge(item, found, f"{where}[{item[key]}]"))
    return merged


def by_key(items: Sequence[Any], name: str, where: str) -> dict[Any, Any]:
    """Return the items of a list by their key. Raises ``ValueError`` for an item without a key, or a repeated key."""
    key = KEYS[name]
    found: dict[Any, Any] = {}
    for index, item in enumerate(items):
        value = as_object(item, f"{where}[{index}]").get(key)
        if not isinstance(value, str | int) or value == "":
            raise ValueError(f"{where}[{index}] has no {key}: give it one")
        if value in found and name not in _MAY_REPEAT:
            raise ValueError(f'{where} has two items with {key} "{value}": leave one out')
        found[value] = item
    return found


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """Return ``value`` if it is an object; None counts as an empty one. Otherwise raise ``ValueError``."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {_called(value)}: an object belongs here")
    return value


def as_list(value: Any, where: str) -> Sequence[Any]:
    """Return ``value`` if it is a list; None counts as an empty one. Otherwise raise ``ValueError``."""
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{where} is {_called(value)}: a list belongs here")
    return value


def _called(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, Mapping) else "a list"
