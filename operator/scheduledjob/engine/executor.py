"""What the engine and an executor say to each other about one attempt.

The engine decides *that* an attempt starts and *what follows* from its end; an executor knows *how* one kind of
job is started, watched and ended. Between them stand three things: an ``Attempt`` goes in, a ``Result`` comes out,
and the ``Executor`` protocol says what must hold in between. An executor never touches the store, never retries
and never decides whether a run has failed for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from scheduledjob.domain.time.instants import Instant

if TYPE_CHECKING:
    from collections.abc import Sequence


class Attempt(msgspec.Struct, gc=False):
    """One try of a run, with everything that its job is told about itself."""

    run_id: str
    """Identity of the run, the same for each of its attempts: the idempotency key of its side effects."""
    uid: str
    namespace: str
    """Empty outside a cluster's manifests."""
    name: str
    """The name of the ScheduledJob, or the slug of a library schedule."""
    slot: Instant
    attempt: int
    """Counted from 1."""
    version: int
    """Fencing token: larger for each later start of the same schedule."""
    deadline: float
    """``time.monotonic()`` seconds: when this is reached and ``extend`` has not moved it, the lease may have passed
    to another replica, so by then nothing of the attempt may be alive."""
    timeout: float | None = None
    """Seconds the attempt may take; the executor ends it then and returns a failed Result that says so."""
    params: Any = None
    """What to run: the spec of the job's kind, such as ``ShellSpec`` or ``CurlSpec``."""
    payload: bytes | None = None
    references: Any = None
    """Resolves Secret and ConfigMap references when the attempt starts; None where there can be none."""
    pending: float | None = None
    """Seconds that what runs the attempt may wait to begin (``timeouts.pending``), for executors that have to wait."""
    begun: Instant = 0
    """When the first attempt of the run started."""
    adopted: bool = False
    """Of a kind that outlives: an earlier owner may have started this attempt, so look for it first. ``timeout`` counts
    from when it really began; where ``timeouts.total`` is near, ``timeout`` is what is left of that now."""
    payload_is_secret: bool = False
    """The payload came out of a Secret: the executor keeps it out of whatever outlives the attempt."""
    ending: str = ""
    """Why ``run`` is cancelled, set before: ``CANCELLED`` or ``RELEASED``; empty while it is not."""


CANCELLED = "cancelled"
"""The run is to end: end the attempt, wherever it lives, and wait until that is certain."""
RELEASED = "released"
"""This replica lets go of the attempt: what lives outside of it goes on, and another replica adopts it."""


class Result(msgspec.Struct, gc=False):
    """How an attempt ended."""

    ok: bool
    reason: str = ""
    """Why it failed, in words that a user can act on ("exit code 3", "timed out after 5m"); empty for success."""
    code: int | None = None
    """Exit code or HTTP status, where there is one."""
    output: bytes = b""
    """The last output as printed, at most ``OUTPUT_LIMIT`` bytes, Secret values masked."""
    complete: bool = False
    """The schedule is done for good (``completeOn`` matched, or a custom job returned None)."""
    payload: bytes | None = None
    """The schedule's payload from now on; None: as it was."""
    result: bytes | None = None
    """What a custom job left in ``task.result``; None: as it was."""
    lost: bool = False
    """Ended with its replica (the lease was about to pass, a helper died) and not by itself: it counts against nobody,
    and the run goes on with its next attempt; of a kind that outlives, with the same."""
    where: str = ""
    """Where it ran, if not in this replica: the name of its Pod."""


OUTPUT_LIMIT = 4096
"""Bytes of output that history keeps of one run."""


class Executor(Protocol):
    """Runs attempts of one kind of job.

    ``run`` returns when nothing of the attempt is alive any more. An error of the job is a ``Result`` with
    ``ok=False``; an exception out of ``run`` is a failed attempt whose reason is the exception. Cancelling ``run``
    ends the attempt at once (TERM is for timeouts and polite cancels; see each executor), and the CancelledError
    comes out only after nothing of it is alive: the engine takes it as the confirmed end.

    Attempts of a *detached* kind (``JobKind.detached``) live outside the replica. Then ``run`` starts the attempt, or
    continues with what exists of it: the next owner of the run calls it again for the same attempt. When ``run`` is
    cancelled, ``Attempt.ending`` says why:

    * ``CANCELLED``: end the attempt, and raise the CancelledError (or return a Result, if the attempt had ended
      before) only when its end is confirmed, however long that takes. If ``run`` is cancelled again meanwhile and
      ``ending`` is RELEASED, return at once. The engine may also call ``run`` with ``ending`` CANCELLED from the
      start: start nothing, end whatever exists of the attempt, confirm it, return.
    * ``RELEASED``, or empty: stop following the attempt at once, and end nothing.

    Wait for what fails on the way, such as an API that does not answer. To give up, return a Result with ``lost``;
    never raise, because the engine takes an exception for the end of the attempt.
    """

    async def start(self) -> None:
        """Called once, before the first attempt; an error ends the replica with its message."""

    async def run(self, attempt: Attempt) -> Result: ...

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """The lease of these attempts was renewed: nothing of them need be dead before ``deadline``, monotonic seconds.

        Called from the lease thread, so it must be thread-safe, must not block, and must not need the event loop.
        An executor whose attempts die with the process, and stop with it, has nothing to do here.
        """

    async def stop(self) -> None:
        """Called once, after the last attempt ended; releases what ``start`` made."""


class References(Protocol):
    """Where values of Secrets and ConfigMaps come from when an attempt starts."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """The value of ``key`` in the ``kind`` (``Secret`` or ``ConfigMap``) called ``name``.

        Raises ``LookupError`` with a message that names all three.
        """


@dataclass(slots=True)
class Value:
    """An environment variable, header or body: either given, or referred to."""

    value: str | None = None
    secret: tuple[str, str] | None = None
    """(name, key) of a Secret."""
    config_map: tuple[str, str] | None = None
    """(name, key) of a ConfigMap."""
    optional: bool = False
    """A reference that is not there gives nothing instead of an error."""
