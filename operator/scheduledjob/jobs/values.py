"""Values that a job is given, and how those that are secret stay out of what is kept.

An environment variable, a header or a body is written in a manifest or referred to in a Secret or ConfigMap; it is
resolved when the attempt starts, so that a rotated Secret counts from the next attempt on. ``Secrets`` remembers what
came out of a Secret for as long as the attempt lasts, and takes it out of the output, the reasons and the errors that
outlive it. What a job encodes, encrypts or prints one character a line is beyond any masking, and not looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduledjob.engine.executor import Attempt, References, Value

MASK = b"***"

_SHORTEST_LINE = 8
"""Bytes: a shorter line of a secret of many lines (``{``, ``-----``) would mask half of any output."""


class Secrets:
    """The secret values of one attempt."""

    def __init__(self, *values: bytes) -> None:
        self._forms: set[bytes] = set()
        for value in values:
            self.remember(value)

    def remember(self, value: str | bytes) -> None:
        """Mask this value from now on: as it is, without the white space around it, and each line of several."""
        whole = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        lines = [line for line in map(bytes.strip, whole.splitlines()) if len(line) >= _SHORTEST_LINE]
        self._forms.update(form for form in (whole, whole.strip(), *lines) if form.strip())

    @property
    def longest(self) -> int:
        """Bytes of the longest form: who cuts output must keep that much beyond the cut to recognise a secret on it."""
        return max(map(len, self._forms), default=0)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where secrets are in ``data``: disjoint half-open ranges, in order; those that touch are one."""
        found: list[tuple[int, int]] = []
        for form in self._forms:
            # Occurrences that overlap themselves are not looked for: with a secret of one repeated character that
            # would take quadratic time.
            start = data.find(form)
            while start >= 0:
                found.append((start, start + len(form)))
                start = data.find(form, start + len(form))
        merged: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def mask(self, data: bytes) -> bytes:
        """``data`` with each secret replaced by ``***``."""
        pieces: list[bytes] = []
        end = 0
        for start, next_end in self.spans(data):
            pieces += (data[end:start], MASK)
            end = next_end
        return b"".join((*pieces, data[end:]))

    def mask_text(self, text: str) -> str:
        """The same for a reason or an error message."""
        return self.mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


def secrets_of(attempt: Attempt) -> Secrets:
    """What is secret of an attempt before anything that its spec refers to is resolved."""
    return Secrets(attempt.payload) if attempt.payload_is_secret and attempt.payload else Secrets()


async def resolve(value: Value, references: References | None, secrets: Secrets | None = None) -> str | None:
    """The text of a value, or None for an optional reference that leads nowhere.

    What comes out of a Secret is remembered in ``secrets``. Raises ``LookupError`` for a reference that can't be
    followed and ``ValueError`` for one whose value is not text; both name kind, name and key.
    """
    kind, reference = ("Secret", value.secret) if value.secret is not None else ("ConfigMap", value.config_map)
    if reference is None:
        return value.value
    name, key = reference
    if references is None:
        if value.optional:
            return None
        raise LookupError(f"{kind} {name}, key {key}: there are no {kind}s here; give the value itself")
    try:
        found = await references.resolve(kind, name, key)
    except LookupError:
        if value.optional:
            return None
        raise
    if kind == "Secret" and secrets is not None:
        secrets.remember(found)
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{kind} {name}, key {key}: byte {error.start} is not UTF-8 text") from None
