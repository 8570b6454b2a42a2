"""Errors are reported in one line, without passwords."""

from __future__ import annotations

import pytest

from scheduledjob.cli.shared.command_errors import Mask, in_one_line, lone


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://me:s3cret@host/db", "no s3cret here"),
        ("postgresql://me:s3%40cret@host/db", "neither s3@cret nor s3%40cret"),
        ("postgresql://host/db?user=me&password=s3cret&sslmode=require", "no s3cret here"),
    ],
)
def test_passwords_are_masked_encoded_and_decoded(url: str, text: str) -> None:
    masked = Mask(url)(text)
    assert "s3" not in masked
    assert masked.endswith("***") or masked.endswith("*** here")


@pytest.mark.parametrize("url", ["memory:", "postgresql://me@host/db", "postgresql://me:x@host/db", "http://[broken"])
def test_text_without_a_password_is_unchanged(url: str) -> None:
    assert Mask(url)("the next host is an example") == "the next host is an example"


def test_an_error_is_one_line() -> None:
    assert in_one_line(ValueError("first\n  second")) == "first second"
    assert in_one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_group_with_one_failure_shows_that_failure() -> None:
    inner = ValueError("this")
    assert lone(ExceptionGroup("", [ExceptionGroup("", [inner])])) is inner
    assert lone(inner) is inner
