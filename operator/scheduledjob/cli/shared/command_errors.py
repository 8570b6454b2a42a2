"""Errors of commands: a failure is reported in one line, with passwords masked."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_WORTH_MASKING = 3
"""Shortest password that is masked, in characters: masking a shorter one would hide parts of ordinary words."""


class CommandError(Exception):
    """Ends the command: the message goes to standard error, and ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def lone(error: BaseException) -> BaseException:
    """Unwrap nested exception groups and return the first failure in them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def in_one_line(error: BaseException) -> str:
    """Return the message of an error as one line, or the name of its type if it has no message."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


class Mask:
    """Replaces the password of a store's URL with ``***`` in whatever is printed."""

    def __init__(self, url: str) -> None:
        self._passwords: list[str] = []
        for found in (_password(url), *re.findall(r"[?&]password=([^&#]*)", url)):
            for form in (found, unquote(found)):
                if len(form) >= _WORTH_MASKING and form not in self._passwords:
                    self._passwords.append(form)

    def __call__(self, text: str) -> str:
        for password in self._passwords:
            text = text.replace(password, "***")
        return text


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""
