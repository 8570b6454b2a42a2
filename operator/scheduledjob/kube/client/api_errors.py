"""The errors of the API server, and of an API server that does not answer.

Messages are the API server's own, because they are written for the person who has to act on them.
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_TEXT = 300
"""Characters that are kept of an answer that is not a Status, such as the page of a proxy."""


class ApiError(Exception):
    """A request failed."""

    def __init__(self, status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 if there was no answer."""
        self.reason = reason
        """The reason of the Status: ``NotFound``, ``AlreadyExists`` ..."""
        self.message = message
        self.details = details or {}
        """The details of the Status: ``name``, ``kind``, ``causes``, ``retryAfterSeconds``."""
        self.retry_after = 0.0
        """Seconds of the Retry-After header; 0 if there was none."""


class BadRequest(ApiError):
    """400: the API server does not understand the request."""


class Unauthorized(ApiError):
    """401, even after the credentials were read again."""


class Forbidden(ApiError):
    """403: RBAC, a quota, a policy or an admission controller forbids it."""


class NotFound(ApiError):
    """404: the object, its namespace or its kind does not exist."""


class ApiConflict(ApiError):
    """409: the object has changed in the meantime."""


class AlreadyExists(ApiConflict):
    """409: an object of that name exists."""


class Gone(ApiError):
    """410: the resourceVersion or the continue token has expired."""


class ListExpired(Gone):
    """A list expired between two of its pages, so it is incomplete."""


class Invalid(ApiError):
    """422: a field is invalid; ``details["causes"]`` says which."""


class ApiUnavailable(ApiError):
    """No attempt got an answer other than to try later (429, 5xx). The request may have been carried out."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: ApiConflict,
    410: Gone,
    422: Invalid,
}


def is_retryable(status: int) -> bool:
    """Return whether an answer with this HTTP status says to try again later."""
    return status == 429 or status >= 500


_TOO_LARGE = ("request is too large", "message larger than max")
"""What etcd says of an object over 1.5 MiB, and its client of one over 2 MiB. The API server returns it as a 500."""


def is_too_large(error: ApiError) -> bool:
    """Return whether an object is too large for the API server, so that another attempt does not help."""
    return error.status == 413 or any(words in error.message for words in _TOO_LARGE)


def error_of_answer(status: int, body: bytes) -> ApiError:
    """Return the error for an answer with this HTTP status."""
    try:
        answer = msgspec.json.decode(body)
    except ValueError:  # msgspec's errors are ValueErrors
        answer = None
    if not isinstance(answer, dict) or answer.get("kind") != "Status":
        text = body[: 4 * MAX_TEXT].decode(errors="replace").strip()[:MAX_TEXT]
        answer = {"message": f"HTTP {status}: {text}" if text else f"HTTP {status}"}
    return error_of_status(status, answer)


def error_of_status(status: int, answer: dict[str, Any]) -> ApiError:
    """Return the error for a decoded ``Status``: of an answer, or of an ERROR event of a watch."""
    reason = answer.get("reason") or ""
    kind = AlreadyExists if reason == "AlreadyExists" else _BY_STATUS.get(status, ApiError)
    if is_retryable(status):
        kind = ApiUnavailable
    return kind(status, reason, answer.get("message") or f"HTTP {status} {reason}".rstrip(), answer.get("details"))
