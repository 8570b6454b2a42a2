"""The interface between the engine and the executors of jobs.

The engine decides when an attempt starts, and what its end means. An executor knows how to start, watch and stop one
kind of job. It receives an ``Attempt`` and returns a ``Result``; the ``Executor`` protocol says what must hold in
between. An executor never uses the store, never retries, and never decides whether a run has failed for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from scheduledjob.domain.schedule.state import RunRecord
from scheduledjob.domain.time.instants import Instant, Micros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .stored_row import Row


class Attempt(msgspec.Struct, gc=False):
    """One attempt of a run, with everything that its job needs to know."""

    run_id: str
    """The id of the run, the same for all its attempts: the idempotency key of its side effects."""
    uid: str
    namespace: str
    """Empty for a schedule of the library."""
    name: str
    """The name of the ScheduledJob, or the slug of a library schedule."""
    slot: Instant
    attempt: int
    """Counted from 1."""
    version: int
    """Fencing token: larger for each later start of the same schedule."""
    deadline: float
    """Seconds of the boot clock (``engine/clock.py``). Unless ``extend`` moves it, another replica may own the lease
    from this moment on, so nothing of the attempt may be alive then."""
    timeout: float | None = None
    """Seconds that the attempt may take. After that, the executor ends it and returns a failed Result that says so."""
    params: Any = None
    """What to run: the spec of the job's kind, such as ``ShellSpec`` or ``CurlSpec``."""
    payload: bytes | None = None
    references: Any = None
    """``References``, which resolves Secrets and ConfigMaps when the attempt starts; None if there are none."""
    pending: float | None = None
    """Seconds that the attempt may wait for its start, such as for a node (``timeouts.pending``)."""
    total: float | None = None
    """Seconds that are left of ``timeouts.total`` when the attempt starts; None: no limit."""
    begun: Instant = 0
    """When the first attempt of the run started."""
    adopted: bool = False
    """For a detached kind: an earlier owner may have started this attempt, so search for it first. ``timeout`` counts
    from its real start. If ``timeouts.total`` ends earlier, ``timeout`` is the rest of that from now on."""
    payload_is_secret: bool = False
    """The payload is a value of a Secret. The executor must not write it to anything that outlasts the attempt."""
    ending: str = ""
    """Why ``run`` is cancelled: ``CANCELLED`` or ``RELEASED``, set before the cancellation; empty otherwise."""

    @property
    def slug(self) -> str:
        """The slug of the schedule."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


CANCELLED = "cancelled"
"""The run must end: end the attempt, wherever it runs, and wait until that is confirmed."""
RELEASED = "released"
"""This replica releases the attempt. What runs outside the replica continues, and another replica adopts it."""


class Result(msgspec.Struct, gc=False):
    """How an attempt ended."""

    ok: bool
    reason: str = ""
    """Why it failed, in words that help the user ("exit code 3", "timed out after 5m"); empty for success."""
    code: int | None = None
    """Exit code or HTTP status, if there is one."""
    output: bytes = b""
    """The end of the output, at most ``OUTPUT_LIMIT`` bytes, with Secret values masked."""
    complete: bool = False
    """The schedule is complete (``completeOn`` matched, or a custom job returned None)."""
    payload: bytes | None = None
    """The new payload of the schedule; None: unchanged."""
    result: bytes | None = None
    """``task.result`` of a custom job; None: unchanged."""
    lost: bool = False
    """The attempt was ended from outside (its lease was about to expire, its helper process died). It does not count as
    a failure, and the run continues with its next attempt, or with the same attempt if its kind is detached."""
    where: str = ""
    """Where it ran, if not in this replica: the name of its Pod."""
    retry_after: Micros | None = None
    """How long the server asks to wait before the next attempt. The backoff limits it."""
    payload_cleared: bool = False
    """The schedule has no payload any more."""


OUTPUT_LIMIT = 4096
"""Bytes of output that history keeps of one run."""

MAX_RESULT = 1 << 20
"""Bytes of the result, and of the payload, that a run may leave by default."""

MAX_MANIFEST_PAYLOAD = 64 * 1024
"""Maximum bytes of the payload of a schedule from a manifest."""


def refuse_large(result: Result, max_result: int, *, library: bool, row: Row, row_limit: int | None) -> Result:
    """Return the result, or a failed one that says what is too large for the store.

    ``row`` has what the result leaves as it is.
    """
    max_payload = max_result if library else min(max_result, MAX_MANIFEST_PAYLOAD)
    for what, value, limit in (("result", result.result, max_result), ("payload", result.payload, max_payload)):
        if value is not None and len(value) > limit:
            reason = (
                f"the job left a {what} of {len(value)} bytes, and {limit} are allowed"
                f"{' (max_result)' if limit == max_result else ''}: store it elsewhere, and leave a reference to it"
            )
            return Result(False, reason, result.code, result.output, where=result.where)
    if row_limit is not None:
        payload = b"" if result.payload_cleared else result.payload or row.payload or b""
        kept = result.result or row.result or b""
        if (size := len(payload) + len(kept) + len(row.definition) + len(row.state)) > row_limit:
            reason = (
                f"with a payload of {len(payload)} and a result of {len(kept)} bytes, the schedule has {size} "
                f"bytes, and this store keeps {row_limit}: store them elsewhere, and leave a reference to them"
            )
            return Result(False, reason, result.code, result.output, where=result.where)
    return result


class Executor(Protocol):
    """Runs attempts of one kind of job.

    ``run`` returns when nothing of the attempt is alive any more. If the job fails, it returns a ``Result`` with
    ``ok=False``. If it raises, the attempt has failed, and the exception is the reason. If ``run`` is cancelled, it
    ends the attempt at once (executors send SIGTERM only for timeouts and graceful cancellations), and raises
    CancelledError only when nothing of it is alive: for the engine that confirms the end.

    Attempts of a *detached* kind (``JobKind.detached``) live outside the replica. Then ``run`` starts the attempt, or
    continues with what exists of it: the next owner of the run calls it again for the same attempt. When ``run`` is
    cancelled, ``Attempt.ending`` says why:

    * ``CANCELLED``: end the attempt, and raise the CancelledError (or return a Result, if the attempt had ended
      before) only when its end is confirmed, however long that takes. If ``run`` is cancelled again meanwhile and
      ``ending`` is RELEASED, return at once. The engine may also call ``run`` with ``ending`` CANCELLED from the
      start: start nothing, end whatever exists of the attempt, confirm it, return.
    * ``RELEASED``, or empty: stop following the attempt at once, and end nothing.

    If something fails on the way, such as an API that does not answer, wait for it. To give up, return a Result with
    ``lost``. Never raise, because the engine would count the exception as the end of the attempt.
    """

    async def start(self) -> None:
        """Called once, before the first attempt. If it raises, the replica ends with that error."""

    async def run(self, attempt: Attempt) -> Result: ...

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """The lease of these attempts was renewed: they may live until ``deadline`` (seconds of the boot clock).

        Called from the lease thread, so it must be thread-safe, must not block, and must not need the event loop.
        An executor whose attempts end with the process has nothing to do here.
        """

    async def stop(self) -> None:
        """Called once, after the last attempt has ended. Releases what ``start`` acquired."""


class References(Protocol):
    """Reads values of Secrets and ConfigMaps when an attempt starts."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """Return the value of ``key`` in the ``kind`` (``Secret`` or ``ConfigMap``) with this name.

        Raises ``LookupError`` with a message that names all three.
        """


@dataclass(slots=True)
class Value:
    """An environment variable, a header or a body: a value, or a reference to one."""

    value: str | None = None
    secret: tuple[str, str] | None = None
    """(name, key) of a Secret."""
    config_map: tuple[str, str] | None = None
    """(name, key) of a ConfigMap."""
    optional: bool = False
    """If the reference does not exist, the value is left out instead of raising an error."""


Hook: TypeAlias = Callable[[Any, Attempt, RunRecord], Awaitable[Result]]
"""Calls one hook (its definition as plain JSON) for a run that ended."""
