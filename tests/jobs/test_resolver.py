"""Name resolution in threads of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.curl.resolver import ThreadResolver
from tests.jobs.curl_support import attempt, executor, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


REAL = socket.getaddrinfo


class Silent:
    """A name server that answers only when the test allows it."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answer = threading.Event()
        self.lookups = 0

    def getaddrinfo(self, *arguments: Any, **options: Any) -> Any:
        self.lookups += 1
        self.asked.release()
        self.answer.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", arguments[1]))]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silent]:
    server = Silent()
    monkeypatch.setattr("scheduledjob.jobs.curl.resolver.socket.getaddrinfo", server.getaddrinfo)
    yield server
    server.answer.set()


async def test_an_address_and_an_invalid_name() -> None:
    resolver = ThreadResolver()
    found = await resolver.resolve("127.0.0.1", 80)
    assert [(result["host"], result["port"], result["hostname"]) for result in found] == [
        ("127.0.0.1", 80, "127.0.0.1")
    ]
    with pytest.raises(OSError, match="it is not a host name"):
        await resolver.resolve("a" * 64 + ".example", 80)


async def test_a_silent_name_server_delays_neither_other_jobs_nor_the_exit(silent: Silent) -> None:
    async with serving() as server, executor() as made:
        stuck = [
            asyncio.create_task(made.run(attempt(CurlSpec(f"http://silent-{number}.example/")))) for number in range(40)
        ]
        async with asyncio.timeout(30):
            for _ in stuck:
                await asyncio.to_thread(silent.asked.acquire)
            assert (await made.run(attempt(CurlSpec(server.url())))).ok
            for run in stuck:
                run.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
            await made.stop()


async def test_concurrent_requests_of_a_name_share_a_lookup(silent: Silent) -> None:
    async with serving() as server, executor() as made, asyncio.timeout(30):
        runs = [asyncio.create_task(made.run(attempt(CurlSpec(server.url(host="one.example"))))) for _ in range(20)]
        await asyncio.to_thread(silent.asked.acquire)
        silent.answer.set()
        assert all(result.ok for result in await asyncio.gather(*runs))
    assert silent.lookups == 1


async def test_a_timeout_applies_while_a_name_is_looked_up(silent: Silent) -> None:
    async with executor() as made:
        result = await made.run(attempt(CurlSpec("http://silent.example/"), timeout=0.01))
    assert result.reason == 'timed out after 10ms, looking up the name "silent.example"'


async def test_slow_names_of_a_namespace_keep_no_other_from_being_looked_up(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(host: str, port: int, **options: Any) -> Any:
        return silent.getaddrinfo(host, port) if "slow" in host else REAL("127.0.0.1", port, **options)

    monkeypatch.setattr("scheduledjob.jobs.curl.resolver.socket.getaddrinfo", answer)
    async with serving() as server, executor() as made, asyncio.timeout(60):
        for _ in range(2):  # the lookups that were given up still count
            hostile = [
                asyncio.create_task(made.run(attempt(CurlSpec(f"http://{n}.slow.example/"), timeout=0.5)))
                for n in range(200)
            ]
            results = await asyncio.gather(*hostile)
        assert silent.lookups == 64
        words = "waiting for the name server: 64 lookups of this namespace are not answered yet"
        assert {result.reason for result in results} == {f"timed out after 500ms, {words}"}
        result = await made.run(attempt(CurlSpec(server.url(host="fine.example")), namespace="team-b"))
        assert result.ok, result.reason
        silent.answer.set()
        result = await made.run(attempt(CurlSpec(server.url(host="fine.example"))))
        assert result.ok, result.reason
