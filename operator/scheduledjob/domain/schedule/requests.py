"""Requests: what people ask of a schedule by hand, beside what its definition says.

Requests are read from the object as it is now, again and again; they are not events. So each request has a token, and a
token counts once. ``State.handled`` remembers the handled tokens. ``machine.py`` carries the requests out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .state import State


class Requests(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is requested. An empty token requests nothing."""

    run: str = ""
    """Token of a run to start now: with the uid it identifies that run."""
    payload: bytes | None = None
    """For that run, in place of the schedule's own payload."""
    cancel: str = ""
    """Id of a run to cancel."""
    resume: str = ""
    """Token of a request to resume after ``pauseAfterFailures``."""

    def encode(self) -> str:
        """Return canonical JSON; empty if nothing is requested."""
        return "" if self == NO_REQUESTS else _encoder.encode(self).decode()

    @staticmethod
    def decode(text: str) -> Requests:
        """Read what ``encode`` returned. Raises ``msgspec.ValidationError`` for text that no version wrote."""
        return _decoder.decode(text) if text else NO_REQUESTS


class PendingRequests(NamedTuple):
    """Requests that a schedule has yet to handle."""

    requests: Requests
    since: Instant
    """When they were written."""


NO_REQUESTS = Requests()
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Requests)


def is_handled(requests: Requests, state: State) -> bool:
    return all(entry in state.handled for entry in entries_of(requests).values())


def entries_of(requests: Requests) -> dict[str, str]:
    """Return the entry of ``State.handled`` for each request that is made."""
    tokens = {"resume": requests.resume, "cancel": requests.cancel, "run-now": requests.run}
    return {request: f"{request}/{token}" for request, token in tokens.items() if token}
