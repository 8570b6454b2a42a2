"""Tasks that jobs start: one that raises ``SystemExit`` or ``KeyboardInterrupt`` fails, and nothing else ends.

asyncio ends its event loop when a task raises one of these. If a job starts a task that calls ``sys.exit()``, that
would end the program, and then every other replica that runs the job. So while a replica runs, the coroutine of a task
that an attempt starts is wrapped. Its task fails with ``JobTaskExitError`` instead, which the job gets where it awaits
the task. Tasks that other parts of the program start are left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

from .job_errors import JobTaskExitError, is_from_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    TaskFactory: TypeAlias = Callable[..., asyncio.Future[Any]]

_in_job: ContextVar[bool] = ContextVar("scheduledjob_in_job", default=False)
"""True in the task of an attempt, and in the tasks and callbacks that it starts."""


def context_of_jobs() -> Context:
    """Return a copy of the current context for the tasks of attempts. Each of them needs a copy of its own."""
    context = copy_context()
    context.run(_in_job.set, True)
    return context


class ContainedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that raises ``JobTaskExitError`` for the exceptions that end an event loop."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # cr_frame and others, which asyncio reads to describe a task

    def __await__(self) -> Any:
        return self

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw, *error)

    def close(self) -> None:
        self._inner.close()

    @staticmethod
    def _step(step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except (SystemExit, KeyboardInterrupt) as error:
            if is_from_outside(error):
                raise
            raise JobTaskExitError from error


class ContainingFactory:
    """A task factory that contains the tasks of jobs, for all replicas in one event loop."""

    def __init__(self, previous: TaskFactory | None) -> None:
        self.previous = previous
        self.replicas = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Future[Any]:
        if self.replicas and _in_job.get() and asyncio.iscoroutine(coroutine):
            coroutine = ContainedCoroutine(coroutine)
        if self.previous is not None:
            return self.previous(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)


@contextmanager
def contained_tasks() -> Iterator[None]:
    """Contain the tasks of jobs in the current event loop."""
    loop = asyncio.get_running_loop()
    current = loop.get_task_factory()
    factory = current if isinstance(current, ContainingFactory) else ContainingFactory(current)
    loop.set_task_factory(factory)
    factory.replicas += 1
    try:
        yield
    finally:
        factory.replicas -= 1
        if not factory.replicas and loop.get_task_factory() is factory:
            loop.set_task_factory(factory.previous)
