"""Turns pydantic's errors into problems: each fault once, at its line, with a message that says what to write.

Pydantic gives the place of an error as a path of keys and indices, and its kind as a type with parameters. Both are
kept, but the message is replaced, because "Input should be a valid string" does not help a user who wrote
``value: 5``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import checks
from .base import PATTERN_MEANINGS, Model
from .models import Secret
from .problems import Path, Problem, listed, nearest, plain, quoted, shortened
from .shape import choices_at, field_at, fields_of, model_at, places
from .yamltree import Node, Scalar, meaning_without_quotes

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    from .documents import ManifestDocument

MOST = 20
"""Maximum faults of one document that are reported."""

FEW = 4
"""For a mapping with fewer known fields, the message lists them."""


def problems_of(error: ValidationError, model: type[BaseModel], document: ManifestDocument) -> list[Problem]:
    """Return a problem for each fault, at most ``MOST``, in the order of the file."""
    details = error.errors(include_url=False)
    unknown = {detail["loc"][:-1] for detail in details if detail["type"] == "extra_forbidden"}
    # A field that is missing beside an unknown field is probably that field under a wrong name: report it once.
    details = [detail for detail in details if detail["type"] != "missing" or detail["loc"][:-1] not in unknown]
    problems: list[Problem] = []
    for detail in details[:MOST]:
        path: Path = tuple(part for part in detail["loc"] if part != "[key]")
        node = document.find(path)
        shown = "" if model is Secret else _shown(detail["input"], node)
        message, allowed = _worded(detail, model, path, shown)
        if detail["type"] == checks.REFUSED:
            path += tuple(detail["ctx"]["path"])
        problems.append(document.problem(path, message, allowed, at_key=detail["type"] == "extra_forbidden"))
    problems.sort(key=lambda problem: (problem.line, problem.column))
    if len(details) > MOST:
        problems.append(document.problem((), f"{len(details) - MOST} more faults", "fix those above first"))
    return problems


def _worded(detail: ErrorDetails, model: type[BaseModel], path: Path, shown: str) -> tuple[str, str]:
    """Return what is wrong, and what is allowed. ``shown`` is the value as the user wrote it."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case checks.REFUSED:
            return context["message"], context["allowed"]
        case "missing":
            return "is missing", _meaning_of(model, path)
        case "extra_forbidden":
            return _unknown_key(model, path)
        case "literal_error":
            return f"{shown} is not allowed", _one_of(choices_at(model, path), value)
        case "string_pattern_mismatch":
            return f"{shown} is not allowed", PATTERN_MEANINGS[context["pattern"]]
        case "greater_than_equal":
            return f"{shown} is not allowed", f"at least {context['ge']}"
        case "less_than_equal":
            return f"{shown} is not allowed", f"at most {context['le']}"
        case "too_short" | "string_too_short":
            return (
                "is empty" if not value else f"{shown} is too short",
                f"at least {_amount(context['min_length'], value)}",
            )
        case "too_long" | "string_too_long":
            return f"{_amount(len(value), value)} are too many", f"at most {context['max_length']}"
        case "bool_type" | "int_type" | "int_from_float" | "float_type":
            return _wrong_number(kind, value, shown)
        case "string_type":
            return _no_text(value, shown)
        case "list_type":
            return _wrong_structure("a list", value), 'begin each entry with "- "'
        case "dict_type" | "model_type":
            return _wrong_structure("a mapping", value), "write keys and values, indented below it"
    return f"{shown} is not allowed", detail["msg"]


def _meaning_of(model: type[BaseModel], path: Path) -> str:
    """Return what to write for a missing field."""
    field = field_at(model, path)
    if field is None:
        return ""
    wanted: object = field.annotation
    if isinstance(wanted, type) and issubclass(wanted, Model) and wanted.one_of:
        return f"write it with one of {listed(wanted.one_of)}"
    return field.description or ""


def _no_text(value: Any, shown: str) -> tuple[str, str]:
    if value is None:
        return "is empty", "text is expected"
    if isinstance(value, list | dict):
        return f"text is expected, not {_article(value)}", 'write it in one line, or in lines below "|"'
    return f"text is expected, not {_article(value)} {shown}".rstrip(), f'put it in quotes ("{shown or "..."}")'


def _one_of(choices: list[str], value: Any) -> str:
    close = nearest(value, choices) if isinstance(value, str) and len(choices) > 1 else None
    return f'did you mean "{close}"? {listed(choices)}' if close else f"write {listed(choices)}"


def _wrong_number(kind: str, value: Any, shown: str) -> tuple[str, str]:
    what = {"bool_type": "true or false", "float_type": "a number"}.get(kind, "a whole number")
    if value is None:
        return "is empty", f"{what} is expected"
    if isinstance(value, list | dict):
        return f"{what} is expected, not {_article(value)}", ""
    unquoted = meaning_without_quotes(value) if isinstance(value, str) else None
    fits = isinstance(unquoted, bool) if kind == "bool_type" else isinstance(unquoted, int | float)
    return f"{what} is expected, not {_article(value)} {shown}", "write it without quotes" if fits else ""


def _wrong_structure(what: str, value: Any) -> str:
    # Do not repeat the value: it may be a password that belongs in a Secret.
    if value is None:
        return "is empty"
    return f"{what} is expected, not {'text' if isinstance(value, str) else f'a {_noun(value)}'}"


def _article(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{'a' if isinstance(value, list | dict) else 'the'} {_noun(value)}"


def _noun(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return "list"
    return "mapping" if isinstance(value, dict) else "text"


def _amount(count: int, value: Any) -> str:
    singular, plural = ("character", "characters") if isinstance(value, str) else ("entry", "entries")
    return f"{count} {singular if count == 1 else plural}"


def _shown(value: Any, node: Node | None) -> str:
    """Return a value as the user wrote it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(node, Scalar):
        return plain(shortened(node.text))
    return _article(value)


def _unknown_key(model: type[BaseModel], path: Path) -> tuple[str, str]:
    owner = model_at(model, path[:-1])
    known = list(fields_of(owner)) if owner is not None else []
    written = str(path[-1])
    elsewhere = _ELSEWHERE_CALLED.get(written) or _elsewhere(model, written)
    if elsewhere and len(known) >= FEW:
        return "unknown field here", f"did you mean {elsewhere}?"
    close = nearest(written, known)
    if close:
        return "unknown field", f'did you mean "{close}"?'
    return "unknown field", f"known here: {listed(known, 'and')}"


_ELSEWHERE_CALLED = {
    "generateName": "metadata.name",
    "schedule": "spec.triggers[].cron",
    "jobTemplate": "spec.job",
    "startingDeadlineSeconds": "spec.misfire.startingDeadline",
    "successfulJobsHistoryLimit": "spec.history.succeeded",
    "failedJobsHistoryLimit": "spec.history.failed",
    "backoffLimit": "spec.retry.maxRetries",
    "activeDeadlineSeconds": "spec.timeouts.attempt",
}
"""The names, here, of fields of a CronJob or another Kubernetes object."""


def _elsewhere(model: type[BaseModel], key: str) -> str:
    """Return the one or two places where this key belongs."""
    found = places(model).get(key, [])
    return listed(found) if len(found) <= 2 else ""
