"""Parses YAML into a tree that knows the line and column of each value.

libyaml parses, and this module builds the tree from its events, for four reasons. PyYAML's own composer is recursive (a
document with ten thousand levels ends the process), expands aliases without a limit, silently accepts the second of two
equal keys, and does not keep the positions of values.

Plain scalars are read as kubectl reads them, so that a file means the same here and in a cluster: ``yes``, ``no``,
``on``, ``off``, ``y`` and ``n`` are booleans like ``true`` and ``false``, and ``0644`` is octal. But ``1:30`` and
``2026-12-01`` are text, which PyYAML would read as the number 90 and a date.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from .problems import Path, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 64
"""Maximum levels of mappings and lists, aliases expanded. The resource needs 6, a Pod template about 12."""
MAX_WEIGHT = 100_000
"""Maximum values of a document, aliases expanded; 100 characters of text count as one value more. Large documents of
other kinds (CRDs) in the same file have about 50,000."""

CHARACTERS_PER_WEIGHT = 100

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = {
    word: value
    for value, stems in (
        (True, ("true", "yes", "y", "on")),
        (False, ("false", "no", "n", "off")),
        (None, ("null", "~")),
    )
    for stem in stems
    for word in (stem, stem.capitalize(), stem.upper())
} | {"": None}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_OTHER_BASE = re.compile(
    r"([-+]?)0(?:o?(?P<octal>[0-7_]{1,30})|x(?P<hex>[0-9a-fA-F_]{1,30})|b(?P<bits>[01_]{1,100}))\Z"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_LONGEST_NUMBER = 100
_LARGEST = (1 << 63) - 1
_CORE_TAG = "tag:yaml.org,2002:"


class YamlError(Exception):
    """A document is not valid YAML. ``line`` and ``column`` count from 1 in the parsed text."""

    def __init__(self, line: int, column: int, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message
        self.path = path


@dataclass(slots=True)
class Scalar:
    """A single value as the user wrote it."""

    text: str
    plain: bool
    """Whether it has no quotes, so that its text decides its type."""
    tag: str | None
    line: int
    column: int
    weight: int = 1
    height: int = 0


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    weight: int = 1
    height: int = 0


@dataclass(slots=True)
class Mapping:
    """Keys and values. Each key has its own position, because the value may be an alias."""

    line: int
    column: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    merged: list[Node] = field(default_factory=list)
    """The mappings that ``<<`` merges in, the nearest first."""
    weight: int = 1
    height: int = 0


Node: TypeAlias = Scalar | Sequence | Mapping


def documents(text: str, faults: list[YamlError]) -> Iterator[Node]:
    """Yield the tree of each document in ``text``, except for empty documents.

    A key that is given twice is added to ``faults``. Raises ``YamlError`` if the rest can't be parsed.
    """
    try:
        yield from _Composer(faults).compose(yaml.parse(text, Loader=_PARSER))
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text) from None
    except yaml.YAMLError as error:
        # The reader's error has a position in the text instead of a mark.
        before = text[: getattr(error, "position", 0)]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        reason = getattr(error, "reason", "") or str(error)
        raise YamlError(line, column, f"not readable as YAML: {reason}") from None


class _Composer:
    """Builds trees from parser events, with a stack instead of recursion, so that depth costs only memory."""

    def __init__(self, faults: list[YamlError]) -> None:
        self._faults = faults
        self._open: list[tuple[Sequence | Mapping, str | None]] = []
        """The open collections, outermost first, with their anchors."""
        self._keys: list[Scalar | None] = []
        """For each of them, the key whose value comes next."""
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None

    def compose(self, events: Iterator[yaml.Event]) -> Iterator[Node]:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                self._root = None
            elif isinstance(event, yaml.DocumentEndEvent):
                root = self._root
                if root is not None and not _is_empty(root):
                    yield root
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
            elif isinstance(event, yaml.AliasEvent):
                line, column = _start(event)
                self._place(self._aliased(event.anchor or "", line, column), line, column)
            elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
                self._add(event)

    def _add(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        line, column = _start(event)
        tag = None if event.tag in (None, "!") else self._checked_tag(event, line, column)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None or event.style == ""
            quoted_by_tag = event.tag == "!"
            weight = 1 + len(event.value) // CHARACTERS_PER_WEIGHT
            scalar = Scalar(event.value, plain and not quoted_by_tag, tag, line, column, weight)
            if event.anchor is not None:
                self._anchors[event.anchor] = scalar
            self._place(scalar, line, column)
            return
        opened = Sequence(line, column) if isinstance(event, yaml.SequenceStartEvent) else Mapping(line, column)
        if len(self._open) >= MAX_DEPTH:
            raise YamlError(line, column, f"nested too deeply: at most {MAX_DEPTH} levels", self._path())
        self._open.append((opened, event.anchor))
        self._keys.append(None)

    def _close(self) -> None:
        closed, anchor = self._open.pop()
        self._keys.pop()
        if isinstance(closed, Mapping):
            _merge(closed)
        if anchor is not None:
            self._anchors[anchor] = closed
        self._place(closed, closed.line, closed.column)

    def _place(self, node: Node, line: int, column: int) -> None:
        """Put a complete value into its parent. ``line`` and ``column`` are those of the alias, if it is one."""
        if not self._open:
            self._root = node
            return
        parent, _ = self._open[-1]
        parent.weight += node.weight
        parent.height = max(parent.height, node.height + 1)
        if parent.weight > MAX_WEIGHT:
            message = f"the document holds more than {MAX_WEIGHT} values, aliases expanded: split it"
            raise YamlError(line, column, message, self._path())
        if len(self._open) + node.height > MAX_DEPTH:
            raise YamlError(line, column, f"nested too deeply: at most {MAX_DEPTH} levels", self._path())
        if isinstance(parent, Sequence):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is None:
            if not isinstance(node, Scalar):
                template = ' ("{{" is for templates: render them first)' if isinstance(node, Mapping) else ""
                message = f"a key must be a single word, not a list or a mapping{template}"
                raise YamlError(line, column, message, self._path())
            # The position of an aliased key is that of the alias.
            self._keys[-1] = Scalar(node.text, node.plain, node.tag, line, column)
            return
        self._keys[-1] = None
        if key.plain and key.text == "<<":
            parent.merged.extend(_sources(node, line, column, (*self._path(), "<<")))
        elif key.text in parent.entries:
            first = parent.entries[key.text][0]
            path = (*self._path(), key.text)
            self._faults.append(
                YamlError(key.line, key.column, f"given twice, first in line {first.line}: leave one out", path)
            )
        else:
            parent.entries[key.text] = (key, node)

    def _aliased(self, anchor: str, line: int, column: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            if any(anchor == name for _, name in self._open):
                raise YamlError(line, column, f"the alias *{anchor[:60]} is inside its own value", self._path())
            raise YamlError(
                line, column, f"the alias *{anchor[:60]} has no anchor &{anchor[:60]} before it", self._path()
            )
        return node

    def _checked_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int, column: int) -> str:
        written = event.tag or ""
        tag = written.removeprefix(_CORE_TAG)
        if isinstance(event, yaml.ScalarEvent):
            allowed: tuple[str, ...] = ("str", "int", "float", "bool", "null")
        else:
            allowed = ("seq",) if isinstance(event, yaml.SequenceStartEvent) else ("map",)
        if tag not in allowed or not written.startswith(_CORE_TAG):
            shown = f"!!{tag}" if written.startswith(_CORE_TAG) else tag
            raise YamlError(line, column, f"the tag {quoted(shown)} is not allowed: leave it out", self._path())
        return tag

    def _path(self) -> Path:
        """Return the path of the value that is being read."""
        path: list[str | int] = []
        for (collection, _), key in zip(self._open, self._keys, strict=True):
            if isinstance(collection, Sequence):
                path.append(len(collection.items))
            elif key is not None:
                path.append(key.text)
        return tuple(path)


def _start(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and _WORDS.get(node.text, node) is None


def _sources(node: Node, line: int, column: int, path: Path) -> list[Node]:
    """Return the mappings that a merge key names."""
    sources = node.items if isinstance(node, Sequence) else [node]
    if not all(isinstance(source, Mapping) for source in sources):
        raise YamlError(line, column, "merges mappings only: write an alias of one, or a list of them", path)
    return list(sources)


def _merge(mapping: Mapping) -> None:
    for source in mapping.merged:
        assert isinstance(source, Mapping)
        for key, entry in source.entries.items():
            mapping.entries.setdefault(key, entry)


def _explained(error: yaml.MarkedYAMLError, text: str) -> YamlError:
    """Return the error of the parser in words that say what to do."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or "cannot be read"
    lines = text.split("\n")
    here = lines[line - 1] if line <= len(lines) else ""
    character = here[column - 1 : column]
    if "anchor" in (error.context or "") or "alias" in (error.context or ""):
        return YamlError(line, column, 'a value that begins with "*" or "&" must be in quotes ("...")')
    if "tab character" in problem or character == "\t":
        return YamlError(line, column, "a tab can't indent YAML: use spaces")
    if "cannot start any token" in problem:
        return YamlError(line, column, f'a value can\'t start with {quoted(character)}: put it in quotes ("...")')
    if "mapping values are not allowed" in problem:
        return YamlError(
            line, column, 'a ":" that is not expected here: check the indentation, or put the text in quotes ("...")'
        )
    context = error.context_mark
    since = f" (it began in line {context.line + 1})" if context is not None and context.line + 1 != line else ""
    advice = ": check the indentation" if "expected key" in problem or "'-'" in problem else ""
    return YamlError(line, column, f"not readable as YAML: {problem}{since}{advice}")


