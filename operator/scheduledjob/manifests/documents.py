"""A document of a file: its kind, and its problems with their lines and columns."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from scheduledjob.resource_names import API_VERSION, GROUP, KIND

from .models import DEFAULT_NAMESPACE
from .problems import Path, Problem, dotted, nearest, plain, quoted, shortened
from .yamltree import Mapping, Node, Scalar, Sequence, YamlError, find, locate, to_python

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meaning(Enum):
    """The kinds of documents."""

    JOB = auto()
    SECRET = auto()
    CONFIG_MAP = auto()
    LIST = auto()
    """A ``v1`` List, as ``kubectl get -o yaml`` prints it."""
    OTHER = auto()


class ManifestDocument:
    """A document, or an item of a List, in its file."""

    def __init__(self, file: str, line_offset: int, root: Node | None = None, prefix: Path = ()) -> None:
        """``line_offset``: number of lines before the parsed text. ``prefix``: path from ``root`` to the item."""
        self.file = file
        self.root: Node = Mapping(1, 1) if root is None else root
        self.prefix = prefix
        self._line_offset = line_offset

    @property
    def line(self) -> int:
        """The line in which it begins, counted from 1."""
        return locate(self.root, self.prefix)[0] + self._line_offset

    @property
    def weight(self) -> int:
        """Its size, in the unit of ``yamltree.MAX_WEIGHT``."""
        node = self.find(())
        return 0 if node is None else node.weight

    @property
    def key(self) -> tuple[str, str] | None:
        """(namespace, name); None if it has no name."""
        name = self._text("metadata", "name")
        return None if name is None else (self._text("metadata", "namespace") or DEFAULT_NAMESPACE, name)

    def value(self) -> Any:
        """Return its plain Python value. Raises ``YamlError`` for a value that JSON can't represent."""
        node = self.find(())
        assert node is not None
        return to_python(node, self.prefix)

    def find(self, path: Path) -> Node | None:
        """Return the node at exactly this path; None if there is none."""
        return find(self.root, self.prefix + path)

    def items(self) -> Iterator[ManifestDocument]:
        """Yield the documents in a List."""
        listed = self.find(("items",))
        for index in range(len(listed.items) if isinstance(listed, Sequence) else 0):
            yield ManifestDocument(self.file, self._line_offset, self.root, (*self.prefix, "items", index))

    def problem(
        self, path: Path, message: str, allowed: str = "", *, at_key: bool = False, key: tuple[str, str] | None = None
    ) -> Problem:
        """Return the problem of the field at ``path``, or of its key."""
        line, column = locate(self.root, self.prefix + path, at_key=at_key)
        return Problem(
            self.file,
            line + self._line_offset,
            column,
            dotted(self.prefix + path),
            message,
            allowed,
            key or self.key,
        )

    def syntax(self, error: YamlError) -> Problem:
        """Return the problem of a YAML error, which was found before the document was complete."""
        line = error.line + self._line_offset
        return Problem(self.file, line, error.column, dotted(error.path), error.message, job=self.key)

    def meaning(self) -> Meaning | Problem:
        """Return the kind of this document, or a problem if its apiVersion or kind is missing or wrong."""
        if not isinstance(self.find(()), Mapping):
            what = "a list" if isinstance(self.find(()), Sequence) else "text"
            return self.problem((), f"{what} is not a manifest", "write apiVersion, kind, metadata and spec")
        kind, api_version = self._text("kind"), self._text("apiVersion")
        for name, value, example in (("apiVersion", api_version, API_VERSION), ("kind", kind, KIND)):
            if not value:
                there = self.find((name,)) is not None
                return self.problem((name,), "must be text" if there else "is missing", f'write "{example}" for a job')
        group = (api_version or "").partition("/")[0]
        if group == GROUP:
            if kind == KIND:
                return Meaning.JOB
            return self.problem(("kind",), f"{quoted(kind or '')} is not allowed", f'write "{KIND}"')
        if kind == KIND or (nearest(group, [GROUP]) and nearest(kind or "", [KIND])):
            return self.problem(
                ("apiVersion",), f"{quoted(api_version or '')} is not allowed", f'write "{API_VERSION}"'
            )
        known = {"Secret": Meaning.SECRET, "ConfigMap": Meaning.CONFIG_MAP, "List": Meaning.LIST}
        return known.get(kind or "", Meaning.OTHER) if api_version == "v1" else Meaning.OTHER

    @property
    def is_meant_as_job(self) -> bool:
        """Whether it is evidently meant as a ScheduledJob, even with a wrong apiVersion or kind."""
        kind, api_version = self._text("kind") or "", self._text("apiVersion") or ""
        near = nearest(kind, [KIND]) is not None or api_version.partition("/")[0] == GROUP
        return near and isinstance(self.find(()), Mapping) and self.find(("items",)) is None

    def ignored(self) -> str:
        """Return the message that this document is ignored."""
        words = [plain(shortened(word)) for word in (self._text("kind"), self._text("metadata", "name")) if word]
        return f"{plain(self.file)}:{self.line}: {' '.join(words)} is ignored"

    def _text(self, *path: str) -> str | None:
        """Return the text at this path; None if there is no text."""
        node = self.find(path)
        return node.text if isinstance(node, Scalar) else None
