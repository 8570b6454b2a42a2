"""Whatever an attempt to connect fails with is reported as StoreUnavailable, so that it is tried again."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.engine.store import StoreUnavailable
from scheduledjob.stores.postgres import PostgresStore
from tests.jobs.curl_support import Authority, server_context

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn


async def test_an_expired_certificate_of_the_server(tmp_path: Path) -> None:
    authority = Authority()
    tls = server_context(authority.issue("127.0.0.1", days=-1), tmp_path)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        writer.write(b"S")
        try:
            await writer.start_tls(tls)
        except (ssl.SSLError, OSError):
            writer.close()

    (tmp_path / "ca.pem").write_text(authority.pem)
    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://user@127.0.0.1:{port}/db?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
        with pytest.raises(StoreUnavailable, match="certificate has expired"):
            await PostgresStore(url).connect()
        await _renewal_fails(url, "certificate has expired")


async def _renewal_fails(url: str, why: str) -> None:
    store = PostgresStore(url)
    store._installation_id = 1
    async with store.renewer("alice") as renewer:
        with pytest.raises(StoreUnavailable, match=why):
            await renewer.renew([(1, 1)], 1)


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLCertVerificationError("certificate has expired"),
        ssl.SSLError("wrong version number"),
        UnicodeError("label too long"),
        ValueError("a malformed answer"),
        RuntimeError("can't start new thread"),
        EOFError("the connection was closed"),
        FileNotFoundError("server.crt is being replaced"),
        asyncpg.exceptions.ClientConfigurationError("the file of sslrootcert is missing"),
        asyncpg.TargetServerAttributeNotMatched("no primary"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_any_other_failure(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object, **more: object) -> NoReturn:
        raise error

    monkeypatch.setattr(asyncpg, "connect", fail)
    url = "postgresql://user@127.0.0.1:5432/db"
    with pytest.raises(StoreUnavailable, match=str(error)):
        await PostgresStore(url).connect()
    await _renewal_fails(url, str(error))
