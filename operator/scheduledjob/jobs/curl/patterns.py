"""Patterns: compiles a regular expression that a user wrote, with a bound on the time and the memory that this takes.

RE2 searches in linear time, but to compile ten characters may take it a second, in which it keeps all threads of the
interpreter waiting. It reads each class of Unicode from a table and expands all counts in braces before it looks at the
limit for the size. So these are counted first.
"""

from __future__ import annotations

import re
from typing import Final

import re2

PATTERN_LIMIT: Final = 2000
"""Instructions of a compiled pattern. An ordinary one has some dozens, ``.{100}`` has 800."""
_MOST_CLASSES: Final = 50
"""Classes of Unicode in a pattern. One may have a thousand instructions."""
_COMPILING_MEMORY: Final = 48 << 10
"""Bytes: enough for ``PATTERN_LIMIT`` instructions, and RE2 gives up soon after them."""
_SEARCHING_MEMORY: Final = 1 << 20
"""Bytes. With less, RE2 is slow for a pattern of the largest size."""
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*(?:\]|\\?\Z)", re.DOTALL)
_UNICODE_CLASS = re.compile(r"(?<!\\)(?:\\\\)*\\[pP]")
_COUNT = re.compile(r"\{(?:\d{1,4},)?(\d{1,4})(?:,\s*)?\}")


class PatternError(ValueError):
    """The text is not a regular expression in RE2 syntax: the message says why."""


class PatternTooLarge(PatternError):
    """The pattern would take too much time or memory."""

    def __init__(self) -> None:
        super().__init__("it is too large: write fewer classes such as \\pL, and smaller counts in braces")


def check_pattern(pattern: str) -> None:
    """Raise ``PatternError`` if a pattern is not a regular expression, or too large."""
    counts = sum(int(found[1]) for found in _COUNT.finditer(_ESCAPE_OR_CLASS.sub("", pattern)))
    if counts > PATTERN_LIMIT or len(_UNICODE_CLASS.findall(pattern)) > _MOST_CLASSES:
        raise PatternTooLarge  # before RE2 reads each class from a table and repeats what has a count
    if _compiled(pattern, _COMPILING_MEMORY).programsize > PATTERN_LIMIT:
        raise PatternTooLarge


def compiled_for_search(pattern: str) -> re2._Regexp:
    """Return the compiled pattern. Raises ``PatternError``."""
    check_pattern(pattern)
    return _compiled(pattern, _SEARCHING_MEMORY)


def _compiled(pattern: str, memory: int) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise (PatternTooLarge() if text.startswith("pattern too large") else PatternError(text)) from None
