"""Values of Secrets and ConfigMaps, read from the API server when an attempt starts.

Nothing is kept: a rotated Secret counts from the next attempt on, and no value stays in memory for longer than the
attempt that was given it. Only attempts that start together and ask for the same object share one request, because a
thousand jobs with one Secret, due in the same second, are not a thousand reasons to ask.

What is missing is a ``LookupError`` that names it. What can't be read is a ``CannotRead``, which is none, so that an
optional reference is left out only where there really is nothing.
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
"""Tries of one request: about two seconds, after which the attempt has failed."""

KEYS_SHOWN = 10


class CannotRead(Exception):
    """A Secret or ConfigMap may be there, but could not be read; the message says what to do."""


class ClusterReferences:
    """``References`` to what is in the cluster."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._asked: dict[str, asyncio.Future[dict[str, Any] | ApiError | None]] = {}
        """By path: requests on their way. None: whoever asked was cancelled."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """The value of ``key`` in the ``kind`` called ``namespace/name``. Raises LookupError and CannotRead."""
        namespace, _, bare = name.partition("/")
        # A name of another form would be another path: that of another namespace's Secret, say.
        if not NAME.fullmatch(namespace) or not NAME.fullmatch(bare):
            raise LookupError(f'there can be no {kind} "{bare}" for key "{key}": give the name of one in the namespace')
        plural = PLURALS[kind]
        found = await self._read(f"/api/v1/namespaces/{namespace}/{plural}/{bare}")
        if isinstance(found, NotFound):
            raise LookupError(
                f'there is no {kind} "{bare}" in namespace "{namespace}" for key "{key}": '
                "create it, or name another in the job's spec"
            )
        if isinstance(found, Forbidden):
            raise CannotRead(
                f'the operator may not read {kind} "{bare}" in namespace "{namespace}" for key "{key}": an '
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
            there = ", ".join(keys[:KEYS_SHOWN]) or "none"
            if len(keys) > KEYS_SHOWN:
                there += f" and {len(keys) - KEYS_SHOWN} more"
            raise LookupError(f'{kind} "{bare}" in namespace "{namespace}" has no key "{key}": its keys are {there}')
        return value

    async def _read(self, path: str) -> dict[str, Any] | ApiError:
        while (asked := self._asked.get(path)) is not None:
            answer = await asyncio.shield(asked)
            if answer is not None:
                return answer
        self._asked[path] = asyncio.get_running_loop().create_future()
        found: dict[str, Any] | ApiError | None = None
        try:
            found = await self._api.get(path, attempts=ATTEMPTS)
        except ApiError as error:
            found = error
        finally:
            self._asked.pop(path).set_result(found)
        assert found is not None
        return found


def _value(kind: str, body: dict[str, Any], key: str) -> bytes | None:
    data, binary = body.get("data") or {}, body.get("binaryData") or {}
    if key in data:
        value: str = data[key]
        return base64.b64decode(value) if kind == "Secret" else value.encode()
    return base64.b64decode(binary[key]) if key in binary else None
