"""Redaction: the one place that masks what leaves an attempt.

An executor collects the secret values of an attempt in its ``Redaction``, and every ``Result`` passes through ``seal``
before the engine gets it. So output, reasons and everything made of them (status, Events, log, history, the bodies of
hooks) are masked by the same object. Values that can't be known can't be masked: then the text that may contain them is
withheld, and the reason says why.
"""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from scheduledjob.engine.executor import OUTPUT_LIMIT, Attempt, Result

from .output import LONGEST_CHARACTER, without_broken_start, without_parts
from .reasons import of_exception, one_line
from .secret_forms import LONGEST_ENCODED, SHORTEST_ENCODED, encoded_forms, secret_parts
from .values import MASK, PIECE, Secrets, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

E = TypeVar("E")

_OWN_WORDS = re.compile(
    r"exit code \d+|timed out after [0-9dhms]+|killed by SIG[A-Z0-9]+( \(exit code \d+\))?|HTTP [1-5]\d\d(?!\d)"
)
"""Beginnings of reasons that contain no text of a job, of a server or of a Secret."""
_WORDS = re.compile(rb"[\w.-]{32,}")
_SIGNATURE = 16
"""Minimum bytes of the signature of a token."""


class _EncodedSecrets(Secrets):
    """Secrets that are masked as they are, as they look in URLs, JSON, base64 and others, and in their secret parts."""

    def _reach(self, value: bytes) -> int:
        # An ASCII character has up to six bytes as ``\u0041``, and a piece twice its length in UTF-16.
        return 2 * min(3 * len(value), PIECE)

    def _forms(self, value: bytes) -> Iterator[bytes]:
        for part in (value, *secret_parts(value)):
            yield from super()._forms(part)
            if SHORTEST_ENCODED <= len(part) <= LONGEST_ENCODED:
                stripped = part.strip()
                for text in (part,) if stripped == part else (part, stripped):
                    for form in encoded_forms(text):
                        yield from pieces(form)


class Redaction:
    """The secret values of an attempt, and how they are kept out of its result."""

    def __init__(self, *values: str | bytes, tokens: bool = False, namespace: str = "") -> None:
        """``tokens``: also mask all JSON Web Tokens, because the kubelet gives a Pod tokens that nobody else knows.
        ``namespace``: namespaces share the threads in which long outputs are masked."""
        self.secrets: Secrets = _EncodedSecrets(namespace=namespace)
        self.withheld = ""
        """Why text of the job is withheld; empty if all its secret values are known."""
        self.was_shortened = False
        """Whether an output may have been shortened before these secrets were known."""
        self._tokens = tokens
        for value in values:
            self.remember(value)

    @classmethod
    def of(cls, attempt: Attempt) -> Redaction:
        """Return the redaction of an attempt before its references are resolved."""
        values = (attempt.payload,) if attempt.payload_is_secret and attempt.payload else ()
        return cls(*values, namespace=attempt.namespace)

    def remember(self, value: str | bytes) -> None:
        """Mask this value from now on, also in its encoded forms."""
        self.secrets.remember(value)

    def withhold(self, why: str) -> None:
        """Withhold text of the job from now on. The first ``why`` is the one that is shown."""
        self.withheld = self.withheld or why

    def mask(self, data: bytes) -> bytes:
        """Return ``data`` with each secret replaced by ``***``."""
        data = self.secrets.mask(data)
        return _WORDS.sub(lambda found: _without_tokens(found[0]), data) if self._tokens else data

    def mask_text(self, text: str) -> str:
        """Return ``text`` with each secret replaced by ``***``."""
        return self.mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")

    def reason(self, words: str, detail: str = "") -> str:
        """Return a reason of one line: ``words``, and ``detail``, which is text of the job that may be withheld."""
        if detail and self.withheld:
            return one_line(f"{self._mask_foreign(words)} (message withheld: {self.withheld})".lstrip())
        return one_line(self._mask_foreign(": ".join(filter(None, (words, detail)))))

    def _mask_foreign(self, reason: str) -> str:
        """Mask a reason, but not the words at its beginning that only the operator writes: a Secret may be ``1``."""
        own = _OWN_WORDS.match(reason)
        end = 0 if own is None else own.end()
        return reason[:end] + self.mask_text(reason[end:])

    async def seal(self, result: Result, detail: str = "") -> Result:
        """Mask a result in place and return it. ``detail`` is text of the job that belongs to the reason.

        A search that takes long runs in a thread, so that the event loop goes on.
        """
        size = len(result.reason) + len(detail) + len(result.output) + len(result.result or b"")
        return await self.secrets.searched(lambda it: self._seal(it, detail), result, size) if size else result

    def _seal(self, result: Result, detail: str) -> Result:
        if result.result:
            result.result = self.mask(result.result)
        if result.reason or detail:
            result.reason = self.reason(result.reason, detail)
        if result.output and self.withheld:
            result.output = f"[output withheld: {self.withheld}]\n".encode()
        elif result.output:
            is_full = len(result.output) >= OUTPUT_LIMIT - LONGEST_CHARACTER
            result.output = self.mask(result.output)
            if self.was_shortened and self.secrets.longest:
                result.output = without_parts(result.output, self.secrets.longest, is_full=is_full)
            if len(result.output) > OUTPUT_LIMIT:
                result.output = without_broken_start(result.output[-OUTPUT_LIMIT:])
        return result


def redacted(
    run: Callable[[E, Attempt, Redaction], Coroutine[Any, Any, Result]],
) -> Callable[[E, Attempt], Coroutine[Any, Any, Result]]:
    """Make the ``run`` of an executor: what it returns or raises is sealed with the redaction that it receives."""

    @wraps(run)
    async def sealed(executor: E, attempt: Attempt) -> Result:
        redaction = Redaction.of(attempt)
        try:
            result = await run(executor, attempt, redaction)
        except Exception as error:  # whatever an executor raises is the failure of this attempt
            result = Result(False, of_exception(error, redaction.mask_text))
        return await redaction.seal(result)

    return sealed


def _without_tokens(word: bytes) -> bytes:
    """Mask each token in a word without white space: three parts between dots, the first two of them JSON in base64."""
    parts = word.split(b".")
    index = 0
    while index + 2 < len(parts):
        start = parts[index].find(b"eyJ")
        if start >= 0 and parts[index + 1].startswith(b"eyJ") and len(parts[index + 2]) >= _SIGNATURE:
            parts[index : index + 3] = [parts[index][:start] + MASK]
        index += 1
    return b".".join(parts)