def to_python(node: Node, path: Path = ()) -> Any:
    """Return the tree at ``path`` as plain Python. Raises ``YamlError`` for a number that JSON can't represent."""
    if isinstance(node, Scalar):
        return _scalar(node, path)
    if isinstance(node, Sequence):
        return [to_python(item, (*path, index)) for index, item in enumerate(node.items)]
    return {key: to_python(value, (*path, key)) for key, (_, value) in node.entries.items()}


def _scalar(node: Scalar, path: Path) -> Any:
    text = node.text
    if node.tag == "str" or (not node.plain and node.tag is None):
        return text
    value = _resolved(node, path)
    expected = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(node.tag or "")
    if expected is float and type(value) is int:
        return float(value)
    if expected is not None and type(value) is not expected:
        raise YamlError(node.line, node.column, f"{quoted(text)} is not a !!{node.tag}: leave the tag out", path)
    return value


def _resolved(node: Scalar, path: Path) -> Any:
    """Return the value of a scalar without quotes."""
    text = node.text
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _DECIMAL.match(text):
        number = int(text.replace("_", "")) if len(text) <= _LONGEST_NUMBER else _LARGEST + 1
        return _in_range(number, node, path)
    if match := _OTHER_BASE.match(text):
        for group, base in (("octal", 8), ("hex", 16), ("bits", 2)):
            digits = (match[group] or "").replace("_", "")
            if digits:
                return _in_range(int(match[1] + digits, base), node, path)
    if _FLOAT.match(text) and len(text) <= _LONGEST_NUMBER:
        return _in_range(float(text), node, path)
    if _NOT_FINITE.match(text):
        raise YamlError(
            node.line, node.column, f"{quoted(text)} is not a finite number: write a number, or text in quotes", path
        )
    return text


