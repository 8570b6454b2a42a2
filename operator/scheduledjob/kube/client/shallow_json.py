"""Decodes JSON whose depth nobody has bounded.

The API server accepts objects of thousands of levels where the CRD allows any fields, and the decoders of Python raise
a ``RecursionError`` from some hundreds on. So one object would hide all others in its list or watch. What is deeper
than ``DEEPEST`` is left out here: enough remains to see that the object is nested too deeply (``desired_state``).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

DEEPEST = 128
"""Levels of a document that are kept: more than an object may have, with the list around it, and few enough for kopf,
which copies objects by recursion."""

_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([\[{])|([\]}])')


def decode(data: bytes) -> Any:
    """Return decoded JSON of any depth. Raises ``ValueError`` if it is none."""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        return msgspec.json.decode(shallow(data))


def shallow(data: bytes) -> bytes:
    """Return JSON with ``null`` in place of each object and array that is deeper than ``DEEPEST`` levels."""
    if data.count(b"{") + data.count(b"[") <= DEEPEST:
        return data
    kept: list[bytes] = []
    depth = end = 0
    for found in _BRACKET.finditer(data):
        if found[1]:
            depth += 1
            if depth == DEEPEST + 1:
                kept += (data[end : found.start()], b"null")
        elif found[2]:
            if depth == DEEPEST + 1:
                end = found.end()
            depth -= 1
    if not kept:
        return data
    kept.append(data[end:])
    return b"".join(kept)
