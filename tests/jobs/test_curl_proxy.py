"""HTTP jobs through a proxy: what it receives, its credentials, and who may use it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.addresses import AddressFilter
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from tests.jobs.curl_support import Authority, Known, attempt, bare, executor, run, server_context, serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass
class Proxy:
    """A proxy that connects to anything, whatever its name is: it is always this machine."""

    port: int
    scheme: str
    heads: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@asynccontextmanager
async def proxying(tls: ssl.SSLContext | None = None, answer: bytes | None = None) -> AsyncIterator[Proxy]:
    """``answer``: what it answers in place of connecting."""
    relays: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        proxy.heads.append(head)
        if answer is not None:
            writer.write(answer)
            writer.close()
            return
        method, target, _ = head.split(b" ", 2)
        authority = target if method == b"CONNECT" else target.split(b"/")[2]
        there, back = await asyncio.open_connection("127.0.0.1", int(authority.rpartition(b":")[2]))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            back.write(head)
        relays.update(asyncio.ensure_future(relay) for relay in (copy(reader, back), copy(there, writer)))

    async with await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls) as listener:
        proxy = Proxy(listener.sockets[0].getsockname()[1], "https" if tls else "http")
        try:
            yield proxy
        finally:
            await asyncio.gather(*relays)  # they end with the client's connection


async def test_an_http_request_is_sent_to_the_proxy_with_its_whole_url() -> None:
    async with serving() as server, proxying() as proxy:
        url = f"http://name.example:{server.port}/%7e?a=b"
        result = await run(CurlSpec(url, proxy=proxy.url))
        assert (result.ok, result.output) == (True, b"ok"), result.reason
    lines = proxy.heads[0].split(b"\r\n")
    assert lines[0] == f"GET {url} HTTP/1.1".encode()
    assert f"Host: name.example:{server.port}".encode() in lines
    assert b"Proxy-Authorization" not in proxy.heads[0]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_an_https_request_goes_through_the_proxy(secure: bool, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "proxy").mkdir()
    tls = server_context(authority.issue("name.example"), tmp_path)
    own = server_context(authority.issue("127.0.0.1"), tmp_path / "proxy") if secure else None
    async with serving(tls=tls) as server, proxying(own) as proxy, executor() as made:
        url = f"https://name.example:{server.port}/a"
        spec = CurlSpec(url, ca=Value(authority.pem), proxy=proxy.url, bearer=Value("t0ken"))
        for _ in range(2):
            result = await made.run(attempt(spec))
            assert (result.ok, result.output) == (True, b"ok"), result.reason
        assert server.headers["authorization"] == "Bearer t0ken"
        assert len(proxy.heads) == 1  # the second request used the same connection
        spec.ca = Value(Authority("another").pem)
        assert "is not trusted" in (await made.run(attempt(spec))).reason
    assert proxy.heads[0].startswith(f"CONNECT name.example:{server.port} HTTP/1.1\r\n".encode())
    assert b"t0ken" not in b"".join(proxy.heads)


async def test_the_proxy_gets_its_credentials_and_the_server_does_not(tmp_path: Path) -> None:
    authority = Authority()
    tls = server_context(authority.issue("127.0.0.1"), tmp_path)
    user, password = Value(secret=("s", "user")), Value(secret=("s", "password"))
    known = Known(user=b"me", password=b"s3cr3t-word\n")
    sent = b"Proxy-Authorization: Basic " + base64.b64encode(b"me:s3cr3t-word")
    async with serving(tls=tls) as server, proxying() as proxy:
        spec = CurlSpec(
            server.url(), ca=Value(authority.pem), proxy=proxy.url, proxy_username=user, proxy_password=password
        )
        assert (await run(spec, references=known)).ok
        assert "proxy-authorization" not in server.headers
    assert sent in proxy.heads[0]
    async with bare(b"HTTP/1.1 200 OK\r\n\r\n" + sent) as echo:
        spec = CurlSpec("http://name.example/", proxy=echo.url, proxy_username=user, proxy_password=password)
        result = await run(spec, references=known)
    assert result.output == b"Proxy-Authorization: Basic ***"


async def test_a_redirect_goes_through_the_proxy_as_well() -> None:
    async with proxying(answer=b"HTTP/1.1 302 X\r\nLocation: http://other.example/b\r\n\r\n") as proxy:
        await run(CurlSpec("http://name.example/a", proxy=proxy.url))
    assert {head.split()[1] for head in proxy.heads} == {b"http://name.example/a", b"http://other.example/b"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 X\r\n\r\n", "requires credentials: give a user and a password in proxyAuth"),
        (b"HTTP/1.1 403 X\r\n\r\n", "does not connect to name.example:443: HTTP 403"),
        (b"", "closed the connection before it answered"),
        (b"hello\r\n", "sent something that is not an HTTP response"),
    ],
)
async def test_a_proxy_that_does_not_connect_says_why(answer: bytes, words: str) -> None:
    async with proxying(answer=answer) as proxy:
        result = await run(CurlSpec("https://name.example/", proxy=proxy.url))
    assert result.reason.startswith(f"the proxy 127.0.0.1:{proxy.port} {words}")


async def test_a_proxy_that_does_not_forward_says_why() -> None:
    async with proxying(answer=b"HTTP/1.1 407 X\r\n\r\n") as proxy:
        result = await run(CurlSpec("http://name.example/", proxy=proxy.url))
    assert (result.code, result.reason) == (
        407,
        "HTTP 407, expected 2xx; the proxy requires credentials: give a user and a password in proxyAuth",
    )
    async with proxying(answer=b"") as proxy:
        result = await run(CurlSpec("http://name.example/", proxy=proxy.url))
    through = f"through the proxy 127.0.0.1:{proxy.port}: "
    assert result.reason == f"{through}name.example:80 closed the connection before it answered"


async def test_a_proxy_that_can_not_be_reached_says_so() -> None:
    async with proxying() as proxy:
        pass
    result = await run(CurlSpec("http://name.example/", proxy=proxy.url))
    assert result.reason == f"proxy: connection refused by 127.0.0.1:{proxy.port}"
    result = await run(CurlSpec("http://name.example/", proxy="socks5://h:1"))
    assert result.reason == "proxy: write http://host:port or https://host:port"


async def test_a_proxy_has_to_be_allowed_by_name_or_address() -> None:
    async with serving() as server, proxying() as proxy:
        spec = CurlSpec(f"http://name.example:{server.port}/", proxy=proxy.url)
        for addresses in (AddressFilter(["127.0.0.1"]), AddressFilter(["127.0.0.1"], proxies=["10.0.0.0/8"])):
            result = await run(spec, addresses)
            assert result.reason == (
                "proxy: 127.0.0.1 is a proxy, which HTTP jobs may not use here: leave proxy out, or ask the "
                "administrator to allow it in inlineHttpProxies"
            )
        assert not proxy.heads
        # Its address is checked like any other.
        result = await run(spec, AddressFilter(proxies=["127.0.0.0/8"]))
        assert result.reason.startswith("proxy: 127.0.0.1 is a loopback address")
        assert (await run(spec, AddressFilter(["127.0.0.1"], proxies=["127.0.0.0/8"]))).ok
        spec.proxy = f"http://proxy.example:{proxy.port}"
        allowed = AddressFilter(["proxy.example"], proxies=["proxy.example"])
        async with executor(allowed, proxy_example=["127.0.0.1"]) as made:
            assert (await made.run(attempt(spec))).ok


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "10.96.0.1"])
async def test_an_address_behind_the_proxy_is_checked_where_the_url_has_one(host: str) -> None:
    async with proxying() as proxy:
        addresses = AddressFilter(["127.0.0.1"], ["10.96.0.1"], proxies=["127.0.0.1"])
        result = await run(CurlSpec(f"http://{host}/", proxy=proxy.url), addresses)
    assert "which HTTP jobs may not reach here" in result.reason
    assert not proxy.heads


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("178257921", id="10.96.0.1 as one number"),
        pytest.param("10.96.1", id="three numbers"),
        pytest.param("012.0140.0.1", id="octal"),
        pytest.param("0xa.96.0.1", id="hexadecimal"),
        pytest.param("0xa600001", id="one hexadecimal number"),
        pytest.param("10.96.0.1.", id="with the dot of the root"),
        "kubernetes.default",
        "kubernetes.default.svc",
        "KUBERNETES.default.svc.cluster.local.",
        "localhost",
        "metadata.google.internal",
    ],
)
async def test_what_a_proxy_may_take_for_a_closed_address_is_refused(host: str) -> None:
    async with proxying(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as proxy:
        addresses = AddressFilter(["127.0.0.1"], ["10.96.0.1"], proxies=["127.0.0.1"])
        for url in (f"http://{host}/", f"https://{host}/"):
            result = await run(CurlSpec(url, proxy=proxy.url), addresses)
            assert "which HTTP jobs may not reach here" in result.reason
        assert not proxy.heads
        for name in ("kubernetes.default.example.com", "kubernetes.example.com", "10.96.0.1.example.com", "0x.example"):
            assert (await run(CurlSpec(f"http://{name}/", proxy=proxy.url), addresses)).ok


async def test_without_a_proxy_nothing_has_to_be_allowed() -> None:
    async with serving() as server:
        assert (await run(CurlSpec(server.url()), AddressFilter(["127.0.0.1"]))).ok
