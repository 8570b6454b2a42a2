"""What kopf logs, in our log: only what its supervisor does not know already, short, and nothing of the objects.

kopf reports each try of each request as an error, and its own end with tracebacks. The supervisor says once that the
watch is broken and once that it is mended, so of kopf's lines only warnings and worse are taken, as debug lines.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    import asyncio

LONGEST = 300
"""Characters of a line that are kept: a line that quotes an object would have more."""

log = structlog.get_logger("scheduledjob.kopf")


def quieten() -> None:
    """Send kopf's log to ours; once for the process."""
    logger = logging.getLogger("kopf")
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler(logging.WARNING))
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def left_behind(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio has to say of the tasks that an ending kopf leaves behind."""
    log.debug("kopf left something behind", what=context.get("message", ""), error=repr(context.get("exception")))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            words = record.getMessage()
        except (TypeError, ValueError):  # a line of kopf whose arguments don't fit
            words = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        cause = {} if error is None else {"error": f"{type(error).__name__}: {error}"[:LONGEST]}
        log.debug(words[:LONGEST], **cause)
