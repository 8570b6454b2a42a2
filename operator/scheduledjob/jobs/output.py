"""What is kept of a job's output: its head and its tail, with the Secret values masked.

The head says what the job set out to do and the tail how it ended; what is between them is dropped as it is printed,
so that a job may print gigabytes. Secrets are masked here and not where the output is read: to recognise one that
lies across a cut, as much output as the longest secret has bytes is kept beyond each cut until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.executor import OUTPUT_LIMIT

if TYPE_CHECKING:
    from .values import Secrets

_HEAD = 1024
_MARKER = 64
"""Room for the line that stands for what was dropped."""
_TAIL = OUTPUT_LIMIT - _HEAD - _MARKER


def to_keep(secrets: Secrets) -> tuple[int, int]:
    """Bytes of the head and of the tail that ``condense`` wants."""
    return _HEAD + secrets.longest, OUTPUT_LIMIT - _HEAD + secrets.longest


def condense(head: bytes, tail: bytes, total: int, secrets: Secrets) -> bytes:
    """At most ``OUTPUT_LIMIT`` bytes of an output of ``total`` bytes, of which ``head`` and ``tail`` were kept."""
    if total == len(head) + len(tail):
        head = tail = secrets.mask(head + tail)
        if len(head) <= OUTPUT_LIMIT:
            return head
        total = len(head)
        first, last = head[:_HEAD], tail[-_TAIL:]
    else:
        first = secrets.mask(head[: _beside(secrets, head, _HEAD, after=False)])[:_HEAD]
        last = secrets.mask(tail[_beside(secrets, tail, max(0, len(tail) - _TAIL), after=True) :])[-_TAIL:]
    first, last = _without_broken_end(first), _without_broken_start(last)
    return b"%s\n[... %d bytes left out ...]\n%s" % (first, max(0, total - len(first) - len(last)), last)


def _beside(secrets: Secrets, data: bytes, cut: int, *, after: bool) -> int:
    """The cut, or if it would go through a secret, that secret's nearest end in the direction of what is dropped."""
    for start, end in secrets.spans(data):
        if start < cut < end:
            return end if after else start
    return cut


def _without_broken_end(data: bytes) -> bytes:
    """Without the first bytes of a UTF-8 character whose others were cut off."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2
            return data[:-back] if length > back else data
        if byte < 0x80:
            break
    return data


def _without_broken_start(data: bytes) -> bytes:
    """Without the last bytes of a UTF-8 character whose first was cut off."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]
