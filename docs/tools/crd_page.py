"""``docs/crd-reference.md``, from the definition that the API server is given: every field, in the order of the models.

What stands in several places (an HTTP request, a reference to a Secret) is described once and linked from the others.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from scheduledjob.manifests.crd import crd

_BEGINNING = """# CRD reference

<!-- Written by `make docs` from operator/scheduledjob/manifests. -->

Every field of a `ScheduledJob` (`apiVersion: scheduledjobs.dev/v1beta1`), as `kubectl explain scheduledjob.spec` tells
it too. The same models check manifests in `scheduledjob validate` and `scheduledjob run`.

The definition holds no defaults that the API server would write back: they apply when an object is read, and stand in
the descriptions. Lengths of time are written `1h30m` or `45s`, never as a bare number. A field in **bold** has to be
given.
"""

_ENDING = """## Columns

What `kubectl get sjob` shows; those marked *wide* with `-o wide`.

| Column | Shows |
|---|---|
"""

_VALIDATIONS = "x-kubernetes-validations"
_FREE = "x-kubernetes-preserve-unknown-fields"


def crd_page() -> str:
    """The page."""
    version = crd()["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    page = _Page()
    page.describe("spec", properties["spec"])
    page.describe("status", properties["status"])
    columns = [
        f"| {column['name']}{' *(wide)*' if column.get('priority') else ''} | {_cell(column['description'])} |"
        for column in version["additionalPrinterColumns"]
    ]
    fields = ", ".join(f"`{one['jsonPath'][1:]}`" for one in version["selectableFields"])
    selectable = f"\n`kubectl get sjob --field-selector` knows {fields}.\n"
    return _BEGINNING + "".join(page.sections) + "\n" + _ENDING + "\n".join(columns) + "\n" + selectable


class _Page:
    def __init__(self) -> None:
        self.sections: list[str] = []
        self._described: dict[str, str] = {}

    def describe(self, path: str, schema: dict[str, Any]) -> None:
        """A section for an object, and after it those of the objects in it."""
        self._described[_identity(schema)] = path
        lines = [f"\n## {path}\n\n{schema['description']}\n"]
        # The description ends with which fields exclude each other.
        others = [
            rule
            for rule in schema.get(_VALIDATIONS, ())
            if rule["message"].lower() not in schema["description"].lower()
        ]
        rules = [f"- {_rule(rule)}" for rule in others]
        lines.append("| Field | Type | Meaning |\n|---|---|---|")
        required = schema.get("required", ())
        inner: list[tuple[str, dict[str, Any]]] = []
        for name, field in schema["properties"].items():
            shown = f"**`{name}`**" if name in required else f"`{name}`"
            within, described = _object_in(f"{path}.{name}", field)
            kind = _type_of(field)
            if described is not None:
                where = self._described.get(_identity(described))
                if where is None:
                    self._described[_identity(described)] = where = within
                    inner.append((within, described))
                kind = f"[{kind}](#{_anchor(where)})"
            lines.append(f"| {shown} | {kind} | {_meaning(field)} |")
        if rules:
            lines += ["\nRules:\n", *rules]
        self.sections.append("\n".join(lines) + "\n")
        for within, described in inner:
            self.describe(within, described)


def _object_in(path: str, field: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The object that a field holds, or a list of it; None where it holds none with fields of its own."""
    if field.get("type") == "array":
        return _object_in(f"{path}[]", field["items"])
    return path, field if "properties" in field and not field.get(_FREE) else None


def _identity(schema: dict[str, Any]) -> str:
    """Objects that have the same fields are described once."""
    return repr(sorted(schema["properties"].items()))


def _type_of(field: dict[str, Any]) -> str:
    if "type" not in field:
        return "number or string"
    if field["type"] == "array":
        return f"list of {_type_of(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type_of(field['additionalProperties'])}"
    return "any fields" if field.get(_FREE) else str(field["type"])


def _meaning(field: dict[str, Any]) -> str:
    told = [str(field["description"])] if "description" in field else []
    inner = field.get("items", field)
    if "enum" in inner:
        told.append("One of " + ", ".join(f"`{value}`" for value in inner["enum"]) + ".")
    for least, most, what in (
        ("minimum", "maximum", ""),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if told_of := _bounds(field.get(least), field.get(most), what):
            told.append(told_of)
    # How it is written; what else is refused, the answer of the API server tells whom it concerns.
    rules = (*field.get(_VALIDATIONS, ()), *inner.get(_VALIDATIONS, ()))
    told += [f"{_rule(rule)}." for rule in rules if "properties" not in inner and rule["message"].startswith("write ")][
        :1
    ]
    return _cell(" ".join(told))


def _bounds(least: float | None, most: float | None, what: str) -> str:
    if least is not None and most is not None:
        return f"From {least:,} to {most:,}{what}."
    if most is not None:
        return f"At most {most:,}{what}."
    return "" if least is None else f"At least {least:,}{what}."


def _rule(rule: dict[str, Any]) -> str:
    where = f"`{rule['fieldPath'][1:]}` " if "fieldPath" in rule else ""
    message: str = where + rule["message"]
    first = message.partition(" ")[0]
    return message[:1].upper() + message[1:] if first.islower() and first.isalpha() else message


def _cell(words: str) -> str:
    words = re.sub(r"(?<![`\w])<(\w)", r"&lt;\1", words)
    return words.replace("|", "\\|").replace("\n", " ")


def _anchor(path: str) -> str:
    """What a heading becomes in a link, here and on the code's web pages alike."""
    return re.sub(r"[^\w -]", "", path.lower())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(crd_page(), encoding="utf-8")
