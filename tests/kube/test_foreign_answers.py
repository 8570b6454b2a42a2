"""Answers that do not come from the API server: a login page, a load balancer, half a line."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.api_errors import ApiUnavailable
from scheduledjob.kube.watch.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ANSWERS = [b"<html>Sign in</html>", b"", b"[]", b"null", b'"ok"', b'{"error": "no backend"}', b"{", b"\xff\xfe"]
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@asynccontextmanager
async def answering(answer: bytes, directory: Path) -> AsyncIterator[Api]:
    """Return a client of a server that gives this answer to every request."""

    async def answers(_: web.Request) -> web.Response:
        return web.Response(body=answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG % runner.addresses[0][1])
    try:
        async with Api.from_config(str(kubeconfig)) as api:
            yield api
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_foreign_answer_counts_as_no_answer(answer: bytes, tmp_path: Path) -> None:
    async with answering(answer, tmp_path) as api:
        with pytest.raises(ApiUnavailable):
            await api.get("/api/v1/pods")
        with pytest.raises(ApiUnavailable):
            await api.patch("/api/v1/namespaces/a/pods/b", {})
        with pytest.raises(ApiUnavailable):
            async for _ in api.pages("/api/v1/pods"):
                pass


@pytest.mark.parametrize(
    "line", [answer + b"\n" for answer in ANSWERS if answer] + [b'{"type": "ADDED", "object": 5}\n']
)
async def test_a_foreign_line_is_not_an_event(line: bytes, tmp_path: Path) -> None:
    async with answering(line, tmp_path) as api:
        with pytest.raises(ApiUnavailable):
            async for _ in api.watch("/api/v1/pods"):
                pass


async def test_a_watch_of_a_foreign_server_keeps_trying(tmp_path: Path) -> None:
    async with answering(ANSWERS[0], tmp_path) as api:
        reflector = Reflector[object](api, ["/api/v1/pods"], "", lambda *_: None, keep=lambda body: body)
        watching = asyncio.create_task(reflector.run())
        try:
            while reflector.restarts < 2 and not watching.done():  # noqa: ASYNC110  # the reflector has no event for that
                await asyncio.sleep(0.01)
            assert not watching.done()
            assert "Sign in" in reflector.errors["/api/v1/pods"]
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
