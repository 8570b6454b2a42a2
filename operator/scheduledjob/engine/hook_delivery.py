"""Calls the hooks of runs that have ended (``onFailure``, ``onSuccess``), and of schedules that became overdue.

The calls are an outbox in the store. ``add_hooks`` adds the calls that belong to a write of a row, and the store
writes them together with that row and its records. So it does not matter what ended the run: its own attempt, the loss
of its owner, or a time limit. Any replica may deliver them. It claims a call for a time, calls the hook, and deletes
the call. If the hook fails, the call is due again after a backoff; if the replica dies, when its claim ends. After
``MAX_ATTEMPTS`` the call is given up, and the observer is notified. So each hook is called at least once, always with
the same idempotency key.

A replica looks for calls when it has written some, when one that it has delayed is due, and now and then: another
replica may have died. A schedule without hooks costs nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.domain.schedule.state import Outcome, Run, RunRecord, record_of
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import from_seconds

from .executor import Attempt, Hook, References, Result
from .store import StoreError
from .stored_row import HookCall, HookEnd, Origin
from .timing import HOOK_CLAIM, HOOK_FIRST_RETRY_DELAY, HOOK_LAST_RETRY_DELAY, HOOK_LIMIT, HOOK_POLL_INTERVAL

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant

    from .owned_schedule import OwnedSchedule
    from .replica_settings import ReplicaContext
    from .stored_row import Settlement

log = structlog.get_logger("scheduledjob.hooks")

CALLS = 64
"""Calls that one replica makes at once, at most."""
SHARE = 4
"""Calls that are claimed at once. No more are claimed for a namespace that has as many, so hooks that hang in one
namespace hold up those of others little."""
RELEASE_LIMIT = 1.0
"""Seconds in which a replica that shuts down gives back the calls that have not ended."""
MAX_ATTEMPTS = 12
"""After so many failed calls, more than an hour after the first, a call is given up."""


class HookOrder(msgspec.Struct, omit_defaults=True):
    """What the data of a ``HookCall`` says, as JSON. Stored fields keep their names.

    References to Secrets are stored as references, and resolved when the hook is called.
    """

    hook: Any
    record: RunRecord
    namespace: str
    name: str
    version: int
    """The fencing token of the run."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(HookOrder)


def add_hooks(owned: OwnedSchedule, settlement: Settlement) -> None:
    """Add the calls of hooks to a write that records ended runs, or that the schedule is overdue."""
    definition = owned.schedule.definition
    if definition.on_failure or definition.on_success:
        records = [*settlement.records]
        if owned.overdue_since is not None:
            records.append(overdue_record(owned, owned.overdue_since))
        settlement.hooks = calls_of(owned, records)
    owned.overdue_since = None


def calls_of(owned: OwnedSchedule, records: Sequence[RunRecord]) -> list[HookCall]:
    """Return the calls for runs that ended. A run that was cancelled or skipped calls no hook."""
    row, definition = owned.row, owned.schedule.definition
    namespace, name = "", row.slug
    if row.origin != Origin.LIBRARY:
        namespace, _, name = row.slug.partition("/")
    calls = []
    for record in records:
        if record.outcome is Outcome.FAILED:
            hooks = definition.on_failure
        elif record.outcome is Outcome.SUCCEEDED:
            hooks = definition.on_success
        else:
            continue
        for number, hook in enumerate(hooks):
            order = HookOrder(hook, msgspec.structs.replace(record, output=b""), namespace, name, row.version)
            calls.append(HookCall(record.run_id, number, record.slug, record.uid, _encoder.encode(order)))
    return calls


def overdue_record(owned: OwnedSchedule, now: Instant) -> RunRecord:
    """Return the record with which ``onFailure`` is called for a schedule that had no success for too long.

    No run belongs to that, so it is the record of a failed run for the instant at which it was noticed.
    """
    row, definition = owned.row, owned.schedule.definition
    notice = Run(slot=now, due=now, token=f"overdue-{now}")
    reason = f"Overdue: no success for {format_duration(definition.expect_success_within or 0)}"
    return record_of(notice, Outcome.FAILED, now, uid=row.uid, slug=row.slug, keep=definition.keep, reason=reason)


