"""The Pods' API as the executor needs it: a protocol, so that nothing here knows who speaks to the API server.

Three kinds of answers are no success, and they are told apart because different things follow from them: nobody
answered (``PodsAway``: ask again), the answer was no (``PodRefused``: the attempt has failed, with the API server's own
words), and there is a Pod of that name already (``PodExists``: it is looked at).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


class PodsAway(Exception):
    """The API server did not answer, or said to come later; what was asked may have been done."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        """``retry_after``: seconds before which it said not to come; 0: it did not say."""
        super().__init__(message)
        self.retry_after = retry_after


class PodRefused(Exception):
    """The API server said no; the message is its own."""


class PodExists(Exception):
    """There is a Pod of that name."""


class PodWatch(Protocol):
    """One Pod, by its namespace and name, as the watch tells of it."""

    latest: Mapping[str, Any] | None
    """What was last told of it; None: nothing yet."""
    gone: frozenset[str]
    """The uids of those Pods of that name whose end was told since this began."""

    @property
    def blind(self) -> bool:
        """The watch is broken, or has never told of this Pod: only asking tells what became of it."""

    async def change(self) -> None:
        """Return when ``latest`` or ``gone`` have changed since the last call."""


class Pods(Protocol):
    """What is done with Pods. Each may raise ``PodsAway``, and but for ``read`` and ``watch`` ``PodRefused``."""

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        """The Pod as the API server has it now. Raises ``PodExists``, too."""

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The Pod as it is now; None: there is none."""

    async def expire(self, pod: Mapping[str, Any]) -> None:
        """Have its node end it now, as if it had reached its deadline: it stays, with its log. Of a Pod that is gone
        there is nothing to do."""

    async def delete(self, pod: Mapping[str, Any]) -> None:
        """Ask for its end, after its own grace; of a Pod that is gone there is nothing to do."""

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        """The last lines that the container ``job`` printed, more than history keeps."""

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """The values of a Secret, of which the Pod's output must not have one."""

    def watch(self, namespace: str, name: str) -> AbstractContextManager[PodWatch]: ...
