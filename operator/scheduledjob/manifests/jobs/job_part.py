"""JobPart: the field that one kind of job has in a manifest, and how it is stored."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from scheduledjob.engine.executor import Value

from ..base import Model
from ..sources import qualified

if TYPE_CHECKING:
    from ..policies import CompleteOn
    from ..sources import KeySelector, SecretValue, ValueFrom


class JobPart(Model):
    """A part of ``JobModel``, which has the fields of all parts."""

    key: ClassVar[str]
    """The key in ``spec.job`` that selects this kind."""

    def to_stored(self, complete_on: CompleteOn | None, namespace: str) -> tuple[str, Any]:
        """Return the kind and what its executor receives, as plain JSON. The key has a value."""
        raise NotImplementedError


def optional_value(source: ValueFrom | SecretValue | None, namespace: str) -> Value | None:
    return None if source is None else value_of(source, namespace)


def value_of(source: ValueFrom | SecretValue, namespace: str) -> Value:
    secret: KeySelector | None = source.secret_key_ref
    if secret is not None:
        return Value(secret=(qualified(namespace, secret.name), secret.key), optional=bool(secret.optional))
    selector = getattr(source, "config_map_key_ref", None)
    assert selector is not None
    return Value(config_map=(qualified(namespace, selector.name), selector.key), optional=bool(selector.optional))


def short(value: Any) -> Any:
    """Plain JSON of a spec: fields that have their default are left out, sets are sorted."""
    if is_dataclass(value):
        return {
            part.name: short(given)
            for part in fields(value)
            if (given := getattr(value, part.name)) != _default_of(part)
        }
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [short(item) for item in value] if isinstance(value, tuple) else value


def _default_of(part: Any) -> Any:
    return part.default if part.default_factory is MISSING else part.default_factory()
