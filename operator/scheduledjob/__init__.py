"""ScheduledJob: a job scheduler that never loses a run.

The names in ``__all__`` are the public surface and stay stable; everything else may change. They are imported when
they are first used, so that importing a part of the package (a command, a trigger) does not load all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.backoff import Exponential, Fixed
    from scheduledjob.domain.triggers.calendar_days import Calendar
    from scheduledjob.domain.triggers.cron import Cron, CronError
    from scheduledjob.domain.triggers.every import Every
    from scheduledjob.domain.triggers.once import At
    from scheduledjob.engine.store import SlugTaken, StoreError, StoreUnavailable
    from scheduledjob.engine.task import Task
    from scheduledjob.jobs.payload_jobs import CurlJob, ShellJob
    from scheduledjob.jobs.python.python_job import Job, PrintJob

    from .scheduler import Scheduler

_HOMES = {
    "At": "domain.triggers.once",
    "Calendar": "domain.triggers.calendar_days",
    "Cron": "domain.triggers.cron",
    "CronError": "domain.triggers.cron",
    "CurlJob": "jobs.payload_jobs",
    "Every": "domain.triggers.every",
    "Exponential": "domain.schedule.backoff",
    "Fixed": "domain.schedule.backoff",
    "Job": "jobs.python.python_job",
    "PrintJob": "jobs.python.python_job",
    "Scheduler": "scheduler",
    "ShellJob": "jobs.payload_jobs",
    "SlugTaken": "engine.store",
    "StoreError": "engine.store",
    "StoreUnavailable": "engine.store",
    "Task": "engine.task",
}

__all__ = [
    "At",
    "Calendar",
    "Cron",
    "CronError",
    "CurlJob",
    "Every",
    "Exponential",
    "Fixed",
    "Job",
    "PrintJob",
    "Scheduler",
    "ShellJob",
    "SlugTaken",
    "StoreError",
    "StoreUnavailable",
    "Task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
