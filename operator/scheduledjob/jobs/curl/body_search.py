"""``expect.bodyRegex``: searches a response for a pattern that a user wrote.

The time of RE2 is linear in the product of body and pattern: fifteen characters of pattern and a body of a MiB can take
seconds. So the size of a pattern is limited, and a search that may take long runs in a thread that nothing else uses.
Namespaces share these threads fairly: long searches of one leave a thread to others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from scheduledjob.jobs.fair_share import FairThreads

from .body import in_utf8
from .patterns import PatternError, PatternTooLarge, compiled_for_search
from .request_errors import RequestError

if TYPE_CHECKING:
    import re2

_AT_ONCE = 500_000
"""Instructions times bytes that are searched in the event loop: two milliseconds at worst."""

_THREADS = 3


class BodySearch:
    """Searches bodies for patterns."""

    def __init__(self) -> None:
        self._threads = FairThreads(_THREADS, "bodyRegex")

    async def find(self, pattern: str, body: bytes, charset: str | None = None, *, namespace: str = "") -> bool:
        """Whether the pattern, which ``compiled_pattern`` has accepted, matches somewhere in the body.

        Raises ``LookupError`` for a charset that is unknown here.
        """
        compiled = compiled_pattern(pattern)
        if compiled.programsize * len(body) <= _AT_ONCE:
            return _matches(compiled, body, charset)
        # RE2 releases the interpreter lock while it searches.
        return await self._threads.run(namespace, lambda: _matches(compiled, body, charset))

    def stop(self) -> None:
        """Release the threads, without waiting for their searches."""
        self._threads.stop()


def _matches(compiled: re2._Regexp, body: bytes, charset: str | None) -> bool:
    try:
        text = in_utf8(body, charset)
    except LookupError:
        if compiled.search(body) is not None:
            return True
        raise
    # What looks like the mark of UTF-16 may be any two bytes.
    return compiled.search(text) is not None or (text is not body and compiled.search(body) is not None)


@lru_cache(1024)
def compiled_pattern(pattern: str) -> re2._Regexp:
    """Return the compiled pattern. Raises ``RequestError``, which says what is wrong with it."""
    try:
        return compiled_for_search(pattern)
    except PatternTooLarge as error:
        raise RequestError(f'expect.bodyRegex "{pattern}": {error}') from None
    except PatternError as error:
        raise RequestError(f'expect.bodyRegex "{pattern}": {error}; it is RE2 syntax') from None
