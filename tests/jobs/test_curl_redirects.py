"""Redirects: the next request, what is sent to another host, and which addresses a hop may have."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from aiohttp import web

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.addresses import AddressFilter
from scheduledjob.jobs.curl.curl_executor import MAX_REDIRECTS
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from tests.jobs.curl_support import Handler, Known, attempt, bare, executor, run, serving


def redirecting(to: str, status: int = 302) -> Handler:
    """Redirects everything but ``/end``."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/end":
            return web.Response(text="the end")
        return web.Response(status=status, text="elsewhere", headers={"Location": to})

    return handler


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
async def test_method_and_body_of_the_next_request(status: int, method: str) -> None:
    headers = {"Content-Type": Value("text/plain"), "X-Own": Value("1")}
    async with serving(redirecting("/end", status)) as server:
        result = await run(CurlSpec(server.url("/a/b"), method, headers=headers), payload=b"body")
    assert (result.ok, result.code) == (True, 200)
    becomes_get = method == "POST" if status in (301, 302) else status == 303 and method != "HEAD"
    sent, path, headers_sent, body = server.requests[-1]
    assert path == "/end"
    assert (sent, body) == (("GET", b"") if becomes_get else (method, b"body"))
    assert ("content-type" in headers_sent) is not becomes_get
    assert headers_sent["x-own"] == "1"
    assert headers_sent["idempotency-key"] == "run-7"


async def test_without_follow_redirects_the_redirect_is_the_answer() -> None:
    async with serving(redirecting("/end")) as server:
        result = await run(CurlSpec(server.url(), follow_redirects=False))
        assert (result.ok, result.code, result.reason) == (False, 302, "HTTP 302, expected 2xx")
        assert (await run(CurlSpec(server.url(), follow_redirects=False, expect_status=("302",)))).ok
    assert len(server.requests) == 2


