"""Resolving values and masking those that are secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.values import MASK, Secrets, resolve


class Known:
    """References to a Secret and a ConfigMap."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        try:
            return {("Secret", "db", "password"): b"hunter2\n", ("ConfigMap", "app", "logo"): b"\xff\xfe"}[
                kind, name, key
            ]
        except KeyError:
            raise LookupError(f"{kind} {name}, key {key}: not found") from None


async def test_a_plain_value_is_not_a_secret() -> None:
    secrets = Secrets()
    assert await resolve(Value("plain"), None, secrets) == "plain"
    assert secrets.mask(b"plain") == b"plain"


async def test_a_secret_is_resolved_and_remembered_with_and_without_its_line_end() -> None:
    secrets = Secrets()
    assert await resolve(Value(secret=("db", "password")), Known(), secrets) == "hunter2\n"
    assert secrets.mask(b"it is hunter2, really") == b"it is ***, really"
    assert secrets.mask_text("hunter2") == "***"


@pytest.mark.parametrize("references", [None, Known()])
async def test_a_dangling_reference_is_named_unless_it_is_optional(references: Known | None) -> None:
    with pytest.raises(LookupError, match="Secret mail, key token: "):
        await resolve(Value(secret=("mail", "token")), references)
    assert await resolve(Value(secret=("mail", "token"), optional=True), references) is None


async def test_a_value_that_is_not_text_says_where() -> None:
    with pytest.raises(ValueError, match="ConfigMap app, key logo: byte 0 is not UTF-8"):
        await resolve(Value(config_map=("app", "logo")), Known())


def test_each_line_of_a_long_secret_is_masked_except_short_ones() -> None:
    secrets = Secrets()
    secrets.remember('{\n  "token": "abcdef"\n}')
    assert secrets.mask(b'{ "token": "abcdef" }') == b"{ *** }"


def test_white_space_alone_is_not_a_secret() -> None:
    secrets = Secrets()
    secrets.remember(" \n")
    assert secrets.mask(b"a \n b") == b"a \n b"
    assert secrets.longest == 0


@given(st.lists(st.binary(min_size=2, max_size=6), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_no_secret_is_left_anywhere(values: list[bytes], between: list[bytes]) -> None:
    secrets = Secrets()
    for value in values:
        secrets.remember(value)
    data = b"".join(piece + value for piece, value in zip(between, values, strict=False))
    remaining = data
    for start, end in reversed(secrets.spans(data)):
        remaining = remaining[:start] + b"\0\0\0\0\0\0\0\0" + remaining[end:]
    for value in values:
        if value.strip() and b"\0" not in value:
            assert value not in remaining
    assert len(secrets.mask(data)) <= len(data) + len(MASK) * len(secrets.spans(data))
