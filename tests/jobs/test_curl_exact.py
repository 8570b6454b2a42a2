"""HTTP jobs send what was written and accept what curl accepts.

The tables hold what curl 7.88 does (with ``--globoff``). Where a job differs, the row says so.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.curl.request import host_and_port
from scheduledjob.jobs.curl.response import Head, framing_of, retry_after
from scheduledjob.jobs.curl.target import join_target, parse_target
from tests.jobs.curl_support import Known, attempt, bare, executor, run, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OK = b"Content-Length: 2\r\n\r\nok"
FIRST = b"HTTP/1.1 200 OK\r\n"
CHUNKED = FIRST + b"Transfer-Encoding: chunked\r\n\r\n"

ACCEPTED = {  # by curl as well, with the output "ok"
    "a header of 99 KiB": FIRST + b"A: " + b"x" * 101_000 + b"\r\n" + OK,
    "290 KiB of headers": FIRST + b"".join(b"A%d: " % n + b"x" * 99_000 + b"\r\n" for n in range(3)) + OK,
    "500 headers": FIRST + b"".join(b"A%d: x\r\n" % n for n in range(500)) + OK,
    "trailers": CHUNKED + b"2\r\nok\r\n0\r\nX-T: 1\r\nY: 2\r\n\r\n",
    "a chunk extension": CHUNKED + b'2 ; a="b;c"\r\nok\r\n0\r\n\r\n',
    "chunks with bare line feeds": CHUNKED + b"2\nok\n0\n\n",
    "zeros before a chunk's size": CHUNKED + b"0000000002\r\nok\r\n0\r\n\r\n",
    "a length beside chunks": FIRST + b"Content-Length: 7\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "transfer coding identity": FIRST + b"Transfer-Encoding: identity\r\n" + OK,
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + FIRST + OK,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nok",
    "HTTP/1.0 that keeps alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + OK,
    "no reason phrase": b"HTTP/1.1 200\r\n" + OK,
    "an empty reason phrase": b"HTTP/1.1 200 \r\n" + OK,
    "a reason phrase in Latin-1": b"HTTP/1.1 200 d\xe9j\xe0\r\n" + OK,
    "two spaces before the status": b"HTTP/1.1  200 OK\r\n" + OK,
    "the version in lower case": b"http/1.1 200 OK\r\n" + OK,
    "another version": b"HTTP/2 200 OK\r\n" + OK,
    "another version with a minor one": b"HTTP/2.0 200 OK\r\n" + OK,
    "no space after the status": b"HTTP/1.1 200OK\r\n" + OK,
    "a vertical tab after the status": b"HTTP/1.1 200\x0bOK\r\n" + OK,
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "both line ends": FIRST + b"A: b\nContent-Length: 2\r\n\nok",
    "a folded header": FIRST + b"A: b\r\n  c\r\n\td\r\n" + OK,
    "a space before the colon": FIRST + b"Content-Length : 2\r\n\r\nok",
    "a header without a name": FIRST + b": x\r\n" + OK,
    "a name with a space": FIRST + b"A B: x\r\n" + OK,
    "bytes that are no text": FIRST + b"A: \xff\x01\xfe\r\n" + OK,
    "a carriage return in a header": FIRST + b"A: a\rb\r\n" + OK,
    "the same length twice": FIRST + b"Content-Length: 2\r\n" + OK,
    "the same length in a list": FIRST + b"Content-Length: 2, 2\r\n\r\nok",
    "a length with a sign": FIRST + b"Content-Length: +2\r\n\r\nok",
    "a length with a comment": FIRST + b"Content-Length: 2; bytes\r\n\r\nok",
    "a length with a fraction": FIRST + b"Content-Length: 2.0\r\n\r\nok",
    "a length in a list that ends with a comma": FIRST + b"Content-Length: 2,\r\n\r\nok",
    "letters after a chunk's size": CHUNKED + b"2xyz\r\nok\r\n0\r\n\r\n",
    "a length beyond 64 bits": FIRST + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "more than the length": FIRST + b"Content-Length: 2\r\n\r\nokokok",
    "no length": FIRST + b"\r\nok",
    "an offer to upgrade": FIRST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n" + OK,
}


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_a_response_that_curl_accepts_is_a_success(answer: bytes) -> None:
    async with bare(answer) as server:
        result = await run(CurlSpec(server.url))
        assert (result.ok, result.code, result.output) == (True, 200, b"ok"), result.reason
        result = await run(CurlSpec(server.url, "HEAD"))
        assert (result.ok, result.code, result.output) == (True, 200, b""), result.reason


@pytest.mark.parametrize("answer", [FIRST, b"HTTP/1.0 200 OK\n", FIRST + b"Server: x\r\n"])
async def test_a_head_may_end_with_the_connection(answer: bytes) -> None:
    async with bare(answer) as server:
        result = await run(CurlSpec(server.url))
    assert (result.ok, result.code, result.output) == (True, 200, b""), result.reason


async def test_a_request_is_sent_again_without_an_expectation_that_is_refused() -> None:
    def answer(_: int, count: int) -> bytes:
        return FIRST + OK if count else b"HTTP/1.1 417 X\r\nContent-Length: 0\r\n\r\n"

    async with conversing(answer) as (port, requests):
        spec = CurlSpec(f"http://127.0.0.1:{port}/", "PUT", headers={"expect": Value("100-continue")})
        assert (await run(spec)).ok
        assert b"\r\nexpect: 100-continue\r\n" in requests[0][1]
        assert b"xpect" not in requests[1][1]
    async with bare(b"HTTP/1.1 417 X\r\nContent-Length: 0\r\n\r\n") as server:
        assert (await run(CurlSpec(server.url))).code == 417
        assert server.connections == 1


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("body", [b"", b"Content-Length: 20\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_status_without_a_body_may_announce_one(status: int, body: bytes) -> None:
    if status == 205:  # for curl it is a status as any other
        body = b"Content-Length: 0\r\n"
    async with bare(b"HTTP/1.1 %d X\r\n%s\r\n" % (status, body), keep_open=True) as server:
        result = await run(CurlSpec(server.url, expect_status=("204", "205", "304")), timeout=10.0)
    assert (result.ok, result.code, result.output) == (True, status, b"")


REFUSED = {  # curl as well, with the exit code in parentheses
    "a header over 100 KiB (27)": (FIRST + b"A: " + b"x" * 103_000 + b"\r\n" + OK, "a header is longer than 100 KiB"),
    "headers over 300 KiB (56)": (
        FIRST + b"".join(b"A%d: " % n + b"x" * 99_000 + b"\r\n" for n in range(4)) + OK,
        "its headers are longer than 300 KiB",
    ),
    "trailers over 300 KiB (56)": (
        CHUNKED + b"2\r\nok\r\n0\r\n" + (b"A: " + b"x" * 9_000 + b"\r\n") * 40 + b"\r\n",
        "its headers are longer than 300 KiB",
    ),
    "a trailer over 16 KiB (curl takes 64 KiB)": (
        CHUNKED + b"2\r\nok\r\n0\r\nA: " + b"x" * 17_000 + b"\r\n\r\n",
        "a line between the chunks is longer than 16 KiB",
    ),
    "a line without a colon (8)": (FIRST + b"Garbage\r\n" + OK, 'a header without a colon: "Garbage"'),
    "a zero byte (8)": (FIRST + b"A: a\0b\r\n" + OK, "a header has a zero byte"),
    "a negative length (8)": (FIRST + b"Content-Length: -2\r\n\r\nok", 'its Content-Length is "-2"'),
    "an empty length (8)": (FIRST + b"Content-Length:\r\n\r\nok", 'its Content-Length is ""'),
    "chunks without a size (56)": (CHUNKED + b"zz\r\n", 'the size of a chunk is "zz"'),
    "a zero byte in the first line (8)": (b"HTTP/1.1 200 \0\r\n" + OK, "its first line is "),
    "a length in hexadecimal digits (curl takes 0)": (
        FIRST + b"Content-Length: 0x2\r\n\r\nok",
        'its Content-Length is "0x2"',
    ),
    "a trailer without a colon (43)": (CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n", 'a trailer without a colon: "ok"'),
    "HTTP/3.0 (1)": (b"HTTP/3.0 200 OK\r\n" + OK, 'its first line is "HTTP/3.0 200 OK"'),
    "HTTP/0.9 (1)": (b"hello\r\n", 'its first line is "hello"'),
    "a status of four digits (1)": (b"HTTP/1.1 2000 X\r\n" + OK, 'its first line is "HTTP/1.1 2000 X"'),
    "too few bytes (18)": (FIRST + b"Content-Length: 10\r\n\r\nok", "ended early"),
    "no last chunk (18)": (CHUNKED + b"2\r\nok\r\n", "ended early"),
    "half of the last chunk (18)": (CHUNKED + b"2\r\nok\r\n0\r\n", "ended early"),
    "two lengths that differ (curl takes the last)": (
        FIRST + b"Content-Length: 3\r\n" + OK,
        "it has two Content-Lengths that differ",
    ),
    "an end within a header (curl takes what it has)": (
        FIRST + b"Content-Le",
        "ended early",
    ),
    "an end within the first line (1)": (b"HTTP/1.1 200 O", "ended early"),
    "an end after an interim response (52)": (b"HTTP/1.1 100 C\r\n\r\n", "ended early"),
    "an end within an interim response": (b"HTTP/1.1 100 C\r\n", "ended early"),
    "an end between the headers, and no body (18)": (FIRST + b"Content-Length: 2\r\n", "ended early"),
}


@pytest.mark.parametrize(("answer", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_response_that_is_refused_says_what_is_wrong_with_it(answer: bytes, reason: str) -> None:
    async with bare(answer) as server:
        result = await run(CurlSpec(server.url))
    assert (result.ok, result.code) == (False, None)
    assert reason in result.reason


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/%7Euser/%2f?a=%20+b%2B", "/%7Euser/%2f?a=%20+b%2B"), ("/%zz%", "/%zz%"), ("/{x}|\"<>^`\\", "/{x}|\"<>^`\\"),
        ("/?a={b}[1]&c='(d)'", "/?a={b}[1]&c='(d)'"), ("/a;p=1", "/a;p=1"), ("//double//x", "//double//x"),
        ("/a/%2e%2e/b", "/a/%2e%2e/b"), ("/a/../b", "/b"), ("/a/./b", "/a/b"), ("/..", "/"),
        ("/a/..?x/../y", "/?x/../y"),
        ("", "/"), ("?x=1", "/?x=1"), ("/#part", "/"), ("/a?b#c", "/a?b"), ("/é", "/%c3%a9"),
        # curl sends the bytes of é in a query, and refuses a space
        ("/?q=é", "/?q=%c3%a9"), ("/a b?c d", "/a%20b?c+d"),
    ],
)  # fmt: skip
def test_the_path_is_sent_as_it_was_written(written: str, sent: str) -> None:
    assert parse_target(f"http://host:8080{written}").path == sent


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Host.Example/", "Host.Example"), ("http://host.:8080/", "host.:8080"), ("http://h:80/", "h"),
        ("https://h:443", "h"), ("https://h:80", "h:80"), ("http://h:/", "h"), ("http://[::1]:81/", "[::1]:81"),
        ("http://me:pw@h/", "h"), ("http://b\u00fccher.example/", "xn--bcher-kva.example"),
        ("http://[fe80::1%25lo]:81/", "[fe80::1]:81"), ("http://[fe80::1%lo]/", "[fe80::1]"),
        ("http://my_service:81/", "my_service:81"), ("http://ex%61mple/", "example"),
        ("http://fa\u00df.example/", "xn--fa-hia.example"), ("http://ex\u3002ample/", "ex.ample"),
    ],
)  # fmt: skip
def test_the_host_is_sent_as_it_was_written(url: str, host: str) -> None:
    assert host_and_port(parse_target(url)) == host


@pytest.mark.parametrize("host", ["a b", "h ", "a,b", "a|b", "{a}", "a%2fb", "a%00", "a%ff", "a%", "[::1", "[]", "::1"])
def test_a_host_that_curl_refuses_is_no_host(host: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller has the words
        parse_target(f"http://{host}/")


@pytest.mark.parametrize("zone", ["%251", "%1", "%25lo", "%lo"])
def test_the_zone_of_an_address_is_known_to_the_connection(zone: str) -> None:
    assert parse_target(f"http://[fe80::1{zone}]/").origin.raw_host == f"fe80::1%{zone.removeprefix('%25').strip('%')}"


@pytest.mark.parametrize(
    ("credentials", "pair"),
    [
        ("u:p", b"u:p"), ("u", b"u:"), (":p", b":p"), ("u%40x:p%3aq", b"u@x:p:q"), ("u%20:p%20", b"u :p "),
        ("u%e9:p%ff", b"u\xe9:p\xff"), ("é:ü", "é:ü".encode()), ("u%3Ax:p", b"u:x:p"), ("u:p%0a", b"u:p\n"),
    ],
)  # fmt: skip
async def test_credentials_of_a_url_are_sent_byte_for_byte(credentials: str, pair: bytes) -> None:
    async with conversing(lambda _, __: FIRST + OK) as (port, requests):
        assert (await run(CurlSpec(f"http://{credentials}@127.0.0.1:{port}/"))).ok
    assert b"\r\nAuthorization: Basic " + base64.b64encode(pair) + b"\r\n" in requests[0][1]


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        (b"/new", "/new"), (b"new", "/a/b/new"), (b"./new", "/a/b/new"), (b"../new", "/a/new"),
        (b"../../../new", "/new"), (b"?q=1", "/a/b/c?q=1"), (b"#part", "/a/b/"), (b"/d#part", "/d"), (b".", "/a/b/"),
        (b"..", "/a/"), (b"//other:81/x", "http://other:81/x"), (b"http:/other/x", "http://other/x"),
        (b"HTTP://host/U", "/U"), (b"https://other", "https://other/"), (b"http://other?x", "http://other/?x"),
        (b"/sp ace?a b", "/sp%20ace?a+b"), (b"/\xe9?\xe9", "/%e9?%e9"), (b"/%e9%2f%7E", "/%e9%2f%7E"),
        (b"/\"<>{}|\\^`", "/\"<>{}|\\^`"), (b"/x:y", "/x:y"), (b"d?e/../f", "/a/b/d?e/../f"),
    ],
)  # fmt: skip
def test_a_location_is_read_as_curl_reads_it(location: bytes, leads_to: str) -> None:
    found = join_target(parse_target("http://host/a/b/c?q=0"), location)
    assert f"{str(found.origin).removesuffix('/')}{found.path}".removeprefix("http://host") == leads_to


@pytest.mark.parametrize("location", [b"ftp://host/", b"x:y", b"http:x", b"/a\tb", b"http://", b"http://\xff/"])
def test_a_location_that_leads_nowhere(location: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the caller has the words
        join_target(parse_target("http://host/"), location)


@pytest.mark.parametrize("host", ["\ufdfa" * 30_000, "é." * 600, "a" * 2000, "%c3%a9" * 200])
def test_a_host_that_is_too_long_is_not_converted(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = parse_target("http://h/")
    monkeypatch.delattr("scheduledjob.jobs.curl.target.URL")  # it would take seconds
    with pytest.raises(ValueError, match="a host that is too long"):
        join_target(base, f"http://{host}/".encode())


@asynccontextmanager
async def conversing(answers: Callable[[int, int], bytes | None]) -> AsyncIterator[tuple[int, list[tuple[int, bytes]]]]:
    """A server whose answer depends on the connection and the request on it, from 0; None: it hangs up.

    An answer that has ``Connection: silently-closed`` in it is followed by the end of the connection. Yields the port,
    and what was received: the connection and the head of each request.
    """
    requests: list[tuple[int, bytes]] = []
    connections = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        mine, connections, count = connections, connections + 1, 0
        try:
            while True:
                requests.append((mine, await reader.readuntil(b"\r\n\r\n")))
                answer = answers(mine, count)
                count += 1
                writer.write(answer or b"")
                await writer.drain()
                if answer is None or b"silently-closed" in answer:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1], requests


async def test_headers_are_sent_as_they_were_written() -> None:
    async with conversing(lambda _, __: FIRST + OK) as (port, requests):
        headers = {"x-lower": Value("a  b"), "X-MiXeD": Value("é"), "host": Value("virtual"), "ACCEPT": Value("x/y")}
        await run(CurlSpec(f"http://127.0.0.1:{port}/%7e", headers=headers))
        await run(CurlSpec(f"http://127.0.0.1:{port}", "POST"))
    lines = requests[0][1].split(b"\r\n")
    assert lines[0] == b"GET /%7e HTTP/1.1"
    assert {b"x-lower: a  b", "X-MiXeD: é".encode(), b"host: virtual", b"ACCEPT: x/y"} <= set(lines)
    assert sum(line.lower().startswith((b"host:", b"accept:")) for line in lines) == 2
    lines = requests[1][1].split(b"\r\n")
    assert {b"POST / HTTP/1.1", b"Host: 127.0.0.1:%d" % port, b"Content-Length: 0", b"Accept: */*"} <= set(lines)


async def test_values_of_secrets_are_sent_byte_for_byte() -> None:
    value = Value(secret=("s", "key"))
    async with serving() as server:
        spec = CurlSpec(server.url(), "POST", body=Value(secret=("s", "body")), headers={"X-Key": value})
        spec.basic_username, spec.basic_password = Value("u"), value
        known = Known(key=b"caf\xe9 \xff\x80", body=b"\x89PNG\r\n\0\xff\n")
        result = await run(spec, references=known)
        assert result.ok, result.reason
        assert server.requests[0][3] == b"\x89PNG\r\n\0\xff\n"
        assert server.headers["x-key"].encode(errors="surrogateescape") == b"caf\xe9 \xff\x80"
        assert server.headers["authorization"] == "Basic " + base64.b64encode(b"u:caf\xe9 \xff\x80").decode()
        spec = CurlSpec(server.url(), bearer=value)
        assert (await run(spec, references=known)).ok
        assert server.headers["authorization"].encode(errors="surrogateescape") == b"Bearer caf\xe9 \xff\x80"
    result = await run(CurlSpec("https://127.0.0.1:1/", ca=value), references=known)
    assert result.reason == "tls.ca: Secret s, key key: byte 3 is not UTF-8 text"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_on_a_connection_that_the_server_closes_is_followed(method: str, status: int) -> None:
    def answer(connection: int, _: int) -> bytes:
        if connection:
            return FIRST + OK
        return b"HTTP/1.1 %d X\r\nX: silently-closed\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n" % status

    async with conversing(answer) as (port, requests):
        result = await run(CurlSpec(f"http://127.0.0.1:{port}/old", method))
    assert result.ok, result.reason
    assert [head.split()[1] for _, head in requests][-1] == b"/new"


def test_long_headers_are_read_in_linear_time() -> None:
    # With quadratic steps, each of these would take from seconds to minutes.
    long = 100_000
    values = [b"0" * long + b"x", b"5" + b" " * long + b"x", b"Mon, " * (long // 5), b"(" * long, b"9" * long]
    for value in values:
        head = Head(503, headers={b"retry-after": [value], b"date": [value]})
        assert retry_after(head) in (None, 0, 5 * SECOND, 366 * 86_400 * SECOND)
    lists = {name: [b",a" * (long // 2)] for name in (b"connection", b"transfer-encoding", b"content-encoding")}
    assert len(Head(200, headers=lists).tokens(b"content-encoding")) <= 4096
    assert framing_of(Head(200, headers={b"content-length": [b"2," * (long // 2)]}), "GET").length == 2


REDIRECT_BODIES = {
    "too few bytes": b"Content-Length: 20\r\n\r\nok",
    "too few bytes, then silence": b"Content-Length: 20\r\nX: open\r\n\r\nok",
    "no length, then silence": b"X: open\r\n\r\nok",
    "chunks without an end": b"Transfer-Encoding: chunked\r\n\r\n5\r\nok",
    "chunks without a size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok",
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok",
    "a length that is not a number": b"Content-Length: x\r\n\r\nok",
    "more than is skipped": b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,
    "a wrong coding": b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("close", [b"", b"Connection: x, Close\r\n"])
@pytest.mark.parametrize("body", REDIRECT_BODIES.values(), ids=REDIRECT_BODIES.keys())
async def test_a_redirect_is_followed_whatever_its_body(body: bytes, close: bytes) -> None:
    silent = b"" if b"open" in body else b"X: silently-closed\r\n"

    def answer(connection: int, _: int) -> bytes:
        return FIRST + OK if connection else b"HTTP/1.1 302 X\r\nLocation: /new\r\n" + close + silent + body

    async with conversing(answer) as (port, requests):
        result = await run(CurlSpec(f"http://127.0.0.1:{port}/"), timeout=30.0)
    assert (result.ok, result.output) == (True, b"ok"), result.reason
    assert requests[-1][1].startswith(b"GET /new ")


@pytest.mark.parametrize("status", [300, 305, 306, 309, 399])
async def test_every_status_3xx_with_a_location_is_a_redirect(status: int) -> None:
    def answer(_: int, count: int) -> bytes:
        return FIRST + OK if count else b"HTTP/1.1 %d X\r\nLocation:\r\nLocation: /new\r\n" % status + OK

    async with conversing(answer) as (port, requests):
        assert (await run(CurlSpec(f"http://127.0.0.1:{port}/"))).ok
    assert [head.split()[1] for _, head in requests] == [b"/", b"/new"]


async def test_not_modified_is_an_answer_also_with_a_location() -> None:  # curl follows it
    async with bare(b"HTTP/1.1 304 X\r\nLocation: /new\r\n\r\n") as server:
        assert (await run(CurlSpec(server.url, expect_status=("304",)))).code == 304


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_connection_that_dies_when_it_is_used_again_is_replaced(method: str) -> None:
    def answer(connection: int, count: int) -> bytes | None:
        return None if count and connection == 0 else FIRST + b"Content-Length: 0\r\n\r\n"

    async with conversing(answer) as (port, requests), executor() as made:
        assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))).ok
        result = await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/", method)))
    assert result.ok, result.reason
    assert [connection for connection, _ in requests] == [0, 0, 1]


async def test_a_farewell_on_an_idle_connection_is_not_the_answer() -> None:
    farewell = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nX: silently-closed\r\nContent-Length: 0\r\n\r\n"

    def answer(connection: int, count: int) -> bytes:
        return farewell if count and connection == 0 else FIRST + b"Content-Length: 0\r\n\r\n"

    async with conversing(answer) as (port, requests), executor() as made:
        for _ in range(2):
            assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))).ok
    assert [connection for connection, _ in requests] == [0, 0, 1]
    async with conversing(lambda _, __: farewell) as (port, requests):
        assert (await run(CurlSpec(f"http://127.0.0.1:{port}/"))).code == 408
    assert len(requests) == 1


async def test_an_interface_that_does_not_exist_has_a_reason() -> None:
    result = await run(CurlSpec("http://[fe80::1%25nosuch0]:1/"))
    assert result.reason.startswith("can't connect to ")


async def test_a_request_is_repeated_once_and_only_if_no_byte_of_a_response_came() -> None:
    def never_again(connection: int, count: int) -> bytes | None:
        return FIRST + b"Content-Length: 0\r\n\r\n" if connection == count == 0 else None

    async with conversing(never_again) as (port, requests), executor() as made:
        assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))).ok
        result = await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))
        assert result.reason == f"127.0.0.1:{port} closed the connection before it answered"
    assert [connection for connection, _ in requests] == [0, 0, 1]

    def half(_: int, count: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nX: silently-closed" if count else FIRST + b"Content-Length: 0\r\n\r\n"

    async with conversing(half) as (port, requests), executor() as made:
        assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))).ok
        assert not (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))).ok
    assert [connection for connection, _ in requests] == [0, 0]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_request_that_may_not_be_repeated_has_a_connection_of_its_own(method: str) -> None:
    async with conversing(lambda _, __: FIRST + OK) as (port, requests), executor() as made:
        for _ in range(3):
            assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/", method)))).ok
        assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/")))).ok
    assert [connection for connection, _ in requests] == [0, 1, 2, 2]


async def test_namespaces_share_no_connection() -> None:
    async with conversing(lambda _, __: FIRST + OK) as (port, requests), executor() as made:
        for namespace in ("team-a", "team-b", "team-a"):
            assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/"), namespace=namespace))).ok
    assert [connection for connection, _ in requests] == [0, 1, 0]


async def test_a_body_after_head_is_not_taken_for_the_next_response() -> None:
    async with conversing(lambda _, __: FIRST + OK) as (port, requests), executor() as made:
        for method in ("HEAD", "HEAD", "GET"):
            assert (await made.run(attempt(CurlSpec(f"http://127.0.0.1:{port}/", method)))).ok
    assert [connection for connection, _ in requests] == [0, 1, 2]


async def test_an_empty_location_is_the_answer() -> None:
    for location in (b"", b"  "):
        async with bare(b"HTTP/1.1 302 X\r\nLocation:" + location + b"\r\nContent-Length: 0\r\n\r\n") as server:
            assert (await run(CurlSpec(server.url))).reason == "HTTP 302, expected 2xx"
            assert server.connections == 1


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 20\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nok", b"Content-Length: x\r\n\r\nok",
        b"Content-Encoding: gzip\r\nContent-Length: 20\r\n\r\nok",
    ],
)  # fmt: skip
async def test_a_status_that_is_no_success_counts_whatever_its_body(body: bytes) -> None:
    async with bare(b"HTTP/1.1 503 X\r\nRetry-After: 7\r\n" + body) as server:
        result = await run(CurlSpec(server.url))
        assert (result.ok, result.code, result.reason) == (False, 503, "HTTP 503, expected 2xx")
        assert result.retry_after == 7 * SECOND
        # A success needs its whole body.
        assert (await run(CurlSpec(server.url, expect_status=("503",)))).code is None


async def test_an_answer_before_the_whole_body_was_read_counts() -> None:
    async with bare(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", keep_open=True) as server:
        result = await run(CurlSpec(server.url, "POST"), payload=b"x" * (16 << 20), timeout=30.0)
    assert (result.code, result.output) == (413, b"no")
