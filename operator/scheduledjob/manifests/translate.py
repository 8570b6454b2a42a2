"""From pydantic's errors to problems: each fault once, at its line, in words that say what to write.

Pydantic says where an error is as a path of keys and indices, and what it is as a type with parameters; both are kept
and only the words are ours, because "Input should be a valid string" helps nobody who wrote ``value: 5``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from scheduledjob.manifests import checks
from scheduledjob.manifests.base import PATTERN_MEANINGS
from scheduledjob.manifests.problems import Path, Problem, listed, nearest, plain, quoted, shortened
from scheduledjob.manifests.yamltree import Node, Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic_core import ErrorDetails

    from scheduledjob.manifests.documents import Document

MOST = 20
"""Faults of one document that are told."""


def problems_of(error: ValidationError, model: type[BaseModel], document: Document) -> list[Problem]:
    """A problem for each fault, at most ``MOST``, in the order of the file."""
    details = error.errors(include_url=False)
    problems: list[Problem] = []
    for detail in details[:MOST]:
        path: Path = tuple(part for part in detail["loc"] if part != "[key]")
        message, allowed = _worded(detail, model, path, document.find(path))
        if detail["type"] == checks.REFUSED:
            path += tuple(detail["ctx"]["path"])
        problems.append(document.problem(path, message, allowed, at_key=detail["type"] == "extra_forbidden"))
    problems.sort(key=lambda problem: (problem.line, problem.column))
    if len(details) > MOST:
        problems.append(document.problem((), f"{len(details) - MOST} more faults", "mend those above first"))
    return problems


def _worded(detail: ErrorDetails, model: type[BaseModel], path: Path, node: Node | None) -> tuple[str, str]:
    """What is wrong, and what is allowed."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    shown = _shown(value, node)
    if kind == checks.REFUSED:
        return context["message"], context["allowed"]
    if kind == "missing":
        return "is missing", _description(model, path)
    if kind == "extra_forbidden":
        return _unknown_key(model, path)
    if kind == "literal_error":
        choices = [str(choice) for choice in _choices(model, path)]
        close = nearest(value, choices) if isinstance(value, str) else None
        hint = f'did you mean "{close}"? ' if close else ""
        return f"{shown} is not allowed", hint + (listed(choices) if len(choices) > 1 else f"write {listed(choices)}")
    if kind == "string_pattern_mismatch":
        return f"{shown} is not allowed", PATTERN_MEANINGS[context["pattern"]]
    if kind in _BOUNDS:
        return _BOUNDS[kind](context, shown, value)
    expected = _EXPECTED.get(kind)
    if expected is None:
        return f"{shown} is not allowed", detail["msg"]
    what, example = expected
    if value is None:
        return "is empty", f"{what} is expected"
    if isinstance(value, list | dict):
        return f"{what} is expected, not {_article(value)}", example
    written = node.text if isinstance(node, Scalar) else str(value)
    if kind == "string_type":
        example = f'put it in quotes ("{plain(shortened(written))}")'
    return f"{what} is expected, not {_article(value)} {shown}", example


_EXPECTED = {
    "string_type": ("text", ""),
    "bool_type": ("true or false", "without quotes"),
    "int_type": ("a whole number", "without quotes"),
    "float_type": ("a number", "without quotes"),
    "float_parsing": ("a number", "without quotes"),
    "list_type": ("a list", 'begin each entry with "- "'),
    "dict_type": ("a mapping", "write keys and values, indented below it"),
    "model_type": ("a mapping", "write keys and values, indented below it"),
    "model_attributes_type": ("a mapping", "write keys and values, indented below it"),
}


def _article(value: Any) -> str:
    if isinstance(value, bool):
        return "the boolean"
    if isinstance(value, int | float):
        return "the number"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "the text"


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


_BOUNDS: dict[str, Callable[[dict[str, Any], str, Any], tuple[str, str]]] = {
    "greater_than_equal": lambda ctx, shown, _: (f"{shown} is not allowed", f"at least {ctx['ge']:g}"),
    "less_than_equal": lambda ctx, shown, _: (f"{shown} is not allowed", f"at most {ctx['le']:g}"),
    "too_short": lambda ctx, shown, value: (f"has {_entries(ctx['actual_length'])}", f"at least {ctx['min_length']}"),
    "too_long": lambda ctx, shown, value: (f"has {_entries(len(value))}", f"at most {ctx['max_length']}"),
    "string_too_short": lambda ctx, shown, value: (
        ("is empty", "") if not value else (f"{shown} is too short", f"at least {ctx['min_length']} characters")
    ),
    "string_too_long": lambda ctx, shown, value: (
        f"{len(value)} characters are too many",
        f"at most {ctx['max_length']}",
    ),
    "finite_number": lambda ctx, shown, _: (f"{shown} is no finite number", ""),
    "int_from_float": lambda ctx, shown, _: (f"{shown} is not allowed", "a whole number"),
}


def _shown(value: Any, node: Node | None) -> str:
    """A value as the user wrote it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(node, Scalar):
        return quoted(node.text)[1:-1] if len(node.text) <= 60 else quoted(node.text)
    return _article(value)


def _unknown_key(model: type[BaseModel], path: Path) -> tuple[str, str]:
    owner = _model_at(model, path[:-1])
    known = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
    written = str(path[-1])
    close = nearest(written, known)
    if close:
        return "unknown field", f'did you mean "{close}"?'
    return "unknown field", f"known here: {listed(known, 'and')}"


def _description(model: type[BaseModel], path: Path) -> str:
    owner = _model_at(model, path[:-1])
    for name, field in (owner.model_fields if owner else {}).items():
        if (field.alias or name) == path[-1]:
            return field.description or ""
    return ""


def _choices(model: type[BaseModel], path: Path) -> tuple[Any, ...]:
    owner = _model_at(model, path[:-1])
    for name, field in (owner.model_fields if owner else {}).items():
        if (field.alias or name) == path[-1]:
            return next((choices for choices in _literals(field.annotation)), ())
    return ()


def _literals(annotation: Any) -> Iterator[tuple[Any, ...]]:
    arguments = get_args(annotation)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        yield arguments
    for argument in arguments:
        yield from _literals(argument)


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model that describes what stands at ``path``."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        if current is None:
            return None
        annotation = next(
            (field.annotation for name, field in current.model_fields.items() if (field.alias or name) == part), None
        )
        current = next(_models(annotation), None)
    return current


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
