"""Redaction masks secrets as they are, and as they look in URLs and in JSON."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduledjob.engine.executor import OUTPUT_LIMIT, Attempt, Result
from scheduledjob.jobs.redaction import Redaction, redacted
from tests.jobs.container.pod_support import attempt

SECRET = 'p@ss w"rd/é'


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        "p%40ss%20w%22rd%2F%C3%A9",
        "p%40ss%20w%22rd%2f%c3%a9",
        "p@ss%20w%22rd/%C3%A9",
        'p@ss w\\"rd/é',
        'p@ss w\\"rd/\\u00e9',
    ],
)
def test_a_value_is_masked_in_each_form(shown: str) -> None:
    assert Redaction(SECRET).mask_text(f"<{shown}>") == "<***>"


def test_a_short_value_is_masked_as_it_is_only() -> None:
    assert Redaction("a b").mask_text("a b, a%20b") == "***, a%20b"


async def test_a_result_is_masked_and_shortened() -> None:
    result = await Redaction("hunter2").seal(
        Result(False, "no:\nhunter2 " + "x" * 500, output=b"hunter2" + b"y" * 5000)
    )
    assert result.reason.startswith("no: *** xxx")
    assert len(result.reason) == 400
    assert result.output == b"y" * OUTPUT_LIMIT


@pytest.mark.parametrize(
    ("reason", "masked"),
    [
        ("exit code 1", "exit code 1"),
        ("exit code 1: 1 error", "exit code 1: *** error"),
        ("timed out after 1m1s", "timed out after 1m1s"),
        ("killed by SIGKILL (exit code 137): 1", "killed by SIGKILL (exit code 137): ***"),
        ("HTTP 501, expected 2xx or 1xx", "HTTP 501, expected 2xx or ***xx"),
        ("1: exit code 1", "***: exit code ***"),
    ],
)
async def test_the_operators_own_words_are_kept(reason: str, masked: str) -> None:
    assert (await Redaction("1").seal(Result(False, reason))).reason == masked


async def test_bytes_that_are_no_text_are_kept() -> None:
    assert (await Redaction().seal(Result(True, output=b"\x80\x81"))).output == b"\x80\x81"


async def test_text_of_the_job_is_withheld() -> None:
    redaction = Redaction()
    redaction.withhold("Secret x is not known")
    redaction.withhold("another reason")
    result = await redaction.seal(Result(False, "exit code 3", output=b"hunter2"), "hunter2")
    assert result.reason == "exit code 3 (message withheld: Secret x is not known)"
    assert result.output == b"[output withheld: Secret x is not known]\n"
    assert await redaction.seal(Result(True)) == Result(True)


TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (f"Bearer {TOKEN}", "Bearer ***"),
        (f"a.{TOKEN}.b", "a.***.b"),
        (f"x{TOKEN}", "x***"),
        (f"{TOKEN}.{TOKEN}", "***.***"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ"),
        ("some.module.with.a.long.name.that.is.no.token", "some.module.with.a.long.name.that.is.no.token"),
    ],
)
def test_tokens_are_masked(shown: str, expected: str) -> None:
    assert Redaction(tokens=True).mask_text(shown) == expected
    assert Redaction().mask_text(shown) == shown


class _Executor:
    @redacted
    async def run(self, attempt: Attempt, redaction: Redaction) -> Result:
        redaction.remember("hunter2")
        if attempt.params == "raise":
            raise ValueError(f"hunter2 and {attempt.payload!r}")
        if attempt.params == "cancel":
            raise asyncio.CancelledError
        return Result(False, "hunter2", output=b"hunter2")


async def test_whatever_an_executor_returns_or_raises_is_masked() -> None:
    assert await _Executor().run(attempt()) == Result(False, "***", output=b"***")
    secret: dict[str, Any] = {"payload": b"letmein", "payload_is_secret": True}
    raised = await _Executor().run(attempt(params="raise", **secret))
    assert raised == Result(False, "ValueError: *** and b'***'")
    with pytest.raises(asyncio.CancelledError):
        await _Executor().run(attempt(params="cancel"))
