"""Arguments of the library that are refused, each with an error that says what to write instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import scheduledjob
from scheduledjob import Scheduler
from tests.library.support import Ran, with_job


def make(text: str) -> object:
    """Run what a user may type, without type checking."""
    return eval(text, vars(scheduledjob) | {name: getattr(scheduledjob, name) for name in scheduledjob.__all__} | GIVEN)


GIVEN: dict[str, Any] = {"datetime": datetime, "timedelta": timedelta}


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        ('Every("5m")', TypeError, "an interval of '5m' is not allowed: give a number of seconds, 300 for this"),
        ("Every(timedelta(minutes=5))", TypeError, "give a number of seconds, 300 for this"),
        ('Every("30")', TypeError, "30 for this"),
        ('Every("often")', TypeError, "a number of seconds, as in 30"),
        ("Every(True)", TypeError, "an interval of True"),
        ("Every(None)", TypeError, "an interval of None"),
        ('Every(30, "2026-12-01T10:00:00Z")', TypeError, r"not a datetime: give an aware one, as in datetime\(2026"),
        ("At(5)", TypeError, "5 is not a moment: give an aware datetime, or text"),
        ('At("2026-12-01T10:00:00Z").next("now")', TypeError, "'now' is not a datetime: give an aware one"),
        ('At("2026-12-01T10:00:00Z").previous(datetime(2026, 1, 1))', ValueError, "has no time zone"),
        ("Cron(5)", ValueError, 'an expression of 5 is not allowed: give text, as in "30 2'),
        ("Cron(['*'])", ValueError, "an expression of"),
        ('Cron("* * * * *", None)', ValueError, 'a time zone of None is not allowed: give text, as in "Europe/Lisbon"'),
        ('Cron("H * * * *", seed=5)', ValueError, "a seed of 5"),
        ('Cron("* * * * *").next("now")', TypeError, "'now' is not a datetime"),
        ('Exponential("10s")', TypeError, "initial of '10s' is not allowed: give a number of seconds, 10 for this"),
        ('Exponential(max="1h30m")', TypeError, "5400 for this"),
        ('Exponential(multiplier="2")', TypeError, "multiplier '2' is not allowed: a number"),
        ("Exponential(max_retries=2.5)", TypeError, "max_retries 2.5 is not allowed: a whole number"),
        ('Fixed("10s")', TypeError, r"give a list of waits in seconds, as in \[10.0, 60.0\]"),
        ("Fixed(10.0)", TypeError, "give a list of waits"),
        ('Fixed(["10s"])', TypeError, "10 for this"),
        ("ShellJob(None)", ValueError, 'shell None is not allowed: give the path of a program, as in "/bin/sh"'),
        ('CurlJob("G T")', ValueError, "method 'G T' is not allowed"),
        ("CurlJob(headers=[('a', 'b')])", TypeError, "headers are list: give a mapping"),
        ("CurlJob(headers={'a': 5})", TypeError, "header 'a': 5 is not allowed: give text"),
        ('PrintJob("x")', TypeError, "write is str: give a function"),
        ("Scheduler(None)", TypeError, 'url is NoneType: give text, as in "memory:"'),
        ('Scheduler("memory:", instance=None)', ValueError, "instance None is not allowed: give a name"),
        ('Scheduler("memory:", heartbeat="60s")', ValueError, "a number of seconds, at least 0.001, 60 for this"),
        ('Scheduler("memory:", capacity=1.5)', ValueError, "capacity of 1.5 is not allowed: a whole number"),
        ('Scheduler("memory:").job(print)', TypeError, r'write @scheduler.job\("print"\)'),
        ('Scheduler("memory:").register(PrintJob(), name="")', ValueError, "name '' is not allowed"),
        ('Scheduler("memory:").register(PrintJob(), name=5)', ValueError, "name 5 is not allowed"),
        ('Scheduler("memory:").register(PrintJob(), backoff=[1])', TypeError, r"backoff is list: give Exponential\("),
    ],
)
def test_a_wrong_argument_type_is_refused_with_an_example(typed: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(typed)


def test_invalid_registrations_are_refused() -> None:
    scheduler, _ = with_job()
    with pytest.raises(ValueError, match="'job' is registered already"):
        scheduler.register(Ran(), name="job")
    with pytest.raises(ValueError, match=r"Ran has no kind: register it with name="):
        scheduler.register(Ran())
    with pytest.raises(TypeError, match=r"give Cron\(\.\.\.\), Every\(\.\.\.\), Calendar\(\.\.\.\) or At"):
        scheduler.register(Ran(), name="x", trigger="* * * * *")  # type: ignore[arg-type]  # what a user may give
    with pytest.raises(TypeError, match='write "async def"'):
        scheduler.job("y")(lambda task: task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "mysql://x"}, "'mysql' names no store"),
        ({"url": "nothing"}, "give one of memory:"),
        ({"heartbeat": 0.0}, "heartbeat of 0.0 is not allowed"),
        ({"lease": float("nan")}, "lease of nan is not allowed"),
        ({"capacity": 0}, "capacity of 0 is not allowed"),
        ({"grace": -1}, "grace of -1 is not allowed"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(**({"url": "memory:"} | settings))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "job 'job' has no trigger here: give delay=0.0 to run it now, delay= or at="),
        ({"delay": 1.0, "at": datetime.now(UTC)}, ValueError, "delay and at are both given"),
        ({"delay": -1.0}, ValueError, "delay -1.0 is not allowed"),
        ({"delay": float("nan")}, ValueError, "delay nan is not allowed"),
        (
            {"delay": "5m"},
            ValueError,
            "delay '5m' is not allowed: a number of seconds from now, 0 or more, 300 for this",
        ),
        ({"at": "tomorrow"}, TypeError, "at is str: give an aware datetime"),
        ({"at": datetime(2030, 1, 1)}, ValueError, "has no time zone"),  # noqa: DTZ001  # what a user may give
        ({"delay": 0.0, "payload": "text"}, TypeError, "payload is str: give bytes"),
        ({"delay": 0.0, "kind": "other"}, ValueError, r"no job 'other' is registered here.*\(registered: job\)"),
        ({"delay": 0.0, "slug": ""}, ValueError, "slug '' is not allowed"),
        ({"delay": 0.0, "slug": "a\0b"}, ValueError, "is not allowed: 1 to 253 characters of UTF-8 without NUL"),
        ({"delay": 0.0, "slug": "a\ud800"}, ValueError, "is not allowed: 1 to 253 characters of UTF-8 without NUL"),
        ({"delay": 0.0, "slug": "a" * 254}, ValueError, "is not allowed: 1 to 253 characters"),
    ],
)
async def test_invalid_schedules_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    scheduler, job = with_job()
    async with scheduler:
        with pytest.raises(error, match=message):
            await scheduler.schedule(**({"slug": "a", "kind": "job"} | arguments))
        assert await scheduler.slugs() == []
    assert job.tasks.empty()


async def test_slugs_and_schedules_of_a_wrong_type_are_refused() -> None:
    async with Scheduler("memory:", execute=False) as client:
        for act in (client.get, client.delete):
            with pytest.raises(TypeError, match="slug is int: give text"):
                await act(5)  # type: ignore[arg-type]  # what a user may give
        with pytest.raises(TypeError, match="schedules is dict: give a list, as in"):
            await client.schedule_many({"slug": "a", "kind": "k"})  # type: ignore[dict-item]  # as above
        with pytest.raises(TypeError, match="a schedule is str: give a mapping, as in"):
            await client.schedule_many(["a"])  # type: ignore[list-item]  # as above


@pytest.mark.parametrize("tenant", [7, "n" * 254, "a\0b", "a\ud800", None])
async def test_a_tenant_that_is_not_allowed_is_refused(tenant: Any) -> None:
    scheduler, _ = with_job()
    async with scheduler:
        with pytest.raises(ValueError, match=r"tenant .* is not allowed: up to 253"):
            await scheduler.schedule("a", "job", delay=0.0, tenant=tenant)


@pytest.mark.parametrize("weight", [0, -1, 101, "2"])
def test_a_weight_that_is_not_allowed_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"of tenant 'a' is not allowed: a number from 0.01 to 100"):
        Scheduler("memory:", weights={"a": weight})


def test_weights_that_are_no_dict_are_refused() -> None:
    weights: Any = [("a", 1.0)]
    with pytest.raises(TypeError, match=r"weights of .* are not allowed: a dict, as in \{'team-a': 2.0\}"):
        Scheduler("memory:", weights=weights)


def test_a_limit_of_bytes_is_not_compared_with_seconds() -> None:
    limit: Any = "1MiB"
    with pytest.raises(ValueError, match=r"^max_result of '1MiB' is not allowed: a whole number, at least 1$"):
        Scheduler("memory:", max_result=limit)
