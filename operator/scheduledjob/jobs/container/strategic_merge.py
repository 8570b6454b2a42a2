"""The user's template under the operator's fields: a strategic merge, as ``kubectl patch`` does it.

Objects are merged field by field. A list whose items have a key of their own (containers by name, volume mounts by
path) is merged item by item; any other list is one value, and the operator's takes the place of the template's. What
only the operator has stands before what only the template has, so that the template's variables may refer to the
operator's. A volume is replaced as a whole: half of two sources would be neither.

A template that can't be merged (a list where an object belongs, an item without its key, a key given twice) is a
``ValueError`` that says where.
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
"""The lists that are merged by item, and by which field."""

_WHOLE = frozenset({"volumes"})
_MAY_REPEAT = frozenset({"ports", "topologySpreadConstraints"})
"""One port may be open for TCP and UDP, one topology key may have two constraints."""


def merge(under: Mapping[str, Any], over: Mapping[str, Any], where: str = "template") -> dict[str, Any]:
    """``over`` on top of ``under``; neither is changed, and the result may share parts with both."""
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
    """The items of a merged list by their key."""
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
    """``value``, which must be an object; None counts as an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {_called(value)}: an object belongs here")
    return value


def as_list(value: Any, where: str) -> Sequence[Any]:
    """``value``, which must be a list; None counts as an empty one."""
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