class HookDelivery:
    """Delivers the calls of an installation, while ``run`` runs."""

    def __init__(self, context: ReplicaContext, hook: Hook, references: References | None, rng: random.Random) -> None:
        self._context = context
        self._hook = hook
        self._references = references
        self._rng = rng
        self._wake = asyncio.Event()
        self._closing = False
        self._tasks: dict[asyncio.Task[None], HookCall] = {}

    def poke(self) -> None:
        """There may be calls to deliver."""
        self._wake.set()

    def close(self) -> None:
        """Deliver what is due; then ``run`` returns."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        try:
            while not (self._closing and not self._tasks and not await self._claim()):
                interval = HOOK_POLL_INTERVAL * self._rng.uniform(0.5, 1.0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await self._wake.wait()
                self._wake.clear()
                if not self._closing:
                    await self._claim()
        finally:
            await self._release()

    async def _claim(self) -> bool:
        """Begin the calls that are due, as far as there is room. Return whether there were any."""
        lease, begun = from_seconds(HOOK_CLAIM), 0
        while (room := CALLS - len(self._tasks)) > 0:
            active = Counter(call.group for call in self._tasks.values())
            busy = [group for group, count in active.items() if count >= SHARE]
            try:
                calls = await self._context.store.claim_hooks(limit=min(room, SHARE), lease=lease, without=busy)
            except StoreError as error:
                log.warning("could not claim calls of hooks", error=str(error))
                break
            for call in calls:
                task = asyncio.create_task(self._deliver(call))
                self._tasks[task] = call
                task.add_done_callback(self._ended)
            begun += len(calls)
            if len(calls) < SHARE:
                break
        return begun > 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a call of a hook failed unexpectedly, and will be repeated", error=str(error))

    async def _deliver(self, call: HookCall) -> None:
        result = await self._call(call)
        if result.ok:
            await self._settle(HookEnd(call.run_id, call.number, call.attempt))
        elif call.attempt >= MAX_ATTEMPTS:
            log.warning("gave up on a hook", slug=call.slug, run_id=call.run_id, reason=result.reason)
            await self._settle(HookEnd(call.run_id, call.number, call.attempt))
            self._context.observer.hook_given_up(call.slug, call.uid, call.attempt, result.reason)
        else:
            delay = min(HOOK_FIRST_RETRY_DELAY * 2 ** (call.attempt - 1), HOOK_LAST_RETRY_DELAY)
            log.warning(
                "a hook failed, and will be called again",
                slug=call.slug,
                reason=result.reason,
                retry_in=round(delay, 1),
            )
            await self._settle(HookEnd(call.run_id, call.number, call.attempt, from_seconds(delay)))
            asyncio.get_running_loop().call_later(delay, self.poke)

    async def _call(self, call: HookCall) -> Result:
        try:
            order = _decoder.decode(call.data)
        except msgspec.MsgspecError as error:
            return Result(False, f"this version can't read the call: {error}")
        record = order.record
        attempt = Attempt(
            run_id=record.run_id,
            uid=record.uid,
            namespace=order.namespace,
            name=order.name,
            slot=record.slot,
            attempt=record.attempt,
            version=order.version,
            deadline=self._context.monotonic() + HOOK_LIMIT,
            references=self._references,
        )
        try:
            async with asyncio.timeout(HOOK_LIMIT):
                return await self._hook(order.hook, attempt, record)
        except TimeoutError:
            return Result(False, f"the hook did not end within {HOOK_LIMIT:g} s")
        except Exception as error:  # a hook must not end the replica
            return Result(False, f"{type(error).__name__}: {error}")

    async def _settle(self, *ends: HookEnd) -> None:
        try:
            await self._context.store.settle_hooks(ends)
        except StoreError as error:  # when the claim ends, the hook is called again
            log.warning("could not record the end of a hook's call", error=str(error))

    async def _release(self) -> None:
        """Give back the calls that have not ended, for another replica."""
        ends = [HookEnd(call.run_id, call.number, call.attempt, 0) for call in self._tasks.values()]
        for task in self._tasks:
            task.cancel()
        if ends:
            log.warning("the replica shut down before some hooks had ended", calls=len(ends))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_LIMIT):
                    await self._settle(*ends)
