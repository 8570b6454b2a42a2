"""HTTP jobs with a real server: what is sent, what counts as success, and reasons of failures."""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import NoReturn, cast

import pytest
from aiohttp import web

from scheduledjob.engine.executor import OUTPUT_LIMIT, Value
from scheduledjob.jobs.curl.body import BODY_LIMIT
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from tests.jobs.curl_support import Handler, Known, attempt, bare, executor, run, serving


def answering(status: int = 200, body: bytes = b"ok", **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return handler


async def test_headers_describe_the_attempt_and_success_keeps_status_and_output() -> None:
    async with serving() as server:
        result = await run(CurlSpec(server.url("/a?b=c")))
    assert (result.ok, result.reason, result.code, result.output, result.complete) == (True, "", 200, b"ok", False)
    method, path, headers, body = server.requests[0]
    assert (method, path, body) == ("GET", "/a?b=c", b"")
    own = {name: value for name, value in headers.items() if name.startswith("x-scheduledjob") or "idem" in name}
    assert own == {
        "x-scheduledjob-name": "report",
        "x-scheduledjob-namespace": "team-a",
        "x-scheduledjob-uid": "uid-1",
        "x-scheduledjob-slot": "2026-12-01T10:00:00Z",
        "x-scheduledjob-attempt": "2",
        "x-scheduledjob-run-id": "run-7",
        "x-scheduledjob-version": "41",
        "idempotency-key": "run-7",
    }
    assert "accept-encoding" not in headers
    assert "content-type" not in headers


async def test_the_payload_is_the_body_and_never_in_a_header() -> None:
    async with serving() as server:
        await run(CurlSpec(server.url(), "POST"), payload=b'{"region": "eu"}')
        await run(CurlSpec(server.url(), "POST", body=Value("given")), payload=b"region")
        await run(CurlSpec(server.url(), "POST", body=Value("")), payload=b"region")
        await run(CurlSpec(server.url(), "post"))
    assert [(method, body) for method, _, _, body in server.requests] == [
        ("POST", b'{"region": "eu"}'), ("POST", b"given"), ("POST", b""), ("POST", b""),
    ]  # fmt: skip
    assert not any("region" in value for _, _, headers, _ in server.requests for value in headers.values())


async def test_headers_of_the_user_replace_ours_whatever_their_case() -> None:
    headers = {"idempotency-key": Value("mine"), "User-agent": Value("agent/1"), "X-SCHEDULEDJOB-NAME": Value("n")}
    async with serving() as server:
        await run(CurlSpec(server.url(), headers=headers | {"X-Absent": Value(secret=("s", "no"), optional=True)}))
    assert server.headers["idempotency-key"] == "mine"
    assert server.headers["user-agent"] == "agent/1"
    assert server.headers["x-scheduledjob-name"] == "n"
    assert "x-absent" not in server.headers


async def test_a_slug_that_no_header_can_hold_is_percent_encoded() -> None:
    async with serving() as server:
        await run(CurlSpec(server.url()), name="é 1%\r\nX-Evil: 1", run_id="a\nb")
    assert server.headers["x-scheduledjob-name"] == "%C3%A9 1%%0D%0AX-Evil: 1"
    assert server.headers["idempotency-key"] == "a%0Ab"
    assert "x-evil" not in server.headers


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (CurlSpec("ftp://host/"), "url: write http://host/path or https://host/path"),
        (CurlSpec("http:///path"), "url: write http://host/path or https://host/path"),
        (CurlSpec("http://host:99999/"), "url: write http://host/path or https://host/path"),
        (CurlSpec("http://user:pass word@"), "url: write http://host/path or https://host/path"),
        (CurlSpec("http://h/", "GE T"), 'method "GE T" can\'t be used: write one such as GET or POST'),
        (CurlSpec("http://h/", "CONNECT"), 'method "CONNECT" can\'t be used: write one such as GET or POST'),
        (CurlSpec("http://h/", headers={"A b": Value("c")}), 'header "A b" can\'t be set: leave it out'),
        (CurlSpec("http://h/", headers={"Content-Length": Value("1")}), 'header "Content-Length" can\'t be set: '),
        (CurlSpec("http://h/", headers={"X": Value("a\r\nb")}), "header X: its value has a line break or another "),
        (CurlSpec("http://h/", headers={"X": Value("a\0b")}), "header X: its value has a line break or another "),
        (CurlSpec("http://h/", headers={"X": Value(secret=("s", "k"))}), "header X: Secret s, key k: there are no "),
        (CurlSpec("http://h/", body=Value(config_map=("c", "k"))), "body: ConfigMap c, key k: there are no "),
        (CurlSpec("http://h/", basic_username=Value("a:b")), "auth.basic: a user name can't contain a colon"),
        (CurlSpec("http://h/", expect_body="("), 'expect.bodyRegex "(": missing ): (; it is RE2 syntax'),
        (CurlSpec("http://h/", expect_body="(?=a)"), 'expect.bodyRegex "(?=a)": invalid perl operator: (?='),
        (CurlSpec("http://h/", expect_body="a{999}" * 3), f'expect.bodyRegex "{"a{999}" * 3}": it is too large'),
        (CurlSpec("http://h/", expect_status=("20x",)), 'expect.status "20x": write a status such as 200, or a '),
    ],
)  # fmt: skip
async def test_what_can_not_be_requested_says_which_field_and_what_to_write(spec: CurlSpec, reason: str) -> None:
    result = await run(spec)
    assert not result.ok
    assert result.reason.startswith(reason)


