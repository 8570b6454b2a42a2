"""The log of a command: one line for each event, written where the command writes its lines.

The format ``console`` is for people. The format ``json`` is for programs: an object with ``time``, ``level``,
``logger``, ``event`` and the event's own keys.

The log of a program that runs the jobs of many authors has a budget, so that the lines of one namespace (those with a
``slug``) do not drown what others need to read.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

_ALWAYS_LOGGED = ("error", "exception", "critical")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LogBudget:
    """Limits what is logged for each namespace: some bytes in each window of ``WINDOW`` seconds.

    What does not fit is left out. The first line after the window says for each namespace how much that was.
    """

    WINDOW: ClassVar[float] = 60.0
    SHARES: ClassVar[int] = 16
    """All namespaces together may use this many times what one may use."""
    RESERVE: ClassVar[int] = 16
    """A namespace may use this part of its budget, even if others have used up what they share."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``size`` is what a namespace may use in a window, in bytes."""
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._ends_at = float("-inf")
        self._left = 0
        self._used: dict[str, int] = {}
        self._left_out: dict[str, tuple[int, int]] = {}
        """Lines and bytes, by namespace."""

    def admits(self, namespace: str, size: int) -> bool:
        """Return whether a line of this size still fits. If it does not, it is counted as left out."""
        with self._lock:
            used = self._used.get(namespace, 0) + size
            if (used <= self._size and size <= self._left) or used <= self._size // self.RESERVE:
                self._used[namespace] = used
                self._left -= size
                return True
            lines, total = self._left_out.get(namespace, (0, 0))
            self._left_out[namespace] = lines + 1, total + size
            return False

    def after_window(self) -> dict[str, tuple[int, int]]:
        """Begin a new window if the last one is over. Returns what was left out in it: lines and bytes."""
        now = self._clock()
        with self._lock:
            if now < self._ends_at:
                return {}
            self._ends_at = now + self.WINDOW
            self._left = self.SHARES * self._size
            self._used.clear()
            left_out, self._left_out = self._left_out, {}
            return left_out


def configure(
    level: str,
    say: Callable[[str], None],
    mask: Callable[[str], str],
    *,
    form: str = "console",
    budget: LogBudget | None = None,
) -> None:
    """Send the engine's log, from ``level`` up, to ``say`` line by line, after ``mask`` has removed secrets.

    ``say`` is called from any thread and must not block. ``form`` is ``console`` or ``json``. ``budget`` limits the
    lines of each namespace, except errors.
    """
    written = _as_json if form == "json" else _for_people

    def emit(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        if budget is not None:
            for namespace, (lines, size) in budget.after_window().items():
                structlog.get_logger("scheduledjob.log").warning(
                    "lines of a namespace were left out of this log", namespace=namespace, lines=lines, bytes=size
                )
            slug = event.get("slug")
            if isinstance(slug, str) and method not in _ALWAYS_LOGGED:
                size = sum(len(str(value).encode(errors="replace")) for value in event.values())
                if not budget.admits(slug.partition("/")[0], size):
                    raise structlog.DropEvent
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
