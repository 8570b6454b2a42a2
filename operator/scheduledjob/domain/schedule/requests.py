"""Requests: what people ask of a schedule by hand, beside what its definition says.

Requests are read from the object as it is now, again and again; they are not events. So each request has a token, and a
token counts once. ``State.handled`` remembers the handled tokens. ``machine.py`` carries the requests out.

An object has one request of each kind, and a new token may replace one that was read, but not handled yet. So a store
keeps what is replaced (``merged``), and it is carried out first. That holds for an object whose requests were removed,
too: a replica that is behind writes the object as it was before them. If too much is replaced before a replica handles
it, the oldest runs do not start, and history says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from .state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant


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
    dropped: int = 0
    """If it is not 0, the run is not to start, and stands for so many: itself, and older ones that were forgotten."""
    too_large: bool = False
    """The run is dropped because of the size of the payloads, not the number of the requests."""

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


MAX_EARLIER = 32
"""How many replaced requests are carried out. Older runs are dropped."""
MAX_PAYLOADS = 256 * 1024
"""Bytes in the payloads of these requests."""
MAX_TOKENS = 128
"""How many replaced requests a store keeps at all."""


def in_order(requests: Requests) -> tuple[Requests, ...]:
    """Return all requests, oldest first."""
    return (*requests.earlier, requests) if requests.earlier else (requests,)


def is_handled(requests: Requests, state: State) -> bool:
    return all(entry in state.handled for wanted in in_order(requests) for entry in entries_of(wanted).values())


def entries_of(requests: Requests) -> dict[str, str]:
    """Return the entry of ``State.handled`` for each request that is made, without earlier ones."""
    tokens = {"resume": requests.resume, "cancel": requests.cancel, "run-now": requests.run}
    return {request: f"{request}/{token}" for request, token in tokens.items() if token}


def merged(stored: str, observed: str, state: bytes) -> str:
    """Return the observed requests (as ``encode`` returns them) with the stored ones that they replace.

    ``state`` is the stored state of the schedule: what it has handled is left out.
    """
    if not stored or stored == observed:
        return observed
    try:
        before, after, done = Requests.decode(stored), Requests.decode(observed), set(State.decode(state).handled)
    except msgspec.MsgspecError:  # a newer version wrote it
        return observed
    done |= set(entries_of(after).values())
    earlier: list[Requests] = []
    for wanted in in_order(before):
        left = {request for request, entry in entries_of(wanted).items() if entry not in done}
        if left:
            replaced = Requests(
                run=wanted.run if "run-now" in left else "",
                payload=wanted.payload if "run-now" in left else None,
                cancel=wanted.cancel if "cancel" in left else "",
                resume=wanted.resume if "resume" in left else "",
                dropped=wanted.dropped if "run-now" in left else 0,
                too_large=wanted.too_large and "run-now" in left,
            )
            earlier.append(replaced)
    return replace(after, earlier=_bounded(earlier)).encode()


def _bounded(earlier: Sequence[Requests]) -> tuple[Requests, ...]:
    """Drop the oldest runs of too many requests."""
    kept: list[Requests] = []
    size = 0
    for number, wanted in enumerate(reversed(earlier)):
        size += len(wanted.payload or b"")
        if (number >= MAX_EARLIER or size > MAX_PAYLOADS) and wanted.run and not wanted.dropped:
            kept.append(replace(wanted, payload=None, dropped=1, too_large=number < MAX_EARLIER))
        else:
            kept.append(wanted)
    forgotten = sum(max(1, wanted.dropped) for wanted in kept[MAX_TOKENS:] if wanted.run)
    kept = kept[:MAX_TOKENS][::-1]
    for number, wanted in enumerate(kept):
        if forgotten and wanted.dropped:
            kept[number] = replace(wanted, dropped=wanted.dropped + forgotten)
            break
    return tuple(kept)


def why_dropped(wanted: Requests) -> str:
    """Return why the run of a request with ``dropped`` did not start."""
    if wanted.too_large:
        reason = (
            "newer requests came before it could start, and the payloads of requests that wait may have "
            f"{MAX_PAYLOADS // 1024} KiB together; request it again after the newer runs have started, "
            "or with smaller payloads"
        )
    else:
        reason = f"{MAX_EARLIER} newer requests came before it could start, and no more than that wait"
    if wanted.dropped > 1:
        reason += f"; {wanted.dropped - 1} older ones are not listed"
    return reason


def without_earlier(stored: str) -> str:
    """Return the stored requests as they were observed."""
    if '"earlier"' not in stored:
        return stored
    try:
        return replace(Requests.decode(stored), earlier=()).encode()
    except msgspec.MsgspecError:
        return stored
