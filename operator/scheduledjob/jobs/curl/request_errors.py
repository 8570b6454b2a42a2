"""Why a request got no response, in words that a user can act on.

A reason shows only a host and a port, because a whole URL may contain credentials. This module knows every error that a
request can raise, so that the executor needs one ``except``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scheduledjob.jobs.reasons import of_exception

from .addresses import AddressRefusedError
from .response import BadResponseError, StreamEndedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yarl import URL


class RequestError(Exception):
    """The request can't be made, or a redirect is not allowed. The message is the reason."""


class NameLookupError(Exception):
    """The name of the host can't be resolved."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class ConnectFailedError(Exception):
    """No connection was made, or its TLS handshake failed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class ConnectionLostError(Exception):
    """The connection ended before the response began."""


@contextmanager
def phase(words: str) -> Iterator[None]:
    """Add the phase of the request to a cancellation, unless it already says something more exact."""
    try:
        yield
    except asyncio.CancelledError as error:
        error.args = error.args or (words,)
        raise


def in_words(error: Exception, url: URL) -> str:
    """Return the reason of an attempt whose request to ``url`` ended with ``error``."""
    where = place(url)
    match error:
        case RequestError():
            return str(error)
        case AddressRefusedError():
            return str(error.strerror)
        case NameLookupError():
            return f'the name "{url.host}" can\'t be resolved: {_os_words(error.error)}'
        case ConnectFailedError():
            return _no_connection(error.error, where)
        case ConnectionLostError():
            hint = "; does it require a client certificate?" if url.scheme == "https" else ""
            return f"{where} closed the connection before it answered{hint}"
        case StreamEndedError():
            return f"the response of {where} ended early, or does not match its headers"
        case BadResponseError():
            return f"{where} sent something that is not an HTTP response: {error}"
        case _:
            return of_exception(error)


def place(url: URL) -> str:
    """Return ``host:port``; a reason shows no more of a URL."""
    host = f"[{url.host}]" if url.host and ":" in url.host else url.host
    return f"{host}:{url.port}"


def _no_connection(error: OSError, where: str) -> str:
    if isinstance(error, AddressRefusedError):
        return str(error.strerror)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the TLS certificate of {where} is not trusted: {_tls_words(error)}"
    if isinstance(error, ssl.SSLError):
        words = _tls_words(error)
        hint = "; does it speak plain http there?" if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else ""
        return f"the TLS handshake with {where} failed: {words}{hint}"
    if error.errno == errno.ECONNREFUSED:
        return f"connection refused by {where}"
    if isinstance(error, ConnectionResetError | ConnectionAbortedError) and error.errno in (None, errno.ECONNRESET):
        return f"{where} closed the connection before it was ready for a request"
    return f"can't connect to {where}: {_os_words(error)}"


def _os_words(error: OSError) -> str:
    if isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
        return "no such host"
    words = error.strerror or str(error) or type(error).__name__
    return words[0].lower() + words[1:]


def _tls_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return error.verify_message
    reason = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else str(error)
