"""The structure of the models: which fields they have, for messages that suggest a field."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from .problems import Path


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by their keys in a manifest."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the model at ``path`` below ``model``; None if there is no model for it."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, str):
            field = fields_of(current).get(part) if current is not None else None
            current = next(_models(field.annotation), None) if field is not None else None
    return current


def field_at(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """Return the field at ``path``, whose last part is its key or an index in its list."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    owner = model_at(model, path[:-1])
    return fields_of(owner).get(str(path[-1])) if owner is not None and path else None


def choices_at(model: type[BaseModel], path: Path) -> list[str]:
    """Return the values that an enumerated field allows."""
    field = field_at(model, path)
    return list(next(_literals(field.annotation), ())) if field is not None else []


@cache
def places(model: type[BaseModel]) -> dict[str, list[str]]:
    """Return where each key below a model belongs, in the form ``spec.triggers[].cron``."""
    found: dict[str, list[str]] = {}
    for place, key in _walk(model, ""):
        found.setdefault(key, []).append(place)
    return found


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for key, field in fields_of(model).items():
        yield f"{prefix}{key}", key
        inner = next(_models(field.annotation), None)
        if inner is not None:
            in_list = "list[" in str(field.annotation)
            yield from _walk(inner, f"{prefix}{key}{'[]' if in_list else ''}.")


def _literals(annotation: Any) -> Iterator[tuple[str, ...]]:
    arguments = get_args(annotation)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        yield arguments
    for argument in arguments:
        yield from _literals(argument)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