def _in_range(number: float, node: Scalar, path: Path) -> float:
    """Return the number. Raises ``YamlError`` if not every JSON parser can represent it."""
    if abs(number) > (_LARGEST if isinstance(number, int) else sys.float_info.max):
        message = f"{quoted(node.text)} is too large a number: put text in quotes"
        raise YamlError(node.line, node.column, message, path)
    return number


def meaning_without_quotes(text: str) -> Any:
    """Return the value that a text would have without quotes."""
    try:
        return to_python(Scalar(text, True, None, 1, 1))
    except YamlError:
        return text


def locate(root: Node, path: Path, *, at_key: bool = False) -> tuple[int, int]:
    """Return line and column of the field at ``path``, or of the nearest field above it that exists.

    The line is that of the key. The column is that of the value if it is in the same line, unless ``at_key``.
    """
    node, place = root, (root.line, root.column)
    for part in path:
        if isinstance(node, Mapping) and isinstance(part, str) and part in node.entries:
            key, node = node.entries[part]
            same_line = isinstance(node, Scalar) and node.line == key.line and not at_key
            place = (key.line, node.column if same_line else key.column)
        elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
            node = node.items[part]
            place = (node.line, node.column)
        else:
            break
    return place


def find(root: Node, path: Path) -> Node | None:
    """Return the node at exactly this path; None if there is none."""
    node: Node | None = root
    for part in path:
        if isinstance(node, Mapping) and isinstance(part, str):
            node = node.entries[part][1] if part in node.entries else None
        elif isinstance(node, Sequence) and isinstance(part, int):
            node = node.items[part] if 0 <= part < len(node.items) else None
        else:
            return None
    return node
