"""Resolves the values of a job, and masks those that are secret.

An environment variable, a header or a body is written in a manifest, or refers to a Secret or ConfigMap. References are
resolved when an attempt starts, so a rotated Secret takes effect with the next attempt. ``Secrets`` remembers the
values from Secrets while the attempt runs, and masks them in everything that is kept: output, reasons and errors. It
can't mask a value that a job encodes, encrypts or prints with one character in each line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduledjob.engine.executor import Attempt, References, Value

MASK = b"***"

_SHORTEST_LINE = 8
"""Bytes. In a secret with several lines, shorter lines (``{``, ``-----``) would mask half of any output."""


class Secrets:
    """The secret values of an attempt."""

    def __init__(self, *values: bytes) -> None:
        self._forms: set[bytes] = set()
        for value in values:
            self.remember(value)

    def remember(self, value: str | bytes) -> None:
        """Mask this value from now on: as it is, without white space around it, and each line of it."""
        whole = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        lines = [line for line in map(bytes.strip, whole.splitlines()) if len(line) >= _SHORTEST_LINE]
        self._forms.update(form for form in (whole, whole.strip(), *lines) if form.strip())

    @property
    def longest(self) -> int:
        """Bytes of the longest form. To recognise a secret at a cut, keep this much of the output beyond the cut."""
        return max(map(len, self._forms), default=0)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Return where secrets are in ``data``: half-open ranges, in order; those that touch are merged."""
        found: list[tuple[int, int]] = []
        for form in self._forms:
            # Overlapping occurrences are not searched: for a secret of a repeated character, that would take quadratic
            # time.
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
        """Return ``data`` with each secret replaced by ``***``."""
        pieces: list[bytes] = []
        end = 0
        for start, next_end in self.spans(data):
            pieces += (data[end:start], MASK)
            end = next_end
        return b"".join((*pieces, data[end:]))

    def mask_text(self, text: str) -> str:
        """Return a reason or an error message with each secret replaced by ``***``."""
        return self.mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


def secrets_of(attempt: Attempt) -> Secrets:
    """Return the secrets of an attempt before its references are resolved: its payload, if that is secret."""
    return Secrets(attempt.payload) if attempt.payload_is_secret and attempt.payload else Secrets()


async def resolve(value: Value, references: References | None, secrets: Secrets | None = None) -> str | None:
    """Return the text of a value; None for an optional reference to something that does not exist.

    A value from a Secret is added to ``secrets``. Raises ``LookupError`` if a reference can't be resolved, and
    ``ValueError`` if its value is not text; both name the kind, the name and the key.
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
