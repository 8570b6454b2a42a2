"""A small client of the API server for tests: JSON in, JSON out, and nothing of kopf or of the kubernetes package.

A test of the operator should not see the cluster through the operator's own libraries. The client retries nothing,
because the test wants to know what the API server answered, or that it did not answer.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.cluster.harness.credentials import read_kubeconfig

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path
    from types import TracebackType

Object = dict[str, Any]

PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
SCHEDULED_JOBS = "/apis/scheduledjobs.dev/v1beta1"


class ApiError(Exception):
    """The API server refused; `status` is the HTTP code, `reason` its word for it, the message what it said."""

    def __init__(self, status: int, body: Object) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('message', '')}")
        self.status = status
        self.reason = str(body.get("reason", ""))
        self.message = str(body.get("message", ""))
        self.body = body


class ApiClient:
    """Requests as the user of one kubeconfig, which are possible inside `async with`.

    Paths are the API's own, such as ``/api/v1/namespaces/default/pods``; keywords become the query, as in
    ``await api.get(path, labelSelector="a=b", limit=10)``.
    """

    def __init__(self, kubeconfig: Path, *, timeout: float = 30.0) -> None:
        """`timeout` is in seconds, for each request but a watch."""
        cluster, user = read_kubeconfig(kubeconfig)
        self._server: str = cluster["server"]
        self._tls = tls_of(cluster, user)
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(
            self._server, connector=connector, headers=self._headers, timeout=self._timeout
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, **query: str | int) -> Object:
        return await self._request("GET", path, query)

    async def list(self, path: str, **query: str | int) -> list[Object]:
        """The items below `path`, every page of them."""
        items: list[Object] = []
        while True:
            page = await self.get(path, **query)
            items += page["items"]
            if not (token := page["metadata"].get("continue")):
                return items
            query["continue"] = token

    async def post(self, path: str, body: Object, **query: str | int) -> Object:
        return await self._request("POST", path, query, body)

    async def post_text(self, path: str, body: str) -> None:
        """Post JSON that is nested too deeply for Python."""
        headers = {"Content-Type": "application/json"}
        async with self._open().request("POST", path, data=body, headers=headers) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, _json(await answer.text()))

    async def put(self, path: str, body: Object, **query: str | int) -> Object:
        return await self._request("PUT", path, query, body)

    async def patch(self, path: str, body: object, kind: str = "merge", **query: str | int) -> Object:
        """`kind` is one of PATCHES; an ``apply`` needs ``fieldManager="..."`` too."""
        return await self._request("PATCH", path, query, body, PATCHES[kind])

    async def delete(self, path: str, **query: str | int) -> Object:
        """Delete, which for an object with dependents or a namespace goes on after the answer."""
        return await self._request("DELETE", path, query)

    async def text(self, path: str, **query: str | int) -> str:
        """The answer as it is, such as a Pod's log or ``/readyz``."""
        async with self._open().get(path, params=query) as answer:
            body = await answer.text()
            if answer.status >= 400:
                raise ApiError(answer.status, _json(body))
            return body

    async def watch(self, path: str, **query: str | int) -> AsyncIterator[Object]:
        """Events (``type`` and ``object``) as they come, until the server or the caller ends it.

        An event of type ERROR is raised as ApiError, as a refusal of the watch itself is. Bound it with
        ``asyncio.timeout``, or with ``timeoutSeconds`` for an end by the server.
        """
        async with aclosing(self.watch_lines(path, **query)) as lines:
            async for line in lines:
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", 0), event["object"])
                yield event

    async def watch_lines(self, path: str, **query: str | int) -> AsyncGenerator[bytes, None]:
        """The same as the API server sends it, an event in each line, for whoever has no time to read them now."""
        forever = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        async with self._open().get(path, params={"watch": "1", **query}, timeout=forever) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, _json(await answer.text()))
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    yield line

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str | int],
        body: object = None,
        content_type: str = "application/json",
    ) -> Object:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self._open().request(method, path, params=query, data=data, headers=headers) as answer:
            content = _json(await answer.text())
            if answer.status >= 400:
                raise ApiError(answer.status, content)
            return content

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open: async with cluster.client() as api")
        return self._session


def _json(body: str) -> Object:
    try:
        content: Object = json.loads(body)
    except ValueError:  # a proxy, or the API server before it has its handlers, answers in plain text
        return {"message": body}
    return content


def tls_of(cluster: Object, user: Object) -> ssl.SSLContext:
    authority = base64.b64decode(cluster.get("certificate-authority-data", "")).decode()
    context = ssl.create_default_context(cadata=authority or None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # Python 3.13 asks of an authority what Kubernetes' own tools don't put into one.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if "client-certificate-data" in user:
        with tempfile.NamedTemporaryFile() as file:  # ssl reads a key from a file only
            file.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
            file.write(base64.b64decode(user["client-key-data"]))
            file.flush()
            context.load_cert_chain(file.name)
    return context
