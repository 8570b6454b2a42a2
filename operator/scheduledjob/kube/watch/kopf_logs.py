"""Sends kopf's log to ours, at a lower level.

kopf logs each failed attempt of a request as an error, and its own end with tracebacks. Its supervisor already logs
when the watch fails and when it works again. So only kopf's warnings and errors are kept, as short debug lines.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    import asyncio

MAX_LINE = 300
"""Characters of a line that are kept. Longer lines quote objects."""

log = structlog.get_logger("scheduledjob.kopf")


def redirect_kopf_log() -> None:
    """Send kopf's log to ours. Further calls do nothing."""
    logger = logging.getLogger("kopf")
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler(logging.WARNING))
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def log_abandoned_task(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The exception handler of kopf's event loop: kopf abandons tasks when it ends."""
    log.debug("kopf abandoned a task", message=context.get("message", ""), error=repr(context.get("exception")))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments don't match the format
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        cause = {} if error is None else {"error": f"{type(error).__name__}: {error}"[:MAX_LINE]}
        log.debug(message[:MAX_LINE], **cause)
