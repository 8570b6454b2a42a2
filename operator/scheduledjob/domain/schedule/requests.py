"""Requests: what people ask of a schedule by hand, beside what its definition says.

Requests are read from the object as it is now, again and again; they are not events. So each request has a token, and a
token counts once. ``State.handled`` remembers the handled tokens. ``machine.py`` carries the requests out.

An object has one request of each kind, and a new token may replace one that was read, but not handled yet. So a store
keeps what is replaced (``merged``), and it is carried out first. An object without any request withdraws them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

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
    earlier: tuple[Requests, ...] = ()
    """Requests that these have replaced, oldest first; in a store only."""

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


MAX_EARLIER = 4
"""How many replaced requests a store keeps."""


def in_order(requests: Requests) -> tuple[Requests, ...]:
    """Return all requests, oldest first."""
    return (*requests.earlier, requests) if requests.earlier else (requests,)


def is_handled(requests: Requests, state: State) -> bool:
    return all(entry in state.handled for wanted in in_order(requests) for entry in entries_of(wanted).values())


def entries_of(requests: Requests) -> dict[str, str]:
    """Return the entry of ``State.handled`` for each request that is made, without earlier ones."""
    tokens = {"resume": requests.resume, "cancel": requests.cancel, "run-now": requests.run}
    return {request: f"{request}/{token}" for request, token in tokens.items() if token}


def merged(stored: str, observed: str) -> str:
    """Return the observed requests (as ``encode`` returns them) with the stored ones that they replace."""
    if not stored or not observed or stored == observed:
        return observed
    try:
        before, after = Requests.decode(stored), Requests.decode(observed)
    except msgspec.MsgspecError:  # a newer version wrote it
        return observed
    earlier: list[Requests] = []
    for wanted in in_order(before):
        replaced = Requests(
            run=wanted.run if wanted.run != after.run else "",
            payload=wanted.payload if wanted.run != after.run else None,
            cancel=wanted.cancel if wanted.cancel != after.cancel else "",
            resume=wanted.resume if wanted.resume != after.resume else "",
        )
        if entries_of(replaced):
            earlier.append(replaced)
    return replace(after, earlier=tuple(earlier[-MAX_EARLIER:])).encode()


def without_earlier(stored: str) -> str:
    """Return the stored requests as they were observed."""
    if '"earlier"' not in stored:
        return stored
    try:
        return replace(Requests.decode(stored), earlier=()).encode()
    except msgspec.MsgspecError:
        return stored
