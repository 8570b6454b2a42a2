"""The log of a command: one line for each event, to wherever the command sends its lines for people."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, say: Callable[[str], None], mask: Callable[[str], str]) -> None:
    """Send what the engine logs from ``level`` on to ``say``, a line each, through ``mask``.

    ``say`` is called from any thread and must not block.
    """

    def emit(_logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        moment, text = event.pop("timestamp"), event.pop("event")
        error = event.pop("exception", "")
        words = "".join(f" {key}={value!r}" if " " in str(value) else f" {key}={value}" for key, value in event.items())
        return mask(f"{moment} {method}: {text}{words}" + (f"\n{error}" if error else ""))

    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            emit,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(say),
        cache_logger_on_first_use=False,
    )


class _Lines:
    """What structlog calls with a finished line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def msg(self, line: str) -> None:
        self._say(line)

    debug = info = warning = warn = error = critical = fatal = exception = log = msg
