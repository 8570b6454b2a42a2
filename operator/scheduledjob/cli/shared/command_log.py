"""The log of a command: one line for each event, written where the command writes its lines.

The format ``console`` is for people. The format ``json`` is for programs: an object with ``time``, ``level``,
``logger``, ``event`` and the event's own keys.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, say: Callable[[str], None], mask: Callable[[str], str], *, form: str = "console") -> None:
    """Send the engine's log, from ``level`` up, to ``say`` line by line, after ``mask`` has removed secrets.

    ``say`` is called from any thread and must not block. ``form`` is ``console`` or ``json``.
    """
    written = _as_json if form == "json" else _for_people

    def emit(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return written(getattr(logger, "name", ""), method, event, mask)

    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            emit,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *names: _Lines(say, *names),
        cache_logger_on_first_use=False,
    )


def take_standard(level: str) -> None:
    """Route records of the standard library's ``logging`` into the same log; call it after ``configure``.

    Libraries are logged from one level above ``level``, because at ``info`` they report their own work, not the jobs.
    """
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(min(_LEVELS[level] + 10, logging.ERROR))


def _for_people(_name: str, method: str, event: MutableMapping[str, Any], mask: Callable[[str], str]) -> str:
    moment, text = event.pop("timestamp"), event.pop("event")
    error = event.pop("exception", "")
    words = "".join(f" {key}={value!r}" if " " in str(value) else f" {key}={value}" for key, value in event.items())
    return mask(f"{moment} {method}: {text}{words}" + (f"\n{error}" if error else ""))


def _as_json(name: str, method: str, event: MutableMapping[str, Any], mask: Callable[[str], str]) -> str:
    fields: dict[str, Any] = {"time": event.pop("timestamp"), "level": method}
    logger = event.pop("logger", name)
    if logger:
        fields["logger"] = logger
    fields["event"] = event.pop("event")
    return json.dumps(_masked({**fields, **event, **fields}, mask), ensure_ascii=False, separators=(",", ":"))


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Convert a value to one that JSON can hold, and mask it first: JSON would escape a quote inside a password."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _masked(item, mask) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(item, mask) for item in value]
    return mask(str(value))


class _Lines:
    """The logger that structlog calls with each finished line."""

    def __init__(self, say: Callable[[str], None], name: str = "") -> None:
        self._say = say
        self.name = name

    def msg(self, line: str) -> None:
        self._say(line)

    debug = info = warning = warn = error = critical = fatal = exception = log = msg


class _Bridge(logging.Handler):
    """Passes records of the standard library on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for name, lowest in reversed(_LEVELS.items()) if record.levelno >= lowest), "debug")
        error = {"exc_info": record.exc_info} if record.exc_info else {}
        log_at_level = getattr(structlog.get_logger(record.name), level)
        log_at_level(record.getMessage(), logger=record.name, **error)
