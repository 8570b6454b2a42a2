"""The state machine of one schedule: what follows from time passing, from edits, and from attempts ending.

This is the heart of the product, and it does no I/O. The owner of a row loads a ``Schedule``, reports what happens
(``recover``, ``apply_revision``, ``request``, ``attempt_ended`` and so on), asks for what is to be done now (``step``)
and when to ask again (``wake_at``), and writes the state. Everything that a user can configure is decided here or in a
module beside it: runs in ``runs.py``, slots of triggers in ``due.py`` and ``misfire.py``, overlap in
``concurrency.py``, slots that follow other runs in ``followed_runs.py``.

What may happen to a run depends on where the state has it:

| Event | From | To |
|---|---|---|
| the slot before it is decided | - | PLANNED (``state.next``) |
| a followed run has ended | - | UPCOMING (``state.upcoming``) |
| it is due or requested, and the policy lets it start | -, PLANNED, UPCOMING | ACTIVE (``state.runs``) |
| it is due or requested, and the policy lets it wait | -, PLANNED, UPCOMING | WAITING (``state.waiting``) |
| the misfire rule or the policy passes over it | PLANNED, UPCOMING, WAITING | counted as missed or skipped |
| there is room | WAITING | ACTIVE |
| its attempt starts (``attempt_started``) | ACTIVE | EXECUTING (``schedule.executing``, too) |
| its attempt fails with a retry left, or is lost | EXECUTING | ACTIVE, due after the backoff |
| its attempt ends otherwise | EXECUTING | ended, with a record |
| it is cancelled | WAITING, ACTIVE | ended, with a record |
| it is cancelled | EXECUTING | EXECUTING, with a ``cancel_reason``, until its attempt has stopped |
| its owner died (``recover``) | PLANNED and due, ACTIVE and due | ACTIVE, as an attempt that was lost or is adopted |

One rule carries the promise that nothing runs twice silently: *a run may start only if the stored state already says
so*. A released row names the slot that it waits for (``state.next``). A replica that claims the row may start that
slot without another write, and one that finds it due under a dead owner counts an attempt as lost. A run that was
decided since the last write is *unstored* (``write_tracker.py``), and ``step`` does not return it.

A *detached* attempt (a Pod) is not lost with its replica. ``step`` returns the same attempt to the next owner at once,
and its executor continues with what it finds of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import due, followed_runs, requests, runs
from .actions import Actions, EndDetails, identities
from .concurrency import has_room
from .schedule import Schedule
from .state import Completion, Outcome, Run, State, run_id

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .definition import Definition
    from .misfire import Slots
    from .requests import Requests

MAX_STARTS = 100
"""Attempts that one call of ``step`` starts. The rest is due at once, so that their start does not hold the event loop.
"""
MAX_REMEMBERED_REQUESTS = 32
"""How many handled requests a state remembers, unless the object still makes more."""

# ---------------------------------------------------------------- what happened


def recover(schedule: Schedule, now: Instant, *, edited: bool = False) -> None:
    """Take over from a dead owner: count whatever could have started as started, and as lost.

    A detached attempt continues instead. The planned slot could not have started if another run is before it, because
    that takes a write first. If the definition was ``edited`` since, the policy of the dead owner is not known, and the
    slot may have started even so.
    """
    state, planned = schedule.state, schedule.state.next
    if planned is not None and planned.due <= now and schedule.open:
        room = not state.waiting and has_room(schedule.definition, state, planned)
        if room or edited:
            _recover_planned(schedule, planned, room=room)
    for run in list(state.runs):
        if run.due <= now:
            run.begun = run.begun or run.due
            runs.lose_attempt(schedule, run, now)
    # A slot that has come due in the meantime may replace what is active, before that continues.
    due.plan_next(schedule, now)


def _recover_planned(schedule: Schedule, planned: Run, *, room: bool) -> None:
    """The dead owner may have started the planned slot."""
    state = schedule.state
    if schedule.definition.exclude and schedule.slots is not None:
        state.excluded += schedule.slots.count(state.decided_until, planned.slot)[1]
    state.decided_until = max(state.decided_until, planned.slot)
    state.started += 1
    state.next = None
    if room:
        state.runs.append(planned)
        return
    planned.begun = planned.due
    if planned.detached and schedule.detached:
        planned.adoptable = True
    else:
        planned.attempt, planned.lost = 2, 1
    state.waiting.append(planned)
    schedule.writes.changed = True


def replace_definition(
    schedule: Schedule, definition: Definition, slots: Slots | None, *, detached: bool = False
) -> None:
    """Follow another definition from now on. Call ``apply_revision`` next."""
    schedule.definition = definition
    schedule.slots = slots
    schedule.detached = detached


def apply_revision(
    schedule: Schedule,
    revision: int,
    written_at: Instant,
    first: Instant | None,
    generation: int = 0,
    *,
    reopen: bool = False,
) -> None:
    """Take in another revision of the desired state. The definition and the slots are the new ones already.

    An edit or a resume never replays the past. Not every revision is an edit: a manual request or a touch makes one,
    too, and leaves a pause as it is. ``written_at``: when the desired state was edited last. ``first``: the first slot,
    if the client set one; it is planned once for each ``written_at``. ``generation``: that of the object in a cluster,
    or 0. ``reopen``: the schedule goes on even if its job completed it before this revision.
    """
    state, definition = schedule.state, schedule.definition
    schedule.writes.changed = True
    state.revision = revision
    decided_before = state.decided_until
    schedule.definition_changed_at = written_at
    when = definition.when_digest
    restart = False  # whether slots count only from now on
    if when != state.when:
        state.when = when
        restart = True
        if state.completed is Completion.NO_SLOT:
            state.completed = None
    if state.completed is Completion.MAX_RUNS and not schedule.max_runs_reached:
        state.completed = None
    if reopen and state.completed is Completion.JOB:
        state.completed = None
        restart = True
    if state.paused and (generation != state.generation if generation else written_at != state.paused_under):
        state.paused = False
        state.paused_under = state.failures_in_row = 0
        restart = True
    state.generation = generation
    if state.suspended and not definition.suspend:
        state.expect_from = written_at
        restart = True
    if restart:
        state.decided_until = max(state.decided_until, written_at)
        followed_runs.start_anew(state, written_at)
    state.suspended = definition.suspend
    if state.suspended:
        runs.drop_waiting(schedule)
    overdue_from = _overdue_from(schedule)
    if state.overdue and (overdue_from is None or overdue_from > written_at):
        state.overdue = False
    known, state.first_named_at = state.first_named_at == written_at, written_at if first is not None else 0
    if first is not None and not known and state.completed is not Completion.JOB:
        state.completed = None
        runs.drop_named(schedule)
        repeat = revision if first <= decided_before else 0
        state.next = schedule.new_run(first, first, named=True, repeat=repeat)
        schedule.writes.add(state.next)
    elif not (known and _waits_for(schedule, first)) and (restart or not _keeps_next(schedule)):
        state.next = None


def _waits_for(schedule: Schedule, first: Instant | None) -> bool:
    """Return whether the planned slot is the one that the client named, which stays then."""
    planned = schedule.state.next
    return planned is not None and planned.slot == first and schedule.open and planned.detached is schedule.detached


def _keeps_next(schedule: Schedule) -> bool:
    """Return whether the planned slot is still the next one. It is stored, so it can start without another write."""
    planned = schedule.state.next
    return (
        planned is not None
        and schedule.open
        and bool(schedule.state.when)
        and planned.detached is schedule.detached
        and not planned.named
        and not schedule.max_runs_reached
        and schedule.slots is not None
        and schedule.slots.next(schedule.state.decided_until) == planned.slot  # not one that a client named at first
    )


def request(schedule: Schedule, wanted: Requests, since: Instant) -> None:
    """Take in the manual requests, written at ``since``. ``step`` carries out those that are new."""
    handled = requests.is_handled(wanted, schedule.state)
    schedule.pending = None if handled else requests.PendingRequests(wanted, since)


# ---------------------------------------------------------------- what is to be done


def step(schedule: Schedule, now: Instant) -> Actions:
    """Return what is due at ``now``: the runs to start and to cancel.

    Call ``attempt_started`` for each run to start; otherwise the next call returns the run again.
    """
    actions, state = Actions(), schedule.state
    while (planned := state.next) is not None and planned.due <= now and schedule.open:
        due.start_due(schedule, planned, now, actions)
        if state.waiting:
            runs.promote(schedule)
        due.plan_next(schedule, now)
    if state.upcoming and schedule.open:
        followed_runs.start_upcoming(schedule, now, actions)
    if schedule.pending is not None:
        wanted, schedule.pending = schedule.pending.requests, None
        _handle_requests(schedule, wanted, now, actions)
    if state.waiting:
        runs.promote(schedule)
    if state.runs:
        _start_attempts(schedule, now, actions)
        if state.waiting:
            runs.promote(schedule)
    if state.next is None:
        due.plan_next(schedule, now)
    if schedule.definition.expect_success_within is not None:
        _check_overdue(schedule, now, actions)
    return actions


def _start_attempts(schedule: Schedule, now: Instant, actions: Actions) -> None:
    """Start the attempts that are due, of runs that are stored."""
    total = schedule.definition.timeouts.total
    executing = identities(schedule.executing) if schedule.executing else ()
    for run in list(schedule.state.runs):
        if run.due <= now and id(run) not in executing:
            if run.detached is not schedule.detached:
                runs.move_attempt(schedule, run, now)
            elif total is not None and run.begun and now >= run.begun + total and not run.adoptable:
                reason = "timeouts.total passed before the next attempt"
                runs.finish(schedule, run, Outcome.FAILED, now, EndDetails(reason))
            elif not schedule.writes.is_unstored(run):
                actions.start += (run,)
                if len(actions.start) >= MAX_STARTS:
                    break


def prepare_release(schedule: Schedule, now: Instant) -> None:
    """Bring the state into a form that another owner can continue: what comes next is named, and nothing starts."""
    runs.promote(schedule)
    due.plan_next(schedule, now)
    if schedule.poll_in_flight:
        schedule.poll_in_flight = False
        followed_runs.plan_poll(schedule, now)


def wake_at(schedule: Schedule) -> Instant | None:
    """Return when ``step`` next has something to do if no attempt ends before; None: never."""
    state = schedule.state
    wake = _overdue_at(schedule) if schedule.definition.expect_success_within is not None else None
    if (state.next is not None or schedule.poll_at is not None or state.upcoming) and schedule.open:
        if state.next is not None and (wake is None or state.next.due < wake):
            wake = state.next.due
        poll_at = schedule.poll_at
        if poll_at is not None and not schedule.poll_in_flight and (wake is None or poll_at < wake):
            wake = poll_at
        for run in state.upcoming:
            if wake is None or run.due < wake:
                wake = run.due
    if state.runs:
        executing = identities(schedule.executing)
        for run in state.runs:
            if (wake is None or run.due < wake) and id(run) not in executing:
                wake = run.due
    if schedule.pending is not None and (wake is None or schedule.pending.since < wake):
        wake = schedule.pending.since
    return wake


def awaits_write(schedule: Schedule, now: Instant) -> bool:
    """Return whether a run is due that may start as soon as the state is stored."""
    return schedule.writes.changed and any(
        run.due <= now and schedule.writes.is_unstored(run) for run in schedule.state.runs
    )


def _check_overdue(schedule: Schedule, now: Instant, actions: Actions) -> None:
    overdue_at = _overdue_at(schedule)
    if overdue_at is not None and overdue_at <= now:
        schedule.state.overdue = True
        schedule.writes.changed = True
        actions.became_overdue = True


def _overdue_at(schedule: Schedule) -> Instant | None:
    """Return when the schedule becomes overdue; None: never, or it is overdue already."""
    return None if schedule.state.overdue else _overdue_from(schedule)


def _overdue_from(schedule: Schedule) -> Instant | None:
    within, state = schedule.definition.expect_success_within, schedule.state
    if within is None or state.suspended or state.completed is not None:
        return None
    return max(state.last_success or 0, state.expect_from) + within


# ---------------------------------------------------------------- manual requests


def _handle_requests(schedule: Schedule, wanted: Requests, now: Instant, actions: Actions) -> None:
    """Do what is requested and was not done before."""
    state = schedule.state
    entries: set[str] = set()
    for made in requests.in_order(wanted):
        for request, entry in requests.entries_of(made).items():
            entries.add(entry)
            if entry in state.handled:
                continue
            if request == "resume":
                _resume(schedule, now)
            elif request == "cancel":
                _cancel(schedule, made.cancel, now, actions)
            else:
                _run_now(schedule, made, now, actions)
            state.handled += (entry,)
            schedule.writes.changed = True
    # What the object still requests is remembered, however old it is. Otherwise it would be done again.
    keep = max(0, MAX_REMEMBERED_REQUESTS - len(entries))
    others = [entry for entry in state.handled if entry not in entries]
    if len(others) > keep:
        dropped = set(others[: len(others) - keep])
        state.handled = tuple(entry for entry in state.handled if entry not in dropped)


def _resume(schedule: Schedule, now: Instant) -> None:
    state = schedule.state
    if state.paused:
        state.paused = False
        state.paused_under = 0
        state.failures_in_row = 0
        state.decided_until = max(state.decided_until, now)
        followed_runs.start_anew(state, now)
        followed_runs.plan_poll(schedule, now)


def _cancel(schedule: Schedule, wanted_id: str, now: Instant, actions: Actions) -> None:
    for run in [*schedule.state.runs, *schedule.state.waiting]:
        if run_id(schedule.uid, run) == wanted_id and runs.cancel(schedule, run, now, "cancelled by hand"):
            actions.cancel += (run,)


def _run_now(schedule: Schedule, wanted: Requests, now: Instant, actions: Actions) -> None:
    run = Run(slot=now, due=now, token=wanted.run, payload=wanted.payload, detached=schedule.detached)
    if schedule.state.completed is Completion.JOB:
        runs.finish(schedule, run, Outcome.CANCELLED, now, EndDetails(runs.COMPLETED_REASON))
        return
    if wanted.dropped:
        runs.finish(schedule, run, Outcome.CANCELLED, now, EndDetails(requests.why_dropped(wanted)))
        return
    schedule.writes.add(run)
    runs.admit(schedule, run, now, actions)


# ---------------------------------------------------------------- new schedules


def first_state(
    definition: Definition,
    slots: Slots | None,
    uid: str,
    created: Instant,
    first: Instant | None = None,
    *,
    detached: bool = False,
) -> State:
    """Return the state of a new schedule. ``first``: its first slot, in place of that of its triggers."""
    state = State(decided_until=created, expect_from=created, suspended=definition.suspend, when=definition.when_digest)
    schedule = Schedule("", uid, definition, slots, state, detached=detached)
    if schedule.follows:
        state.followed = created
    if first is not None and not definition.suspend:
        state.next = schedule.new_run(first, first)
    else:
        due.plan_next(schedule, created)
    return state


def first_wake(definition: Definition, state: State, now: Instant) -> Instant:
    """Return when a schedule with its first state has to be claimed: for its first slot, or because it is overdue."""
    wake = state.next.due if state.next is not None else now
    within = definition.expect_success_within
    return wake if within is None else min(wake, state.expect_from + within)
