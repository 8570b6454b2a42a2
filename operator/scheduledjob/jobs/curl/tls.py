"""TLS contexts of HTTP jobs, made from what a job says about certificates.

A context takes milliseconds to build (the system has a hundred authorities), and the connection pool shares connections
between requests with the same context. So the context of each distinct setting is built once and kept.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from .request_errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT = 64
"""Maximum number of contexts (each has 800 KB of the system's authorities); the least recently used is dropped."""

_threads = ThreadPoolExecutor(2, thread_name_prefix="tls")


class TlsSetting(NamedTuple):
    """What distinguishes contexts. The strings are PEM."""

    verify: bool = True
    ca: str | None = None
    """None: the system's authorities."""
    certificate: str | None = None
    key: str | None = None
    """None: ``certificate`` contains the key."""


DEFAULT = TlsSetting()


async def context_of(setting: TlsSetting) -> ssl.SSLContext:
    """Return the client context of a setting. Raises ``RequestError``, which names the wrong part without its value."""
    if (context := _contexts.pop(setting, None)) is None:
        # Reading the system's authorities takes tens of milliseconds, so it does not run in the event loop.
        context = await asyncio.get_running_loop().run_in_executor(_threads, _make_context, setting)
        context = _contexts.pop(setting, context)
    _contexts[setting] = context
    while len(_contexts) > _KEPT:
        del _contexts[next(iter(_contexts))]
    return context


_contexts: dict[TlsSetting, ssl.SSLContext] = {}
"""By setting, the least recently used first."""


def _make_context(setting: TlsSetting) -> ssl.SSLContext:
    if setting.ca is not None and not setting.ca.strip():
        # ssl would treat empty text as None, and trust every authority of the system.
        raise RequestError("tls.ca: no certificates in PEM format (it is empty)")
    try:
        # Without verification the system's authorities are not needed.
        context = (
            ssl.create_default_context(cadata=setting.ca)
            if setting.verify or setting.ca is not None
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
    except (ssl.SSLError, ValueError) as error:
        raise RequestError(f"tls.ca: no certificates in PEM format ({_words(error)})") from None
    context.set_alpn_protocols(["http/1.1"])
    if not setting.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if setting.certificate is not None:
        try:
            with _as_file(f"{setting.certificate}\n{setting.key or ''}") as path:
                context.load_cert_chain(path, password=_no_password)
        except (ssl.SSLError, ValueError, RequestError) as error:
            raise RequestError(f"tls: the client certificate can't be used: {_words(error)}") from None
    elif setting.key is not None:
        raise RequestError("tls: a client key without its certificate: give both, or neither")
    return context


def _no_password() -> str:
    # Without this function, OpenSSL would ask for a password on the terminal and block the replica.
    raise RequestError("the client key is encrypted: give it without a passphrase")


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason is None:
        return "no PEM in it" if isinstance(error, ssl.SSLError) else str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return "the client key belongs to another certificate"
    return str(reason).lower().replace("_", " ")


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Yield the path of a file with ``text``: ``ssl`` reads client certificates only from files."""
    if hasattr(os, "memfd_create"):  # Linux: a private key never touches a disk
        descriptor = os.memfd_create("client-certificate")
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:  # readable by its owner only
            file.write(text)
            file.flush()
            yield file.name
