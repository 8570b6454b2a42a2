"""Turns the models into a structural schema, the subset of OpenAPI v3 that a CRD allows.

Pydantic describes the models in JSON Schema. This module resolves its references, removes what a CRD does not allow
(titles, defaults, ``null`` as a type, ``additionalProperties`` beside ``properties``), and turns patterns into rules:
for a pattern the API server's message is the pattern itself, while a rule can say what to write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import PATTERN_MEANINGS
from .rules import ALTERNATIVES, VALIDATIONS, Rule, matches

if TYPE_CHECKING:
    from pydantic import BaseModel

_PRESERVED = "x-kubernetes-preserve-unknown-fields"
_LIST_TYPE = "x-kubernetes-list-type"
_ORDER = ("description", "type", "format", "enum")
"""The keys that come first."""


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model, with the descriptions of all its fields."""
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}))


def _structural(source: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    given = _resolved(source, definitions)
    schema = {key: given[key] for key in _ORDER if key in given}
    if ALTERNATIVES in given:
        schema["description"] += f" {given[ALTERNATIVES]}"
    rules = list(given.pop(VALIDATIONS, ()))
    pattern = given.pop("pattern", None)
    if pattern in PATTERN_MEANINGS:
        rules.insert(0, Rule(matches("self", pattern), f"write {PATTERN_MEANINGS[pattern]}").schema())
    elif pattern is not None:
        schema["pattern"] = pattern
    if "const" in given:
        schema["enum"] = [given["const"]]
    for key in ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "required"):
        if key in given:
            schema[key] = given[key]
    schema |= {key: value for key, value in given.items() if key.startswith("x-kubernetes-")}
    if "anyOf" in given:
        schema["anyOf"] = given["anyOf"]
    if given.get("type") == "object":
        _describe_object(schema, given, definitions)
    if given.get("type") == "array":
        schema.setdefault(_LIST_TYPE, "atomic")
        schema["items"] = _structural(given["items"], definitions)
    if rules:
        schema[VALIDATIONS] = rules
    return schema


def _describe_object(schema: dict[str, Any], given: dict[str, Any], definitions: dict[str, Any]) -> None:
    # For a field that may be null, pydantic calls the bound of a mapping maxLength.
    bound = schema.pop("maxLength", None) or given.get("maxProperties")
    if bound is not None:
        schema["maxProperties"] = bound
    values = given.get("additionalProperties")
    if isinstance(values, dict) and not schema.get(_PRESERVED):
        schema["additionalProperties"] = _structural(values, definitions)
    if "properties" in given:
        schema["properties"] = {key: _structural(part, definitions) for key, part in given["properties"].items()}


def _resolved(source: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without references and without ``null``. What is nearest to the field wins."""
    outer = {key: value for key, value in source.items() if key not in ("$ref", "anyOf")}
    if "$ref" in source:
        return _resolved(definitions[source["$ref"].rpartition("/")[2]], definitions) | outer
    choices = [choice for choice in source.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        return _joined(_resolved(choices[0], definitions), outer)
    return outer | ({"anyOf": choices} if choices else {})


def _joined(inner: dict[str, Any], outer: dict[str, Any]) -> dict[str, Any]:
    rules = [*inner.get(VALIDATIONS, ()), *outer.get(VALIDATIONS, ())]
    return inner | outer | ({VALIDATIONS: rules} if rules else {})
