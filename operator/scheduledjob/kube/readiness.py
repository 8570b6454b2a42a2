"""Readiness: which parts of the operator are not ready, and why."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable

from .peers import SYSTEM_NAMESPACE_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduledjob.engine.replica import Replica
    from scheduledjob.kube.client.api import Api

STORE_TIMEOUT = 5.0
"""Seconds without an answer after which the store counts as unavailable."""
API_TIMEOUT = 10.0
"""The same for the API server, in seconds. The watch takes longer to notice that it does not answer."""


class Readiness:
    """What ``/readyz`` answers. The functions that it calls return at once."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], str | None]] = {}

    def add(self, part: str, why_not: Callable[[], str | None]) -> None:
        """``why_not`` returns why the part is not ready, or None."""
        self._parts[part] = why_not

    @contextmanager
    def waiting(self, part: str, why: Callable[[], str | None]) -> Iterator[None]:
        """Report the part as not ready inside ``with``, for the reason that ``why`` returns."""
        self._parts[part] = lambda: why() or "not yet"
        try:
            yield
        finally:
            del self._parts[part]

    def __call__(self) -> dict[str, str | None]:
        return {part: why_not() for part, why_not in self._parts.items()}


class DependencyProbes:
    """Checks whether the store and the API server answer, even if nothing else uses them. ``run`` until cancelled."""

    def __init__(self, replica: Replica, api: Api) -> None:
        self._replica = replica
        self._api = api
        self.store_problem: str | None = None
        """Why the store counts as unavailable."""
        self.api_problem: str | None = None
        """Why the API server counts as unavailable."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe_store())
            tasks.create_task(self._probe_api())

    async def _probe_store(self) -> None:
        while True:
            answers = await self._replica.store_answers(STORE_TIMEOUT)
            self.store_problem = None if answers else "the store does not answer"
            await asyncio.sleep(STORE_TIMEOUT)

    async def _probe_api(self) -> None:
        """Read an object, because an API server whose storage is down may still answer other requests."""
        while True:
            try:
                async with asyncio.timeout(API_TIMEOUT):
                    await self._api.get(SYSTEM_NAMESPACE_PATH, attempts=1)
            except TimeoutError:
                self.api_problem = "the API server does not answer"
            except ApiUnavailable as error:
                self.api_problem = error.message
            except ApiError:
                self.api_problem = None  # a refusal is an answer
            else:
                self.api_problem = None
            await asyncio.sleep(API_TIMEOUT / 2)
