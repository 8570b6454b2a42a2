"""Shortens the output of a job to its head and its tail, and masks the values of Secrets.

The head shows what the job began with, and the tail how it ended. The rest is dropped while it is read, so a job may
print gigabytes. Secrets are masked here and not where the output is read: to recognise a secret that crosses a cut, the
reader keeps as many bytes beyond each cut as the longest secret has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scheduledjob.engine.executor import OUTPUT_LIMIT

if TYPE_CHECKING:
    from .values import Secrets

_HEAD = 1024
_MARK = re.compile(rb"\n\[\.\.\. \d+ bytes left out \.\.\.\]\n")
_MARKER = 64
"""Bytes for the line that replaces what was dropped."""
LONGEST_CHARACTER = 4
"""Bytes. An output that was cut may be shorter than the limit by almost as much."""
_TAIL = OUTPUT_LIMIT - _HEAD - _MARKER


def bytes_to_keep(secrets: Secrets) -> tuple[int, int]:
    """Return how many bytes of the head and of the tail ``condense`` needs."""
    return _HEAD + secrets.longest, OUTPUT_LIMIT - _HEAD + secrets.longest


async def condensed(head: bytes, tail: bytes, total: int, secrets: Secrets, *, cut: bool = False) -> bytes:
    """Return what ``condense`` returns. A search for secrets that takes long runs in a thread."""
    return await secrets.searched(
        lambda kept: condense(*kept, total, secrets, cut=cut), (head, tail), len(head) + len(tail)
    )


def condense(head: bytes, tail: bytes, total: int, secrets: Secrets, *, cut: bool = False) -> bytes:
    """Return at most ``OUTPUT_LIMIT`` bytes of an output of ``total`` bytes; its ``head`` and ``tail`` were kept.

    ``cut``: the output goes on after ``tail``. Its end may be the beginning of a secret, so it is left out.
    """
    if cut:
        end = max(0, len(tail) - secrets.longest)
        tail = tail[: _outside_secrets(secrets, tail, end, after=False)]
    if total == len(head) + len(tail):
        head = tail = secrets.mask(head + tail)
        if len(head) <= OUTPUT_LIMIT:
            return head
        total = len(head)
        first, last = head[:_HEAD], tail[-_TAIL:]
    else:
        first = secrets.mask(head[: _outside_secrets(secrets, head, _HEAD, after=False)])[:_HEAD]
        last = secrets.mask(tail[_outside_secrets(secrets, tail, max(0, len(tail) - _TAIL), after=True) :])[-_TAIL:]
    first, last = _without_broken_end(first), without_broken_start(last)
    return b"%s\n[... %d bytes left out ...]\n%s" % (first, max(0, total - len(first) - len(last)), last)


def _outside_secrets(secrets: Secrets, data: bytes, cut: int, *, after: bool) -> int:
    """Return the cut, or if it is within a secret, the end of the secret (``after``) or its start."""
    for start, end in secrets.spans(data):
        if start < cut < end:
            return end if after else start
    return cut


def without_parts(output: bytes, longest: int, *, is_full: bool) -> bytes:
    """Remove what may be a part of a secret at the cuts of an output that was shortened before its secrets were known.

    A part is at most as long as the longest secret, and within a line: a secret of several lines is masked by line.
    ``is_full``: the output was so long that its start may be a cut.
    """
    if mark := _MARK.search(output):
        first, last = output[: mark.start()], output[mark.end() :]
        return first[: _line_start(first, longest)] + mark[0] + last[_line_end(last, longest) :]
    return output[_line_end(output, longest) :] if is_full else output


def _line_start(text: bytes, longest: int) -> int:
    """Return where the last line begins, or ``longest`` bytes before the end if the line is longer."""
    return max(text.rfind(b"\n") + 1, len(text) - longest, 0)


def _line_end(text: bytes, longest: int) -> int:
    """Return where the first line ends, or ``longest`` if the line is longer."""
    end = text.find(b"\n", 0, longest)
    return min(longest, len(text)) if end < 0 else end + 1


def _without_broken_end(data: bytes) -> bytes:
    """Remove the first bytes of a UTF-8 character whose last bytes were cut off."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2
            return data[:-back] if length > back else data
        if byte < 0x80:
            break
    return data


def without_broken_start(data: bytes) -> bytes:
    """Remove the last bytes of a UTF-8 character whose first byte was cut off."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]