async def test_a_redirect_without_location_is_the_answer() -> None:
    async with bare(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n") as server:
        assert (await run(CurlSpec(server.url))).reason == "HTTP 302, expected 2xx"


async def test_the_number_of_redirects_is_limited() -> None:
    async with serving(redirecting("/again")) as server:
        result = await run(CurlSpec(server.url()))
    assert result.reason == f"more than 50 redirects, the last to 127.0.0.1:{server.port}"
    assert result.code == 302
    assert len(server.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["ftp://host/", "file:///etc/passwd", "http://h:99999/", "javascript:x"])
async def test_a_redirect_to_an_invalid_url_is_refused(location: str) -> None:
    async with serving(redirecting(location)) as server:
        result = await run(CurlSpec(server.url()))
    assert result.reason == f"127.0.0.1:{server.port} redirected to something that is not an http or https URL"


async def test_everything_is_sent_to_the_same_origin() -> None:
    async with serving(redirecting("/end")) as server:
        spec = CurlSpec(server.url(), headers={"X-Key": Value(secret=("s", "key")), "Cookie": Value("c=1")})
        spec.bearer = Value("token")
        await run(spec, references=Known(key=b"k"))
    for _, _, headers, _ in server.requests:
        assert (headers["authorization"], headers["x-key"], headers["cookie"]) == ("Bearer token", "k", "c=1")


async def test_what_is_meant_for_a_host_is_sent_to_no_other_and_not_on_the_way_back() -> None:
    async with serving() as other, serving(redirecting(other.url("/there"))) as first:
        spec = CurlSpec(first.url(), "POST")
        spec.headers = {
            "x-KEY": Value(secret=("s", "key")), "Cookie": Value("c=1"), "Proxy-Authorization": Value("p"),
            "Host": Value("virtual"), "X-Plain": Value("1"),
        }  # fmt: skip
        spec.basic_username, spec.basic_password = Value("u"), Value("p")
        assert (await run(spec, references=Known(key=b"k"))).ok
        assert first.headers["x-key"] == "k"
        assert first.headers["host"] == "virtual"
        for name in ("x-key", "cookie", "proxy-authorization", "authorization"):
            assert name not in other.headers
        assert other.headers["host"] == f"127.0.0.1:{other.port}"
        assert other.headers["x-plain"] == "1"

        async def back(request: web.Request) -> web.Response:
            return web.Response(status=302, headers={"Location": first.url("/end")})

        async with serving(back) as between, serving(redirecting(between.url(), 307)) as begin:
            spec.url = begin.url()
            await run(spec, references=Known(key=b"k"))
            assert first.requests[-1][1] == "/end"
            assert "authorization" not in first.headers


async def test_a_redirect_back_to_the_first_host_leads_to_the_same_virtual_host() -> None:
    async def there(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": first.url("/end")})

    async with serving(there) as other, serving(redirecting(other.url("/there"))) as first:
        spec = CurlSpec(first.url(), headers={"Host": Value("virtual"), "Cookie": Value("c=1")})
        assert (await run(spec)).ok
    assert other.headers["host"] == f"127.0.0.1:{other.port}"
    assert first.requests[-1][1] == "/end"
    assert first.headers["host"] == "virtual"
    assert "cookie" not in first.headers


async def test_a_redirect_that_gives_credentials_is_followed_without_them() -> None:
    async with serving() as other, serving(redirecting(f"http://evil:pw@127.0.0.1:{other.port}/")) as first:
        await run(CurlSpec(first.url()))
    assert "authorization" not in other.headers


@pytest.mark.parametrize("where", ["body", "payload"])
@pytest.mark.parametrize("status", [302, 307])
async def test_a_body_from_a_secret_is_sent_to_no_other_host(status: int, where: str) -> None:
    async with serving() as other, serving(redirecting(other.url(), status)) as first:
        if where == "body":
            spec = CurlSpec(first.url(), "POST", body=Value(secret=("s", "key")))
            result = await run(spec, references=Known(key=b"k3y-material"))
        else:
            result = await run(CurlSpec(first.url(), "POST"), payload=b"k3y-material", payload_is_secret=True)
        if status == 302:  # it becomes a GET, without a body
            assert result.ok
            assert other.requests[0][3] == b""
        else:
            assert result.reason.startswith(f"redirected to 127.0.0.1:{other.port}: ") is False
            assert "a body from a Secret is not sent to another host" in result.reason
            assert not other.requests
        assert (await run(CurlSpec(first.url(), "POST"), payload=b"p")).ok


async def test_an_error_after_a_redirect_says_where_it_led() -> None:
    async with bare(b"") as other, serving(redirecting(other.url)) as first:
        result = await run(CurlSpec(first.url()))
    where = f"127.0.0.1:{other.port}"
    assert result.reason == f"redirected to {where}: {where} closed the connection before it answered"


LOOPBACK = [
    "127.0.0.1", "localhost", "LOCALHOST", "0x7f.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]",
    "①②⑦.⓪.⓪.①",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
async def test_the_filter_checks_the_address_however_it_is_written(host: str) -> None:
    async with serving() as server:
        result = await run(CurlSpec(f"http://{host}:{server.port}/"), AddressFilter())
        assert not result.ok
        assert "which HTTP jobs may not reach here" in result.reason
        assert not server.requests


@pytest.mark.parametrize("host", ["2130706433", "127.1", "017700000001", "0177.0.0.1", "127.0.0.1."])
async def test_numbers_that_only_some_programs_take_for_an_address_are_refused(host: str) -> None:
    async with serving() as server:
        for addresses in (None, AddressFilter()):
            result = await run(CurlSpec(f"http://{host}:{server.port}/"), addresses)
            assert result.reason.startswith(f'url: "{host}" is not a canonical IPv4 address: write ')
        assert not server.requests


async def test_a_name_that_resolves_to_a_refused_address_is_refused() -> None:
    async with serving() as server, executor(AddressFilter(), rebound_example=["127.0.0.1"]) as made:
        result = await made.run(attempt(CurlSpec(server.url(host="rebound.example"))))
        assert result.reason.startswith("127.0.0.1 is a loopback address, which HTTP jobs may not reach here: ")
        assert not server.requests


async def test_a_name_that_changes_its_address_is_checked_at_each_connection() -> None:
    # Allowed at first, so that the connection is made; then the name has another address.
    names = {"rebound_example": ["127.0.0.1", "127.0.0.2"]}
    async with serving() as server, executor(AddressFilter(["127.0.0.1"]), **names) as made:
        assert (await made.run(attempt(CurlSpec(server.url(host="rebound.example"))))).ok
        # Another port is another entry in the connector's cache of names, so it is looked up again.
        result = await made.run(attempt(CurlSpec("http://rebound.example:1/")))
        assert result.reason.startswith("127.0.0.2 is a loopback address")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "internal.example"])
async def test_every_hop_is_checked(host: str) -> None:
    names = {"public_example": ["127.0.0.1"], "internal_example": ["127.0.0.1"]}
    async with serving() as inside, serving(redirecting(inside.url("/end", host))) as outside:
        async with executor(AddressFilter(["public.example"]), **names) as made:
            result = await made.run(attempt(CurlSpec(outside.url(host="public.example"))))
        assert not result.ok
        # Python 3.13 writes the second half of an IPv4-mapped address as an IPv4 address.
        shown = f"[{IPv6Address(host.strip('[]'))}]" if ":" in host else host
        assert result.reason.startswith(f"redirected to {shown}:{inside.port}: ")
        assert "which HTTP jobs may not reach here" in result.reason
        assert len(outside.requests) == 1
        assert not inside.requests


async def test_what_the_administrator_allows_can_be_reached() -> None:
    async with serving() as server:
        assert (await run(CurlSpec(server.url()), AddressFilter(["127.0.0.0/8"]))).ok
        assert (await run(CurlSpec(server.url(host="localhost")), AddressFilter(["localhost"]))).ok
        assert not (await run(CurlSpec(server.url()), AddressFilter(["localhost"]))).ok


async def test_a_host_that_is_allowed_by_name_may_not_lead_to_the_api_server() -> None:
    async with serving() as server:
        addresses = AddressFilter(["localhost"])
        port = server.port
        addresses.close_api_server([("127.0.0.1", port + 1)])
        assert (await run(CurlSpec(server.url(host="localhost")), addresses)).ok
        addresses.close_api_server([("127.0.0.1", port)])
        result = await run(CurlSpec(server.url(host="localhost")), addresses)
        assert "127.0.0.1 is the API server's address, which HTTP jobs may not reach here" in result.reason
        addresses.close_api_server((), ["127.0.0.1"], [port])
        assert not (await run(CurlSpec(server.url(host="localhost")), addresses)).ok


async def test_the_api_server_is_refused() -> None:
    addresses = AddressFilter(api_server=["127.9.9.9"])
    result = await run(CurlSpec("https://127.9.9.9:6443/api"), addresses)
    assert result.reason.startswith("127.9.9.9 is the API server's address, which HTTP jobs may not reach here")
