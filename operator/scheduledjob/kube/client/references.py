"""Reads values of Secrets and ConfigMaps from the API server when an attempt starts.

Nothing is cached: the next attempt gets the new value of a rotated Secret, and no value stays in memory for longer than
its attempt. Only attempts that start together share a request, because a thousand jobs that are due in the same second
may use the same Secret.

A missing object or key raises a ``LookupError``, an object that can't be read raises ``CannotRead``. An optional
reference is left out only after a ``LookupError``.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from .api_errors import ApiError, ApiUnavailable, Forbidden, NotFound
from .paths import NAME

if TYPE_CHECKING:
    from .api import Api

PLURALS = {"Secret": "secrets", "ConfigMap": "configmaps"}
ATTEMPTS = 4
"""Attempts of a request, which take about two seconds. After that the job's attempt fails."""
KEYS_SHOWN = 10
"""How many keys an error message lists."""


class CannotRead(Exception):
    """A Secret or ConfigMap may exist, but could not be read. The message says what to do."""


class ClusterReferences:
    """Resolves references to Secrets and ConfigMaps of the cluster."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._in_flight: dict[str, asyncio.Future[dict[str, Any] | ApiError | None]] = {}
        """Requests by path. The result is None if the caller was cancelled."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """Return the value of ``key`` in the ``kind`` named ``namespace/name``. Raises LookupError and CannotRead."""
        namespace, _, bare = name.partition("/")
        # A text of another form could be the path of a Secret in another namespace.
        if not NAME.fullmatch(namespace) or not NAME.fullmatch(bare):
            raise LookupError(f'"{bare}" is not a valid name of a {kind} (key "{key}"): name one in the same namespace')
        plural = PLURALS[kind]
        found = await self._read(f"/api/v1/namespaces/{namespace}/{plural}/{bare}")
        if isinstance(found, NotFound):
            raise LookupError(
                f'there is no {kind} "{bare}" in namespace "{namespace}" for key "{key}": '
                "create it, or change the name in the job's spec"
            )
        if isinstance(found, Forbidden):
            raise CannotRead(
                f'the operator is not allowed to read {kind} "{bare}" in namespace "{namespace}" for key "{key}": an '
                f'administrator has to grant its service account the verb "get" on "{plural}" there ({found.message})'
            )
        if isinstance(found, ApiUnavailable):
            raise CannotRead(
                f'{kind} "{bare}" in namespace "{namespace}" could not be read for key "{key}": {found.message}'
            )
        if isinstance(found, ApiError):
            raise CannotRead(f'{kind} "{bare}" in namespace "{namespace}", key "{key}": {found.message}')
        value = _value(kind, found, key)
        if value is None:
            keys = sorted({**(found.get("data") or {}), **(found.get("binaryData") or {})})
            known = ", ".join(keys[:KEYS_SHOWN]) or "none"
            if len(keys) > KEYS_SHOWN:
                known += f" and {len(keys) - KEYS_SHOWN} more"
            raise LookupError(f'{kind} "{bare}" in namespace "{namespace}" has no key "{key}": its keys are {known}')
        return value

    async def _read(self, path: str) -> dict[str, Any] | ApiError:
        while (in_flight := self._in_flight.get(path)) is not None:
            answer = await asyncio.shield(in_flight)
            if answer is not None:
                return answer
        self._in_flight[path] = asyncio.get_running_loop().create_future()
        found: dict[str, Any] | ApiError | None = None
        try:
            found = await self._api.get(path, attempts=ATTEMPTS)
        except ApiError as error:
            found = error
        finally:
            self._in_flight.pop(path).set_result(found)
        assert found is not None
        return found


def _value(kind: str, body: dict[str, Any], key: str) -> bytes | None:
    data, binary = body.get("data") or {}, body.get("binaryData") or {}
    if key in data:
        value: str = data[key]
        return base64.b64decode(value) if kind == "Secret" else value.encode()
    return base64.b64decode(binary[key]) if key in binary else None
