"""What a command says when it can't do what was asked: one line, without what must not be seen."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_WORTH_MASKING = 3
"""Characters: a shorter password would mask parts of ordinary words."""


class CommandError(Exception):
    """The command ends with this line on standard error and with ``code``."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def lone(error: BaseException) -> BaseException:
    """The failure inside of nested groups: the only one, or the first of several."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


class Mask:
    """Takes the password of a store's URL out of whatever is printed."""

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
