"""What the API server refuses, and that it does not answer: one small tree, so that a caller names what it expects.

The message of a refusal is the API server's own, because it is written for the person who has to act on it.
"""

from __future__ import annotations

from typing import Any

import msgspec

MOST_TEXT = 300
"""Characters kept of an answer that is no Status: a proxy's page, say."""


class ApiError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, status: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 without an answer."""
        self.reason = reason
        """The API server's own word: ``NotFound``, ``AlreadyExists`` ..."""
        self.message = message
        self.details = details or {}
        """Of the Status: ``name``, ``kind``, ``causes``, ``retryAfterSeconds``."""
        self.retry_after = 0.0
        """Seconds for which the server asked to be left alone (Retry-After); 0: it did not."""


class BadRequest(ApiError):
    """400: what was sent makes no sense to it."""


class Unauthorized(ApiError):
    """401, also after the credentials were read again."""


class Forbidden(ApiError):
    """403: RBAC, a quota, a policy or admission is against it."""


class NotFound(ApiError):
    """404: the object, its namespace or its kind is not there."""


class ApiConflict(ApiError):
    """409: it changed meanwhile."""


class AlreadyExists(ApiConflict):
    """409: an object of that name is there."""


class Gone(ApiError):
    """410: that resourceVersion or continue token is forgotten."""


class ListExpired(Gone):
    """A list grew too old between two of its pages: what was seen of it is no complete list."""


class Invalid(ApiError):
    """422: a field is wrong; ``details["causes"]`` says which."""


class ApiUnavailable(ApiError):
    """No answer, or one that says to try later (429, 5xx), in any of the attempts; it may have been done."""


_OF_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: ApiConflict,
    410: Gone,
    422: Invalid,
}


def later(status: int) -> bool:
    """Whether this answer says to try again later."""
    return status == 429 or status >= 500


def refusal(status: int, body: bytes) -> ApiError:
    """The error that an answer of this HTTP status (or an ERROR of a watch with this code) means."""
    try:
        answer = msgspec.json.decode(body)
    except ValueError:  # msgspec's errors are ValueErrors
        answer = None
    if not isinstance(answer, dict) or answer.get("kind") != "Status":
        text = body[: 4 * MOST_TEXT].decode(errors="replace").strip()[:MOST_TEXT]
        answer = {"message": f"HTTP {status}: {text}" if text else f"HTTP {status}"}
    return from_status(status, answer)


def from_status(status: int, answer: dict[str, Any]) -> ApiError:
    """The same from a decoded ``Status``."""
    reason = answer.get("reason") or ""
    kind = AlreadyExists if reason == "AlreadyExists" else _OF_STATUS.get(status, ApiError)
    if later(status):
        kind = ApiUnavailable
    return kind(status, reason, answer.get("message") or f"HTTP {status} {reason}".rstrip(), answer.get("details"))
