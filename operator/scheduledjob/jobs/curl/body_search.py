"""``expect.bodyRegex``: searching a response for a pattern that somebody else wrote.

RE2 takes linear time, but linear in the product of body and pattern: fifteen characters of pattern against a body of
a MiB can take seconds. So a pattern has a largest size, a search that may take long leaves the event loop, and it
goes to threads that nothing else needs: the worst that such a job does is to make other long searches wait.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import re2

from .request_errors import RequestError

PATTERN_LIMIT = 2000
"""Instructions of a compiled pattern; an ordinary one has some dozens, ``.{100}`` has 800."""

_AT_ONCE = 500_000
"""Instructions times bytes that are searched on the event loop: about two milliseconds at worst."""

_THREADS = 2


class BodySearch:
    """Finds patterns in bodies."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="bodyRegex")

    async def find(self, pattern: str, body: bytes) -> bool:
        """Whether the pattern is anywhere in the body; ``check`` has accepted it."""
        compiled = check(pattern)
        if compiled.programsize * len(body) <= _AT_ONCE:
            return compiled.search(body) is not None
        # RE2 releases the interpreter lock while it searches.
        found = await asyncio.get_running_loop().run_in_executor(self._threads, compiled.search, body)
        return found is not None

    def stop(self) -> None:
        """Let go of the threads; a search that nobody waits for ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@lru_cache(1024)
def check(pattern: str) -> re2._Regexp:
    """The compiled pattern; ``RequestError`` says what is wrong with it."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20  # bytes; the least that searches a pattern of the largest size quickly
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        what = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise RequestError(f'expect.bodyRegex "{pattern}": {what}; it is RE2 syntax') from None
    if compiled.programsize > PATTERN_LIMIT:
        raise RequestError(f'expect.bodyRegex "{pattern}": it is too large: write smaller counts in braces')
    return compiled
