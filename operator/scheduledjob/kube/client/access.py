"""The address of the API server, and the credentials for it.

The kubernetes package reads kubeconfigs, with their plugins, and the service account of a Pod; nothing else of it is
used. An ``Access`` holds the address, a TLS context and the current ``Authorization`` header, and all clients of the
process share it, in any thread. Tokens rotate and certificates expire, so the header is refreshed once a minute, and
everything is read again when the API server refuses it.

All of this may block (files, the process of a plugin), so clients call it in a thread of its own.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.client import Configuration
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config

REFRESH_SECONDS = 60.0
"""Seconds until the header is refreshed. The kubelet replaces a Pod's token long before it expires."""
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class ConfigError(Exception):
    """The configuration does not lead to the API server. The message says what to change."""


class Access:
    """The address and the credentials. Thread-safe once ``load`` has returned."""

    server: str
    """The URL, without a slash at the end."""
    tls: ssl.SSLContext | None
    """None only for plain HTTP on loopback (``kubectl proxy``)."""
    server_name: str | None
    """The name in the server's certificate, if it is not the address."""
    proxy: str | None
    namespace: str
    """The namespace of the Pod or of the context."""
    authorization: str | None = None
    """The header to send; None if a client certificate identifies us."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        """``kubeconfig``: a path; None: ``KUBECONFIG``, else the Pod's service account, else ``~/.kube/config``."""
        self._kubeconfig = kubeconfig or os.environ.get("KUBECONFIG") or None
        self._context = context
        self._lock = threading.Lock()
        self._checked = 0.0
        self._configuration: Any = None

    def load(self) -> None:
        """Read everything. Raises ConfigError."""
        with self._lock:
            self._read()

    def due(self) -> bool:
        """Return whether the caller should ``refresh`` now. True for one caller a minute."""
        now = time.monotonic()
        if now - self._checked < REFRESH_SECONDS:
            return False
        self._checked = now
        return True

    def refresh(self) -> None:
        """Read the token again, from the Pod's file or from a plugin."""
        with self._lock:
            self._read_header()

    def renew(self, refused: str | None) -> None:
        """Read everything again after the API server refused this header (401), unless another caller has done so."""
        with self._lock:
            if self.authorization == refused:
                self._read()

    def _read(self) -> None:
        found = Configuration()
        source = self._read_source(found)
        server = found.host.rstrip("/")
        address = urlsplit(server)
        if not found.verify_ssl:
            raise ConfigError(
                f"{source} has insecure-skip-tls-verify, so whoever answers for {server} would get our credentials: "
                "give certificate-authority or certificate-authority-data instead"
            )
        if address.scheme != "https" and address.hostname not in LOOPBACK:
            raise ConfigError(f"{source} names the server {server!r}: give an https:// address")
        self._configuration = found
        self._read_header()
        if address.scheme == "https" and not self.authorization and not found.cert_file:
            raise ConfigError(
                f"{source} holds neither token nor client certificate: give the user one "
                "(if it names a plugin, the plugin returned none; the log says why)"
            )
        self.server, self.server_name = server, found.tls_server_name
        self.proxy = None if _bypassed(found.proxy, address.hostname or "") else found.proxy
        self.tls = _tls(found, source) if address.scheme == "https" else None

    def _read_source(self, found: Any) -> str:
        in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and (IN_POD / "token").exists()
        if in_pod and self._kubeconfig is None and self._context is None:
            source = "the Pod's service account"
            try:
                load_incluster_config(found)  # type: ignore[no-untyped-call]  # the package has no types
                self.namespace = (IN_POD / "namespace").read_text().strip()
            except (ConfigException, OSError) as error:
                raise ConfigError(f"{source} does not lead to the API server: {error}") from error
            return source
        source = f"the kubeconfig {self._kubeconfig or '~/.kube/config'}"
        try:
            load_kube_config(self._kubeconfig, self._context, found, persist_config=False)  # type: ignore[no-untyped-call]  # the package has no types
            contexts, active = list_kube_config_contexts(self._kubeconfig)  # type: ignore[no-untyped-call]  # the package has no types
        except Exception as error:  # the errors of YAML, files and keys have no common base
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{source} can't be used: {reason}; give another with --kubeconfig or KUBECONFIG, "
                "or run in a Pod that has a service account token"
            ) from error
        chosen = next((candidate for candidate in contexts if candidate["name"] == self._context), active)
        self.namespace = chosen["context"].get("namespace") or "default"
        return source

    def _read_header(self) -> None:
        try:
            header = self._configuration.get_api_key_with_prefix("BearerToken")
        except (ConfigException, OSError) as error:
            raise ConfigError(f"the token for the API server can't be read again: {error}") from error
        self.authorization = header.strip() if header else None
        self._checked = time.monotonic()


def _tls(found: Any, source: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        raise ConfigError(f"{source} has certificates or a key that can't be read: {error}") from error
    # Python 3.13 requires extensions of an authority's certificate that kubeadm and others omit.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _bypassed(proxy: str | None, host: str) -> bool:
    """Whether the proxy comes from the environment, and NO_PROXY excludes this host."""
    return proxy in getproxies().values() and bool(proxy_bypass(host))
