"""Bodies of responses: packed ones, other charsets, and how much memory they may hold."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.body import BODIES_LIMIT, BODY_LIMIT, FREE
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.fair_share import FairShare, Reservation
from tests.jobs.curl_support import Known, attempt, bare, executor, run
from tests.jobs.shell_support import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = b'{"state": "done"}'


def packed_by_gzip(data: bytes) -> bytes:
    """Without the time, so that the parameters of a test are the same in each process."""
    return gzip.compress(data, mtime=0)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def answer(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *headers, b"Content-Length: %d" % len(body), b"", body))


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", packed_by_gzip(TEXT)), (b"X-GZip", packed_by_gzip(TEXT)), (b"deflate", zlib.compress(TEXT)),
        (b"deflate", raw_deflate(TEXT)), (b"identity", TEXT), (b"gzip, deflate", zlib.compress(packed_by_gzip(TEXT))),
        (b"gzip", packed_by_gzip(TEXT[:5]) + packed_by_gzip(TEXT[5:])), (b"gzip", packed_by_gzip(TEXT) + b"\0" * 9),
    ],
)  # fmt: skip
async def test_a_packed_body_is_unpacked(coding: bytes, body: bytes) -> None:
    async with bare(answer(body, b"Content-Encoding: " + coding)) as server:
        result = await run(CurlSpec(server.url, expect_body='"state": "done"'))
    assert (result.ok, result.output) == (True, TEXT), result.reason


async def test_a_body_that_the_transfer_packed_is_unpacked() -> None:
    packed = packed_by_gzip(TEXT)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    async with bare(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunks) as server:
        assert (await run(CurlSpec(server.url, expect_body="done"))).output == TEXT


@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        (b"br", b"\x8b\x08\x80", "it is packed with br, which is unknown here: send the header Accept-Encoding: gzip"),
        (b"gzip", b"no gzip", "it is not gzip, although Content-Encoding says so"),
        (b"gzip", packed_by_gzip(TEXT)[:-9], "it ends early for gzip"),
        (
            b"gzip, gzip, gzip, gzip, gzip",
            packed_by_gzip(TEXT),
            "it is packed with gzip, gzip, gzip, gzip, which is unknown here",
        ),
    ],
)
async def test_a_body_that_can_not_be_unpacked_says_why(coding: bytes, body: bytes, words: str) -> None:
    async with bare(answer(body, b"Content-Encoding: " + coding)) as server:
        result = await run(CurlSpec(server.url, expect_body="done"))
        assert not result.ok
        assert result.reason.startswith(f"HTTP 200, but its body can't be read: {words}")
        assert (await run(CurlSpec(server.url))).ok  # nobody asks for its text


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"utf-8", b"aws-chunked", b"gzip, br"])
async def test_text_that_is_called_packed_is_read_as_it_is(coding: bytes) -> None:
    body = b'{"state": "d\xc3\xb6ne"}\r\n' * 3000
    async with bare(answer(body, b"Content-Encoding: " + coding)) as server:
        result = await run(CurlSpec(server.url, expect_body='"döne"}\r\n$'))
        assert result.ok, result.reason
        assert result.output.startswith(b'{"state": "d\xc3\xb6ne"}')
        # A text that does not match says what is odd about it.
        result = await run(CurlSpec(server.url, expect_body="never"))
        assert "which is unknown here" in result.reason or "although Content-Encoding says so" in result.reason


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", packed_by_gzip(TEXT)), (b"deflate", zlib.compress(TEXT)), (b"deflate", raw_deflate(TEXT)),
        (b"deflate", raw_deflate(TEXT * 50)), (b"deflate, gzip", packed_by_gzip(raw_deflate(TEXT * 50))),
        (b"deflate", TEXT), (b"deflate", TEXT * 50), (b"gzip", TEXT), (b"br", TEXT), (b"gzip", b"x" + TEXT * 50),
        (b"deflate", raw_deflate(TEXT) + b"\x1fafter the end"), (b"gzip", packed_by_gzip(TEXT) + b"after the end"),
    ],
)  # fmt: skip
async def test_a_body_may_arrive_in_pieces_of_a_byte(coding: bytes, body: bytes) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: " + coding + b"\r\n\r\n"
    async with bare(head + chunks) as server:
        result = await run(CurlSpec(server.url, expect_body='"state": "done"'))
    assert result.ok, result.reason
    assert TEXT in result.output


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
async def test_what_is_packed_is_never_searched_as_text(coding: bytes) -> None:
    async with bare(answer(b"text, then " + bytes(range(256)), b"Content-Encoding: " + coding)) as server:
        result = await run(CurlSpec(server.url, expect_body="."))
    assert result.reason.startswith("HTTP 200, but its body can't be read: it is ")


async def test_a_small_body_that_unpacks_to_a_large_one_is_cut() -> None:
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    zeros = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(64)), packer.flush()])
    assert len(zeros) < 1 << 17
    async with bare(answer(zeros, b"Content-Encoding: gzip")) as server:
        result = await run(CurlSpec(server.url, expect_body="never"))
    assert result.reason == 'HTTP 200, but nothing in the body in its first 1 MiB matches expect.bodyRegex "never"'


async def test_a_body_that_grows_between_its_codings_is_refused() -> None:
    nothing = b"\x00\x00\x00\xff\xff" * 3_000_000  # empty blocks of deflate, of which nothing is left in the end
    async with bare(answer(gzip.compress(nothing, 1), b"Content-Encoding: deflate, gzip")) as server:
        result = await run(CurlSpec(server.url, expect_body="never"))
    words = "it is packed with deflate, gzip to more than 4 MiB between them"
    assert result.reason == f"HTTP 200, but its body can't be read: {words}"


@pytest.mark.parametrize("coding", [b"deflate", b"br"])
async def test_a_packed_body_without_end_is_not_read_for_ever(coding: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: " + coding + b"\r\n\r\n"
    async with bare(head + b"\x00\x00\x00\xff\xff" * 1_000_000, keep_open=True) as server:
        result = await run(CurlSpec(server.url), timeout=60.0)
    assert result.ok, result.reason


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"text/plain; charset=iso-8859-1", "terminé".encode("latin-1")),
        (b'text/plain;charset="ISO-8859-15"', "terminé".encode("iso8859-15")),
        (b"text/html; x=y; Charset=windows-1252", "terminé".encode("cp1252")),
        (b"text/plain; charset=utf-16", "terminé".encode("utf-16")),
        (b"text/plain; charset=UTF-16LE", "terminé".encode("utf-16-le")),
        (b"text/plain", "terminé".encode("utf-16")), (b"text/plain", "terminé".encode("utf-32")),
        (b"text/plain", "terminé".encode("utf-8-sig")), (b"text/plain; charset=utf-8", "terminé".encode()),
        (b"application/json", "terminé".encode("utf-16-le")), (b"text/plain", "terminé".encode("utf-16-be")),
        (b"text/plain", "terminé".encode("utf-32-le")), (b"text/plain", "terminé".encode("utf-32-be")),
        (b"text/plain; charset=UTF-16", "terminé".encode("utf-16-be")),
        (b"text/plain; charset=utf-16", "terminé".encode("utf-16-le")),
        (b"text/plain; charset=utf-32", "terminé".encode("utf-32-be")),
        (b"text/plain; charset=us-ascii", "terminé".encode()), (b"text/plain; charset=latin-1", "terminé".encode()),
        (b"text/plain; charset=shift_jis", "終わり terminé".encode("shift_jisx0213")),
    ],
)  # fmt: skip
async def test_a_pattern_is_searched_in_the_text_of_any_charset(content_type: bytes, body: bytes) -> None:
    pattern = "^終わり " if b"shift" in content_type else "^terminé$"
    async with bare(answer(body, b"Content-Type: " + content_type)) as server:
        result = await run(CurlSpec(server.url, expect_body=pattern))
    assert result.ok, result.reason


@pytest.mark.parametrize(
    ("content_type", "declaration"),
    [
        (b"text/html", "<html><meta charset=iso-8859-1>"), (b"text/html", "\n<META x=y CharSet = 'latin1' />"),
        (b"text/html", '<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">'),
        (b"text/xml", "<?xml version='1.0' encoding='ISO-8859-1'?>"), (b"image/svg+xml", '<?xml encoding="l1"?>'),
        (b"text/html;charset=iso-8859-1", "<meta charset=utf-8>"),
    ],
)  # fmt: skip
async def test_a_document_may_declare_its_charset(content_type: bytes, declaration: str) -> None:
    body = f"{declaration}<p>terminé</p>".encode("latin-1")
    async with bare(answer(body, b"Content-Type: " + content_type)) as server:
        result = await run(CurlSpec(server.url, expect_body="<p>terminé</p>"))
    assert result.ok, result.reason
    assert result.output.endswith("terminé</p>".encode())


async def test_only_the_beginning_tells_the_charset() -> None:
    late = b"<p>" + b"x" * 1024 + b"<meta charset=iso-8859-1>" + "terminé".encode()
    header = b"Content-Type: text/html" + b";" + b" " * 1024 + b"charset=iso-8859-1"
    async with bare(answer(late, header)) as server:
        assert (await run(CurlSpec(server.url, expect_body="terminé"))).output.endswith("terminé".encode())


async def test_an_unknown_charset_does_not_keep_a_pattern_from_matching() -> None:
    async with bare(answer(TEXT, b"Content-Type: text/plain; charset=utf8mb4")) as server:
        assert (await run(CurlSpec(server.url, expect_body='"state": "done"'))).ok


async def test_the_declaration_of_utf_16_in_readable_text_is_not_believed() -> None:
    body = "<?xml encoding='utf-16'?><p>terminé</p>".encode()
    async with bare(answer(body, b"Content-Type: text/xml")) as server:
        assert (await run(CurlSpec(server.url, expect_body="terminé"))).ok


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be", "latin-1", "cp1252"])
async def test_history_shows_a_text_in_utf_8_and_masks_secrets_in_it(charset: str) -> None:
    body = "terminé: s3cr3t-t0ken".encode(charset)
    spec, known = CurlSpec("", bearer=Value(secret=("s", "token"))), Known(token=b"s3cr3t-t0ken")
    async with bare(answer(body, b"Content-Type: text/plain; charset=" + charset.encode())) as server:
        spec.url = server.url
        result = await run(spec, references=known)
    assert result.output.decode() == "terminé: ***"


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be", "utf-32", "latin-1", "gb18030"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_long_text_is_masked_wherever_it_is_cut_in_any_charset(charset: str, named: bool) -> None:
    token = "s3cr3t-t0ken-" + "0123456789abcdef" * 8
    body = (f"terminé: {token}\n" * 2000).encode(charset)
    header = f"Content-Type: text/plain{f'; charset={charset}' if named else ''}".encode()
    async with bare(answer(body, header)) as server:
        spec = CurlSpec(server.url, bearer=Value(secret=("s", "token")))
        result = await run(spec, references=Known(token=token.encode()))
    shown = result.output.replace(b"\0", b"")
    assert b"***" in shown
    assert not any(token[at : at + 12].encode() in shown for at in range(len(token) - 12))
    assert not named or "terminé: ***\nterminé: ***" in result.output.decode()


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        (b"text/plain; charset=klingon", 'its body can\'t be read: the charset "klingon" is unknown here'),
        (b"text/plain; charset=punycode", 'its body can\'t be read: the charset "punycode" is unknown here'),
        (b"text/plain", 'nothing in the body matches expect.bodyRegex "terminé"; it is not UTF-8, and Content-Type '),
    ],
)
async def test_a_text_that_can_not_be_read_says_why(content_type: bytes, words: str) -> None:
    async with bare(answer("terminé".encode("latin-1"), b"Content-Type: " + content_type)) as server:
        result = await run(CurlSpec(server.url, expect_body="terminé"))
    assert result.reason.startswith(f"HTTP 200, but {words}")


async def test_an_empty_body_is_packed_in_any_way() -> None:
    async with bare(answer(b"", b"Content-Encoding: gzip")) as server:
        assert (await run(CurlSpec(server.url, expect_body="^$"))).ok


# ---------------------------------------------------------------- shares


async def test_a_namespace_may_hold_as_much_as_is_free() -> None:
    share = FairShare(16)
    for _ in range(8):
        await share.acquire("a")
    assert not share.has_room("a", 1)
    for namespace, amount in (("b", 4), ("c", 2), ("d", 1)):
        await share.acquire(namespace, amount)
        assert not share.has_room(namespace, 1)
    assert share.has_room("e", 1)


async def test_who_holds_least_is_next_and_who_left_is_not_waited_for() -> None:
    share, order = FairShare(8), list[str]()

    async def acquire(namespace: str, amount: int) -> None:
        await share.acquire(namespace, amount)
        order.append(namespace)

    await acquire("a", 4)
    await acquire("b", 2)
    waiting = [asyncio.create_task(acquire(namespace, 2)) for namespace in ("a", "a", "b", "c")]
    await asyncio.sleep(0)
    assert order == ["a", "b", "c"]  # there are two left, too few for a and b
    waiting[0].cancel()
    share.release("a", 4)
    await waiting[1]
    assert order == ["a", "b", "c", "a"]  # a holds nothing now
    assert not waiting[2].done()
    share.release("c", 2)
    await waiting[2]


async def test_a_reservation_never_waits_while_it_holds_something() -> None:
    share = FairShare(8)
    first, second = Reservation(share, "a"), Reservation(share, "a")
    await first.change(2)
    await second.change(2)
    larger = [asyncio.create_task(held.change(4)) for held in (first, second)]
    done, _ = await asyncio.wait(larger, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    (first if larger[0] in done else second).release()
    await asyncio.gather(*larger)


@asynccontextmanager
async def withholding(size: int) -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """A server that keeps the last byte of its bodies back. Yields its port and its connections."""
    writers: list[asyncio.StreamWriter] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (size - 1))
        writers.append(writer)

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as listener:
        try:
            yield listener.sockets[0].getsockname()[1], writers
        finally:
            for writer in writers:
                writer.close()


async def test_bodies_that_do_not_end_hold_a_bounded_share_of_the_memory() -> None:
    most = BODIES_LIMIT // BODY_LIMIT // 2  # bodies that one namespace may hold
    async with withholding(BODY_LIMIT) as (port, _), executor() as made, asyncio.timeout(60):
        spec = CurlSpec(f"http://127.0.0.1:{port}/", expect_body="never")
        held = [asyncio.create_task(made.run(attempt(spec))) for _ in range(most)]
        await until(lambda: made.memory_held("team-a") == most * BODY_LIMIT)
        late = await made.run(attempt(spec, timeout=2.0))
        assert (
            late.reason == f"timed out after 2s, waiting for memory: other responses of this namespace hold {32768} KiB"
        )
        # Another namespace has room, and so have small bodies of this one.
        async with bare(answer(b"x" * BODY_LIMIT)) as fine, bare(answer(b"x" * FREE)) as small:
            assert (await made.run(attempt(CurlSpec(fine.url, expect_body="x"), namespace="team-b"))).ok
            assert (await made.run(attempt(CurlSpec(small.url, expect_body="x")))).ok
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert made.memory_held("team-a") == made.memory_held("team-b") == 0


async def test_requests_hold_a_bounded_share_of_the_memory_for_what_they_refer_to() -> None:
    secret = b"x" * (1 << 20)
    most = 32  # requests that one namespace may have: each holds the Secret and its body, of 64 MiB
    async with withholding(BODY_LIMIT) as (port, _), executor() as made, asyncio.timeout(60):
        spec = CurlSpec(f"http://127.0.0.1:{port}/", "POST", body=Value(secret=("s", "large")))
        references = Known(large=secret, small=b"x" * 1000)
        held = [asyncio.create_task(made.run(attempt(spec, references=references))) for _ in range(most)]
        await until(lambda: made.references_held("team-a") > (most - 1) << 21)
        late = await made.run(attempt(spec, references=references, timeout=2.0))
        assert late.reason.startswith("timed out after 2s, waiting for memory: other requests of this namespace hold ")
        assert made.references_held("team-a") < 65 << 20
        # Another namespace has room, and so have small Secrets of this one, and waiters when others end.
        async with bare(answer(b"ok")) as fine:
            large = CurlSpec(fine.url, "POST", body=Value(secret=("s", "large")))
            small = CurlSpec(fine.url, "POST", body=Value(secret=("s", "small")))
            assert (await made.run(attempt(large, namespace="team-b", references=references))).ok
            assert (await made.run(attempt(small, references=references))).ok
            waiting = asyncio.create_task(made.run(attempt(large, references=references)))
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            assert (await waiting).ok
        assert made.references_held("team-a") == made.references_held("team-b") == 0


async def test_a_request_that_refers_to_too_much_is_refused_with_words() -> None:
    async with bare(answer(b"ok")) as server:
        spec = CurlSpec(server.url, "POST", body=Value(secret=("s", "huge")))
        result = await run(spec, references=Known(huge=b"x" * (17 << 20)))
        assert result.reason == "what the request refers to has more than 16 MiB: use less"


async def test_a_long_header_that_does_not_end_counts() -> None:
    async with bare(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 90_000, keep_open=True) as server, executor() as made:
        running = asyncio.create_task(made.run(attempt(CurlSpec(server.url))))
        await until(lambda: made.memory_held("team-a") > 0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert made.memory_held("team-a") == 0


async def test_connections_of_a_namespace_keep_no_other_from_connecting() -> None:
    share = FairShare(4, lambda held: f"waiting for a connection, beside {held}")
    made = CurlExecutor(connections=share)
    await made.start()
    async with withholding(100) as (port, writers), bare(answer(b"ok")) as fine, asyncio.timeout(60):
        spec = CurlSpec(f"http://127.0.0.1:{port}/")
        held = [asyncio.create_task(made.run(attempt(spec))) for _ in range(2)]
        await until(lambda: len(writers) == 2)
        late = await made.run(attempt(spec, timeout=0.1))
        assert late.reason == "timed out after 100ms, waiting for a connection, beside 2"
        assert (await made.run(attempt(CurlSpec(fine.url), namespace="team-b"))).ok
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert (await made.run(attempt(CurlSpec(fine.url)))).ok
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = listener.getsockname()[1]
        assert not (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{nobody}/")))).ok
    await made.stop()
    assert share.held("team-a") == share.held("team-b") == 0


async def test_an_idle_connection_makes_room_for_another_server() -> None:
    share = FairShare(2)
    made = CurlExecutor(connections=share)
    await made.start()
    async with bare(answer(b"ok"), keep_open=True) as first, bare(answer(b"ok"), keep_open=True) as second:
        for server in (first, second, first):
            assert (await made.run(attempt(CurlSpec(server.url), timeout=30.0))).ok
        assert (first.connections, second.connections, share.held("team-a")) == (2, 1, 1)
        await made.stop()
