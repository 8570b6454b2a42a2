"""Python jobs: their interface, their executor, and how they are found.

A job is an async function of a ``Task``, or an object with such a method ``run``. It returns its task (the schedule
goes on) or None (the schedule is complete), or it raises (the attempt has failed, and is retried). The executor runs
tens of thousands of runs a second. So for a job that succeeds, it only makes the task, awaits the job and checks what
it returned.

A job runs in the replica's event loop, so it ends with the process and can't outlive its lease. If it is cancelled, it
may clean up; the executor waits for its end.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast, runtime_checkable

from scheduledjob.domain.time.instants import rfc3339
from scheduledjob.engine.executor import OUTPUT_LIMIT, Attempt, Result
from scheduledjob.engine.job_errors import is_from_outside
from scheduledjob.engine.task import Task
from scheduledjob.jobs.reasons import of_exception, timed_out
from scheduledjob.jobs.redaction import Redaction, redacted
from scheduledjob.jobs.values import MASK, Secrets

if TYPE_CHECKING:
    from types import TracebackType

MAX_FORMATTED = 32
"""Of an exception with more causes, members and notes than this, only the frames are shown."""
MAX_FORMATTED_MESSAGE = 64 * 1024
"""Characters. Of an exception with a longer message, only the frames are shown."""

ENTRY_POINT_GROUP = "scheduledjob.jobs"
"""The group of entry points by which packages announce jobs: the name is the kind, the object the job or its class."""


@runtime_checkable
class Job(Protocol):
    """A Python job as an object. An async function with the same argument is a job, too."""

    async def run(self, task: Task) -> Task | None:
        """Run an attempt. Return the task to go on, or None to complete the schedule; raise to fail and be retried."""
        ...


JobFunction: TypeAlias = Callable[[Task], Awaitable[Task | None]]


class JobExecutor:
    """Runs the attempts of a registered Python job."""

    def __init__(self, kind: str, job: Job | JobFunction) -> None:
        """Raises ``TypeError`` if ``job`` is neither an async function nor a ``Job``."""
        self.kind = kind
        self._call = _callable_of(kind, job)

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing to release."""

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing to do: a job ends, and stops, with the process."""

    def run(self, attempt: Attempt) -> Coroutine[Any, Any, Result]:
        # Not a coroutine itself, because most jobs have no secrets, and each would pay for another await.
        return self._run_redacted(attempt) if attempt.payload_is_secret else self._run(attempt)

    @redacted
    async def _run_redacted(self, attempt: Attempt, redaction: Redaction) -> Result:
        return await self._run(attempt, redaction.secrets)

    async def _run(self, attempt: Attempt, secrets: Secrets | None = None) -> Result:
        task = Task(
            attempt.name,
            self.kind,
            attempt.payload,
            attempt.slot,
            attempt.attempt,
            attempt.version,
            attempt.run_id,
            attempt.namespace,
            attempt.uid,
            attempt.params or {},
            payload_is_secret=attempt.payload_is_secret,
        )
        try:
            if attempt.timeout is None:
                returned = await self._call(task)
            else:
                returned = await self._within(attempt.timeout, task)
        except _TimedOutError as expired:
            return Result(
                False, timed_out(attempt.timeout or 0.0), output=await _shown(task, expired.__cause__, secrets)
            )
        except BaseException as error:
            if is_from_outside(error):
                raise
            return Result(False, await _reason(error, secrets), output=await _shown(task, error, secrets))
        result = self._result(attempt, task, returned)
        if secrets is not None:
            result.output = await _masked_tail(result.output, secrets)
        return result

    async def _within(self, seconds: float, task: Task) -> Task | None:
        # A job that returns or raises after its time limit has timed out nevertheless.
        cause: BaseException | None = None
        returned = None
        try:
            async with asyncio.timeout(seconds) as limit:
                returned = await self._call(task)
        except TimeoutError as error:
            if not limit.expired():
                raise
            cause = error.__cause__
        except BaseException as error:
            if not limit.expired() or is_from_outside(error):
                raise
            cause = error
        if limit.expired():
            raise _TimedOutError from cause
        return returned

    def _result(self, attempt: Attempt, task: Task, returned: object) -> Result:
        complete = returned is None
        kept = task if complete else returned
        if not isinstance(kept, Task):
            reason = f"the job returned {_a(kept)}: return its task to go on, or None to end its schedule"
            return Result(False, reason)
        payload, result, output = kept.payload, kept.result, kept.output
        if not (_storable(payload) and _storable(result) and isinstance(output, bytes)):
            what = "payload" if not _storable(payload) else "result" if not _storable(result) else "output"
            return Result(False, f"the job left {_a(getattr(kept, what))} in task.{what}: make it bytes{_HINTS[what]}")
        cleared = False
        if complete or payload is attempt.payload or attempt.payload_is_secret:
            payload = None  # unchanged, or read again from the Secret for the next run
        else:
            cleared = payload is None
        if not attempt.payload_is_secret:  # otherwise it is masked first
            output = _tail(output)
        return Result(True, "", None, output, complete, payload, result, payload_cleared=cleared)


_HINTS = {"payload": " (task.set_json writes JSON)", "result": " (task.set_result_json writes JSON)", "output": ""}


class _TimedOutError(Exception):
    """The time limit of the attempt has passed. (A TimeoutError is the job's own error.)"""


def _callable_of(kind: str, job: object) -> JobFunction:
    if isinstance(job, type):
        raise TypeError(f'job "{kind}" is the class {job.__name__}: register an instance, {job.__name__}()')
    call = job.run if isinstance(job, Job) else job
    if not callable(call):
        raise TypeError(f'job "{kind}" is {_a(job)}: register an async function, or an object with "async def run"')
    inner = inspect.unwrap(call)
    if not any(inspect.iscoroutinefunction(f) for f in (inner, call, getattr(call, "__call__", None))):  # noqa: B004 - its type matters, not only that it exists
        name = getattr(call, "__qualname__", type(call).__qualname__)
        raise TypeError(f'job "{kind}": {name} is not async: write "async def"')
    return cast("JobFunction", call)


def _a(value: object) -> str:
    return f"an object of type {type(value).__name__}"


def _storable(value: object) -> bool:
    return value is None or isinstance(value, bytes)


def _tail(output: bytes) -> bytes:
    return output if len(output) <= OUTPUT_LIMIT else output[-OUTPUT_LIMIT:]


async def _masked_tail(output: bytes, secrets: Secrets | None) -> bytes:
    return _tail(output if secrets is None else await secrets.masked(output))


async def _reason(error: BaseException, secrets: Secrets | None) -> str:
    if secrets is None:
        return of_exception(error)
    return await secrets.searched(lambda failure: of_exception(failure, secrets.mask_text), error, 0)


async def _shown(task: Task, error: BaseException | None, secrets: Secrets | None) -> bytes:
    """Return the tail of the job's output, followed by the traceback of its error."""
    output = task.output if isinstance(task.output, bytes) else b""
    if secrets is None:  # otherwise it is masked first
        output = _tail(output)
    if error is not None:
        # The frames of the executor come first. They are always the same, so leave them out.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__ and trace.tb_next is not None:
            trace = trace.tb_next
        try:
            lines = _traceback_of(error, trace)
        except BaseException:  # the __str__ of a job's exception may raise anything
            lines = [type(error).__name__]
        if output and not output.endswith(b"\n"):
            output += b"\n"
        output += "".join(lines).encode(errors="replace")
    return await _masked_tail(output, secrets)


def _traceback_of(error: BaseException, trace: TracebackType | None) -> list[str]:
    if _is_small(error):
        return traceback.format_exception(type(error), error, trace, limit=-50)
    # Formatting it would hold the event loop. The reason has the beginning of the message.
    return [
        "Traceback (most recent call last):\n",
        *traceback.format_tb(trace, limit=-50),
        f"{type(error).__name__}\n",
    ]


def _is_small(error: BaseException) -> bool:
    """Return whether an exception, with its causes, members and notes, takes little work to format."""
    pending, seen = [error], set[int]()
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        notes = getattr(found, "__notes__", ())
        if len(seen) + len(notes) > MAX_FORMATTED or any(
            len(text) > MAX_FORMATTED_MESSAGE for text in (str(found), *map(str, notes))
        ):
            return False
        pending += [other for other in (found.__cause__, found.__context__) if other is not None]
        if isinstance(found, BaseExceptionGroup):
            pending += found.exceptions[: MAX_FORMATTED + 1]
    return True


class PrintJob:
    """Prints a line with the slot, the name and a text, which is the param ``text`` or the payload.

    ``write`` is called with the line; None: print it to standard output.
    """

    kind: ClassVar[str] = "print"

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        if write is not None and not callable(write):
            raise TypeError(f"write is {type(write).__name__}: give a function that takes a line, such as print")
        self._write = write

    async def run(self, task: Task) -> Task:
        text = task.params.get("text")
        if text is None:
            text = MASK.decode() if task.payload_is_secret else (task.payload or b"").decode(errors="replace")
        name = f"{task.namespace}/{task.slug}" if task.namespace else task.slug
        line = f"{rfc3339(task.slot_instant)} {name} {text}".rstrip() + "\n"
        task.output = line.encode(errors="replace")
        if self._write is not None:
            self._write(line)
        else:
            sys.stdout.write(line)
            sys.stdout.flush()
        return task


class JobPluginError(Exception):
    """Entry points of ``scheduledjob.jobs`` can't be used. The message has a line for each."""


def discover_jobs(reserved: Container[str]) -> dict[str, Job | JobFunction]:
    """Return the jobs that installed packages announce, by kind. No job may have a ``reserved`` kind.

    To load an entry point runs code of its package, so call this only if the user asked for plugins. Raises
    ``JobPluginError``, which names each broken entry point and its package.
    """
    return load_jobs(entry_points(group=ENTRY_POINT_GROUP), reserved)


def load_jobs(points: Iterable[EntryPoint], reserved: Container[str]) -> dict[str, Job | JobFunction]:
    """Return the jobs of these entry points, by kind. Raises ``JobPluginError`` like ``discover_jobs``."""
    jobs: dict[str, Job | JobFunction] = {}
    owners: dict[str, EntryPoint] = {}
    problems: list[str] = []
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        try:
            if point.name in reserved:
                raise ValueError(f'"{point.name}" is built in: give the entry point another name')
            if point.name in owners:
                raise ValueError(f"{_distribution(owners[point.name])} has the same kind: uninstall one of them")
            jobs[point.name] = _loaded(point)
            owners[point.name] = point
        except (Exception, SystemExit) as error:
            what = str(error) if type(error) in (ValueError, TypeError) and error.args else of_exception(error)
            problems.append(
                f'entry point "{point.name}" ({point.value}) of {_distribution(point)} can\'t be used: {what}'
            )
    if problems:
        raise JobPluginError("\n".join(problems))
    return jobs


def _loaded(point: EntryPoint) -> Job | JobFunction:
    loaded: Any = point.load()
    job = loaded() if isinstance(loaded, type) else loaded
    _callable_of(point.name, job)
    return cast("Job | JobFunction", job)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
