"""The operations on Pods that the executor needs: a protocol, so that nothing here knows a client of the API server.

An operation can fail in three ways. There was no answer (``PodsUnavailable``): repeat it. The API server refused it
(``PodRefused``): the attempt has failed, with the words of the API server. There is a Pod of that name already
(``PodExists``): read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


class PodsUnavailable(Exception):
    """The API server did not answer, or asked to retry later. The request may have been carried out."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        """``retry_after``: the seconds of Retry-After; 0 if there was none."""
        super().__init__(message)
        self.retry_after = retry_after


class PodRefused(Exception):
    """The API server refused a request. The message is its own."""


class PodExists(Exception):
    """There is a Pod of that name already."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SecretVersion:
    """A Secret as it was when it was read."""

    version: str
    """Names the object and its version; empty if there was no such Secret."""
    values: Mapping[str, bytes]


class PodWatch(Protocol):
    """What the watch reports of a Pod, by its namespace and name."""

    latest: Mapping[str, Any] | None
    """The newest report; None: nothing yet."""
    gone: frozenset[str]
    """The uids of Pods of that name that were deleted since this watch began."""

    @property
    def blind(self) -> bool:
        """Whether the watch is broken, or has never reported this Pod, so that only a read shows its state."""

    async def change(self) -> None:
        """Return when ``latest`` or ``gone`` have changed since the last call."""


class Pods(Protocol):
    """Operations on Pods. All may raise ``PodsUnavailable``, and all but ``read`` and ``watch`` ``PodRefused``."""

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create a Pod and return it. Raises ``PodExists``."""

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return the Pod as it is now; None if there is none."""

    async def expire(self, pod: Mapping[str, Any], *, job_ended: bool = False) -> None:
        """Have the node end a Pod now, as if it had reached its deadline. The Pod stays, with its log. Does nothing if
        the Pod is gone. ``job_ended``: its job has ended, and only other containers are alive."""

    async def delete(self, pod: Mapping[str, Any]) -> None:
        """Request the deletion of a Pod, with its own grace period. Does nothing if the Pod is gone."""

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        """Return the last lines of the container ``job``, more than history keeps."""

    async def secret(self, namespace: str, name: str) -> SecretVersion:
        """Return a Secret as it is now, to mask its values."""

    def watch(self, namespace: str, name: str) -> AbstractContextManager[PodWatch]: ...
