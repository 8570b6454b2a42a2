"""TLS of HTTP jobs: trust in servers, client certificates, and reasons of failures."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.curl.tls import TlsSetting, context_of
from tests.jobs.curl_support import Authority, Known, attempt, executor, run, server_context, serving

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def test_a_private_authority(authority: Authority, tmp_path: Path) -> None:
    tls = server_context(authority.issue("127.0.0.1", "localhost"), tmp_path)
    async with serving(tls=tls) as server:
        assert (await run(CurlSpec(server.url(), ca=Value(authority.pem)))).ok
        assert (await run(CurlSpec(server.url(host="localhost"), ca=Value(authority.pem)))).ok
        references = Known(ca=authority.pem.encode())
        assert (await run(CurlSpec(server.url(), ca=Value(secret=("s", "ca"))), references=references)).ok


async def test_a_server_without_a_trusted_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    async with serving(tls=server_context(authority.issue("127.0.0.1"), tmp_path)) as server:
        result = await run(CurlSpec(server.url()))
        assert result.reason == (
            f"the TLS certificate of 127.0.0.1:{server.port} is not trusted: unable to get local issuer certificate"
        )
        assert not (await run(CurlSpec(server.url(), ca=Value(Authority("another").pem)))).ok
        assert not server.requests
        assert (await run(CurlSpec(server.url(), insecure_skip_verify=True))).ok


async def test_a_certificate_of_another_name_and_an_expired_one(authority: Authority, tmp_path: Path) -> None:
    async with serving(tls=server_context(authority.issue("other.example"), tmp_path)) as server:
        result = await run(CurlSpec(server.url(), ca=Value(authority.pem)))
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in result.reason
        assert (await run(CurlSpec(server.url(), ca=Value(authority.pem), server_name="other.example"))).ok
    async with serving(tls=server_context(authority.issue("127.0.0.1", days=-1), tmp_path)) as server:
        assert "certificate has expired" in (await run(CurlSpec(server.url(), ca=Value(authority.pem)))).reason


async def test_a_client_certificate_is_sent_and_a_missing_one_has_a_reason(
    authority: Authority, tmp_path: Path
) -> None:
    client = authority.issue("client.example")
    tls = server_context(authority.issue("127.0.0.1"), tmp_path, clients=authority.pem)
    async with serving(tls=tls) as server:
        spec = CurlSpec(server.url(), ca=Value(authority.pem))
        result = await run(spec)
        assert not result.ok
        assert result.reason == (
            f"127.0.0.1:{server.port} closed the connection before it answered; does it require a client certificate?"
        )
        spec.client_certificate, spec.client_key = Value(client.pem), Value(secret=("s", "key"))
        assert (await run(spec, references=Known(key=client.key.encode()))).ok
        assert (
            await run(
                CurlSpec(server.url(), ca=Value(authority.pem), client_certificate=Value(client.pem + client.key))
            )
        ).ok
        assert server.peer_certificates[-1]


async def test_a_client_certificate_is_not_sent_to_another_host(authority: Authority, tmp_path: Path) -> None:
    client = authority.issue("client.example")

    def context() -> ssl.SSLContext:
        made = server_context(authority.issue("127.0.0.1"), tmp_path, clients=authority.pem)
        made.verify_mode = ssl.CERT_OPTIONAL
        return made

    async with serving(tls=context()) as other:

        async def elsewhere(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": other.url()})

        async with serving(elsewhere, context()) as first:
            spec = CurlSpec(first.url(), ca=Value(authority.pem), client_certificate=Value(client.pem + client.key))
            assert (await run(spec)).ok
            assert len(first.peer_certificates) == len(other.peer_certificates) == 1
            assert first.peer_certificates[0]
            assert not other.peer_certificates[0]


async def test_plain_http_and_a_server_that_closes_in_the_handshake() -> None:
    async with serving() as plain:
        result = await run(CurlSpec(f"https://127.0.0.1:{plain.port}/"))
        assert result.reason.startswith(f"the TLS handshake with 127.0.0.1:{plain.port} failed: ")
        assert "does it speak plain http there?" in result.reason

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        result = await run(CurlSpec(f"https://127.0.0.1:{port}/"))
    assert result.reason == f"127.0.0.1:{port} closed the connection before it was ready for a request"


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "reason"),
    [
        ("no pem", None, None, "tls.ca: no certificates in PEM format"),
        ("", None, None, "tls.ca: no certificates in PEM format"),
        (None, "no pem", None, "tls: the client certificate can't be used: no PEM in it"),
        (None, None, "key", "tls: a client key without its certificate: give both, or neither"),
    ],
)
async def test_invalid_settings(ca: str | None, certificate: str | None, key: str | None, reason: str) -> None:
    def value(text: str | None) -> Value | None:
        return None if text is None else Value(text)

    spec = CurlSpec("https://127.0.0.1:1/", ca=value(ca), client_certificate=value(certificate), client_key=value(key))
    assert (await run(spec)).reason.startswith(reason)


async def test_reasons_for_wrong_keys_do_not_show_them(authority: Authority) -> None:
    one, other = authority.issue("a.example"), authority.issue("b.example")
    locked = authority.issue("c.example", password=b"passphrase")
    spec = CurlSpec("https://127.0.0.1:1/", client_certificate=Value(one.pem), client_key=Value(other.key))
    assert (await run(spec)).reason == (
        "tls: the client certificate can't be used: the client key belongs to another certificate"
    )
    spec = CurlSpec("https://127.0.0.1:1/", client_certificate=Value(locked.pem), client_key=Value(locked.key))
    assert (await run(spec)).reason == (
        "tls: the client certificate can't be used: the client key is encrypted: give it without a passphrase"
    )


async def test_a_context_is_built_once_for_each_setting(authority: Authority) -> None:
    assert await context_of(TlsSetting(ca=authority.pem)) is await context_of(TlsSetting(ca=authority.pem))
    assert await context_of(TlsSetting()) is not await context_of(TlsSetting(verify=False))


async def test_connections_are_not_shared_between_tls_settings(authority: Authority, tmp_path: Path) -> None:
    async with serving(tls=server_context(authority.issue("127.0.0.1"), tmp_path)) as server, executor() as made:
        assert (await made.run(attempt(CurlSpec(server.url(), insecure_skip_verify=True)))).ok
        assert not (await made.run(attempt(CurlSpec(server.url())))).ok
        assert not (await made.run(attempt(CurlSpec(server.url(), ca=Value(authority.pem), server_name="x")))).ok
        assert (await made.run(attempt(CurlSpec(server.url(), ca=Value(authority.pem))))).ok
        assert not (await made.run(attempt(CurlSpec(server.url(), ca=Value(authority.pem), server_name="x")))).ok
