"""Servers for the tests of HTTP jobs: an aiohttp server, a TCP server that misbehaves, and certificates."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.curl.resolver import ThreadResolver

if TYPE_CHECKING:
    from scheduledjob.jobs.curl.addresses import AddressFilter
    from scheduledjob.jobs.curl.curl_spec import CurlSpec

SLOT = 1_796_119_200_000_000
"""2026-12-01T10:00:00Z"""


def attempt(spec: CurlSpec, **changes: Any) -> Attempt:
    """An attempt of a job called ``team-a/report``."""
    values: dict[str, Any] = {
        "run_id": "run-7", "uid": "uid-1", "namespace": "team-a", "name": "report", "slot": SLOT,
        "attempt": 2, "version": 41, "deadline": 0.0, "params": spec,
    }  # fmt: skip
    return Attempt(**(values | changes))


class Known:
    """References that know some Secrets and one ConfigMap."""

    def __init__(self, **secrets: bytes) -> None:
        self._secrets = secrets

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        if kind == "Secret" and name == "s" and key in self._secrets:
            return self._secrets[key]
        raise LookupError(f"{kind} {name}, key {key}: not found")


@asynccontextmanager
async def executor(addresses: AddressFilter | None = None, **names: list[str]) -> AsyncIterator[CurlExecutor]:
    """A started executor. ``names``: host names (``_`` for ``.``) and their addresses, one for each lookup."""
    made = CurlExecutor(addresses, NamesResolver(names) if names else None)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class NamesResolver(ThreadResolver):
    """A resolver that knows some names. Each lookup of a name returns its next address, and finally always the last."""

    def __init__(self, names: dict[str, list[str]]) -> None:
        super().__init__()
        self._names = {name.replace("_", "."): list(addresses) for name, addresses in names.items()}
        self.lookups: list[str] = []

    async def resolve(self, host: str, port: int = 0, *, namespace: str = "") -> list[Any]:
        self.lookups.append(host)
        addresses = self._names.get(host, [host])
        return await super().resolve(addresses.pop(0) if len(addresses) > 1 else addresses[0], port)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """An HTTP server that remembers its requests."""

    port: int
    scheme: str
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    """Method, path with query, headers in lower case, body."""
    peer_certificates: list[object] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the newest request."""
        return self.requests[-1][2]


@asynccontextmanager
async def serving(handler: Handler | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server on a free port of the loopback; without a handler it answers ``ok``."""

    async def remember(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert request.transport is not None
        server.peer_certificates.append(request.transport.get_extra_info("peercert"))
        server.requests.append((request.method, request.path_qs, headers, await request.read()))
        return web.Response(text="ok") if handler is None else await handler(request)

    application = web.Application(client_max_size=16 << 20)
    application.router.add_route("*", "/{path:.*}", remember)
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls, backlog=1024)
    await site.start()
    server = Server(runner.addresses[0][1], "https" if tls else "http")
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass
class Bare:
    """A TCP server whose connections a test handles."""

    port: int
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closed its connection."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request's head was read."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@asynccontextmanager
async def bare(answer: bytes, *, keep_open: bool = False) -> AsyncIterator[Bare]:
    """Answers each request with these bytes, then closes the connection or waits until the client does."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            server.reached.set()
            writer.write(answer)
            await writer.drain()
            if keep_open:
                await reader.read()
                server.closed.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            server.closed.set()
        finally:
            writer.close()

    listener = await asyncio.start_server(converse, "127.0.0.1", 0)
    server = Bare(listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


async def run(spec: CurlSpec, addresses: AddressFilter | None = None, **changes: Any) -> Result:
    """Run an attempt with its own executor."""
    async with executor(addresses) as made:
        return await made.run(attempt(spec, **changes))


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key in PEM."""

    pem: str
    key: str


class Authority:
    """A certificate authority for a test."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        built = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        built = built.add_extension(usage, critical=True)
        built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.pem = built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, *hosts: str, days: int = 1, password: bytes | None = None) -> Certificate:
        """A certificate for these names or addresses, valid for ``days`` (below 0: expired)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(subject, key, days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        return Certificate(
            certificate.public_bytes(serialization.Encoding.PEM).decode(),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode(),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 1) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


def server_context(certificate: Certificate, directory: Any, clients: str | None = None) -> ssl.SSLContext:
    """The context of a server. ``clients``: PEM of the authority of the client certificates that it requires."""
    path = directory / "server.pem"
    path.write_text(certificate.pem + certificate.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=clients)
    context.load_cert_chain(path)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