async def test_basic_and_bearer_authorization_and_credentials_in_the_url() -> None:
    known = Known(password=b"p\xc3\xa4ss:word\n", token=b"t0ken\n")
    password = Value(secret=("s", "password"))
    async with serving() as server:
        await run(CurlSpec(server.url(), basic_username=Value("user"), basic_password=password), references=known)
        assert server.headers["authorization"] == "Basic " + base64.b64encode("user:päss:word".encode()).decode()
        await run(CurlSpec(server.url(), bearer=Value(secret=("s", "token"))), references=known)
        assert server.headers["authorization"] == "Bearer t0ken"
        result = await run(CurlSpec(f"http://me:secret@127.0.0.1:{server.port}/"))
        assert result.ok
        assert server.headers["authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
        await run(CurlSpec(server.url(), headers={"authorization": Value("own")}, bearer=Value("b")))
        assert server.headers["authorization"] == "own"


@pytest.mark.parametrize(
    ("patterns", "status", "ok"),
    [
        (("2xx",), 200, True), (("2xx",), 204, True), (("2XX",), 299, True), (("2xx",), 199 + 101, False),
        (("200",), 201, False), (("404", "5xx"), 404, True), (("404", "5xx"), 503, True), (("404", "5xx"), 200, False),
    ],
)  # fmt: skip
async def test_expected_statuses(patterns: tuple[str, ...], status: int, ok: bool) -> None:
    async with serving(answering(status, b"")) as server:
        result = await run(CurlSpec(server.url(), expect_status=patterns))
    assert (result.ok, result.code) == (ok, status)
    if not ok:
        assert result.reason == f"HTTP {status}, expected {' or '.join(patterns)}"


async def test_a_completing_status_succeeds_and_completes_whatever_else_is_expected() -> None:
    async with serving(answering(410, b"gone")) as server:
        result = await run(CurlSpec(server.url(), complete_status=frozenset({410}), expect_body="never"))
    assert (result.ok, result.complete, result.code, result.output, result.reason) == (True, True, 410, b"gone", "")


@pytest.mark.parametrize(
    ("pattern", "body", "ok"),
    [
        ("^ok$", b"ok", True), ("done", b"not yet", False), ("é", "caf\u00e9".encode(), True),
        ("end$", b"\xff\xfe end", True), ("(?i)OK", b"it is ok", True), ("(a+)+$", b"a" * 200_000 + b"b", False),
        ("[ab]*a[ab]{500}c", b"ab" * 1000, False), ("[ab]*a[ab]{501}c", b"ab" * 1000 + b"c", True),
    ],
)  # fmt: skip
async def test_a_pattern_is_searched_in_the_body(pattern: str, body: bytes, ok: bool) -> None:
    async with serving(answering(body=body)) as server:
        result = await run(CurlSpec(server.url(), expect_body=pattern))
    assert result.ok is ok
    if not ok:
        assert result.reason == f'HTTP 200, but nothing in the body matches expect.bodyRegex "{pattern}"'


async def test_a_body_is_read_to_its_limit_and_its_head_and_tail_are_kept() -> None:
    async with serving(answering(body=b"first" + b"x" * BODY_LIMIT + b"needle")) as server:
        result = await run(CurlSpec(server.url(), expect_body="needle"))
        assert result.reason == (
            'HTTP 200, but nothing in the body in its first 1 MiB matches expect.bodyRegex "needle"'
        )
        assert (await run(CurlSpec(server.url()))).ok
    async with serving(answering(body=b"first" + b"x" * (BODY_LIMIT - 11) + b"needle")) as server:
        result = await run(CurlSpec(server.url(), expect_body="needle"))
        assert result.ok
        assert OUTPUT_LIMIT - 64 < len(result.output) <= OUTPUT_LIMIT
        assert result.output.startswith(b"firstx")
        assert result.output.endswith(b"xneedle")
        assert b"bytes left out ...]" in result.output
        assert (await run(CurlSpec(server.url()))).output == result.output


async def test_a_body_without_end_is_cut_off_and_its_connection_closed() -> None:
    async with (
        bare(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (BODY_LIMIT + 100_000), keep_open=True) as server,
        executor() as made,
    ):
        assert (await made.run(attempt(CurlSpec(server.url)))).ok
        async with asyncio.timeout(10):
            await server.closed.wait()


@pytest.mark.parametrize(
    "filler", [0, OUTPUT_LIMIT - 3, OUTPUT_LIMIT - 10, BODY_LIMIT - OUTPUT_LIMIT - 5, BODY_LIMIT - 4]
)
async def test_secrets_are_masked_in_output_also_where_it_is_cut(filler: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(text="x" * filler + request.headers["authorization"].split()[1] + "y" * (OUTPUT_LIMIT - 5))

    async with serving(echo) as server:
        known = Known(token=b"s3cr3t-t0ken")
        result = await run(CurlSpec(server.url(), bearer=Value(secret=("s", "token"))), references=known)
        assert not any(part in result.output for part in (b"s3cr", b"t0ken", b"r3t", b"ken"))
        assert len(result.output) <= OUTPUT_LIMIT
        password = Value(secret=("s", "token"))
        result = await run(CurlSpec(server.url(), basic_username=Value("u"), basic_password=password), references=known)
        assert base64.b64encode(b"u:s3cr3t-t0ken")[-8:] not in result.output


async def test_a_payload_from_a_secret_is_masked() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=f"<{await request.text()}>")

    async with serving(echo) as server:
        result = await run(CurlSpec(server.url(), "POST"), payload=b"s3cr3t-t0ken", payload_is_secret=True)
    assert result.output == b"<***>"


async def test_secrets_are_masked_in_reasons() -> None:
    spec = CurlSpec("http://127.0.0.1/", headers={"X": Value(secret=("s", "k"))}, expect_body="hunter2(")
    result = await run(spec, references=Known(k=b"hunter2"))
    assert result.reason == 'expect.bodyRegex "***(": missing ): ***(; it is RE2 syntax'


async def test_a_timeout_closes_the_connection_and_says_how_long_it_was() -> None:
    async with bare(b"", keep_open=True) as server, executor() as made:
        result = await made.run(attempt(CurlSpec(server.url), timeout=1.0))
        words = f"timed out after 1s, waiting for the response of 127.0.0.1:{server.port}"
        assert (result.ok, result.reason, result.code) == (False, words, None)
        async with asyncio.timeout(10):
            await server.closed.wait()


async def test_a_timeout_says_in_which_phase_it_came() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        held.append(writer)

    held: list[asyncio.StreamWriter] = []
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    async with (
        await asyncio.start_server(ignore, "127.0.0.1", 0) as listener,
        bare(half[:9], keep_open=True) as begins,
        bare(half, keep_open=True) as sends_half,
    ):
        silent = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        cases = {
            f"waiting for the response of {silent}": CurlSpec(f"http://{silent}/"),
            f"waiting for the response of 127.0.0.1:{begins.port}": CurlSpec(begins.url),
            f"receiving the response of 127.0.0.1:{sends_half.port}": CurlSpec(sends_half.url),
            f"in the TLS handshake with {silent}": CurlSpec(f"https://{silent}/"),
            f"sending the request to {silent}": CurlSpec(f"http://{silent}/", "PUT"),
            f"waiting for the response of the proxy {silent}": CurlSpec("https://a.example/", proxy=f"http://{silent}"),
        }
        results = await asyncio.gather(
            *(
                run(spec, timeout=2.0, payload=b"x" * (8 << 20 if spec.method == "PUT" else 0))
                for spec in cases.values()
            )
        )
        assert [result.reason for result in results] == [f"timed out after 2s, {words}" for words in cases]
        for writer in held:
            writer.transport.abort()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"])
async def test_cancelling_closes_the_connection(answer: bytes) -> None:
    async with bare(answer, keep_open=True) as server, executor() as made:
        running = asyncio.create_task(made.run(attempt(CurlSpec(server.url), timeout=60.0)))
        async with asyncio.timeout(10):
            await server.reached.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await server.closed.wait()


async def test_a_refused_connection_an_unknown_name_and_an_impossible_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert (await run(CurlSpec(f"http://127.0.0.1:{port}/"))).reason == f"connection refused by 127.0.0.1:{port}"
    result = await run(CurlSpec(f"http://{'a' * 64}.example/"))
    assert result.reason.endswith(
        "can't be resolved: it is not a host name: a label in it is empty or longer than 63 characters"
    )

    def unknown(*arguments: object, **options: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("scheduledjob.jobs.curl.resolver.socket.getaddrinfo", unknown)
    result = await run(CurlSpec("http://user:pass@nowhere.example/path?token=1"))
    assert result.reason == 'the name "nowhere.example" can\'t be resolved: no such host'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 20", "ended early"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "sent something that is not an HTTP response: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "ended early"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "sent something that is not an HTTP response: ",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 110_000 + b"\r\n\r\n", "sent something that is not an HTTP response: "),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_broken_response_has_a_reason_and_nothing_is_sent_twice(answer: bytes, words: str, method: str) -> None:
    async with bare(answer) as server:
        result = await run(CurlSpec(server.url, method))
    assert not result.ok
    assert words in result.reason
    assert f"127.0.0.1:{server.port}" in result.reason
    assert server.connections == 1


async def test_connections_are_reused_and_cookies_are_not() -> None:
    peers = set()

    async def note(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="x" * 10_000, headers={"Set-Cookie": "a=b"})

    async with serving(note) as server, executor() as made:
        for _ in range(5):
            assert (await made.run(attempt(CurlSpec(server.url(host="localhost"))))).ok
    assert len(peers) == 1
    assert not any("cookie" in headers for _, _, headers, _ in server.requests)


async def test_many_attempts_are_in_flight_at_once() -> None:
    waiting, everybody = 0, asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 150:
            everybody.set()
        await everybody.wait()
        return web.Response()

    async with serving(hold) as server, executor() as made, asyncio.timeout(30), asyncio.TaskGroup() as group:
        runs = [group.create_task(made.run(attempt(CurlSpec(server.url())))) for _ in range(150)]
    assert all(done.result().ok for done in runs)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    async with serving() as server:
        assert (await run(CurlSpec(server.url()))).ok


async def test_head_and_compressed_answers() -> None:
    async with serving() as server:
        assert (await run(CurlSpec(server.url(), "HEAD"))).output == b""
    packed = b"\x1f\x8b whatever it is"
    headers = {"Content-Encoding": "gzip"}

    async def compressed(request: web.Request) -> web.Response:
        return web.Response(body=packed, headers=headers)

    async with serving(compressed) as server:
        assert (await run(CurlSpec(server.url()))).output == packed


DATE = b"Date: Tue, 01 Dec 2026 10:00:00 GMT\r\n"


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, b"120", 120), (503, b"120", 120), (503, b" 0 ", 0), (500, b"120", None), (503, b"soon", None),
        (503, b"-1", None), (503, b"", None), (503, b"9" * 20, 366 * 86_400),
        (503, b"9" * 4000, 366 * 86_400), (503, b"1.5", 2), (503, b"2.0", 2), (503, b"+5", None), (503, b"1e3", None),
        (429, b"120, 60", 120), (429, b"120; x", 120), (429, b"30 seconds", 30), (429, b"7s", 7), (429, b"007", 7),
        (503, b"Tue, 01 Dec 2026 10:00:30 GMT", 30), (429, b"Tue, 01 Dec 2026 09:00:00 GMT", 0),
        (429, b"Tuesday, 01-Dec-26 10:01:00 GMT", 60), (429, b"Tue Dec  1 10:01:00 2026", 60),
        (429, b"Tue, 01 Dec 9999999 10:00:30 GMT", None), (429, b"\xff", None),
    ],
)  # fmt: skip
async def test_how_long_a_server_asks_to_wait(status: int, value: bytes, seconds: int | None) -> None:
    answer = b"HTTP/1.1 %d X\r\n%sRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % (status, DATE, value)
    async with bare(answer) as server:
        result = await run(CurlSpec(server.url))
    assert result.code == status
    assert result.retry_after == (None if seconds is None else seconds * 1_000_000)
