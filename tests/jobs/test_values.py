"""Resolving values and masking those that are secret."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.output import bytes_to_keep, condensed
from scheduledjob.jobs.secret_search import SecretSearch
from scheduledjob.jobs.values import MASK, MOST_SECRET_BYTES, MOST_SECRET_VALUES, WITHHELD, Secrets, resolve


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


@given(st.sets(st.text("ab", max_size=5), max_size=8), st.text("ab", max_size=40))
def test_every_occurrence_of_every_secret_is_found(texts: set[str], text: str) -> None:
    forms, data = [form.encode() for form in texts if form], text.encode()
    covered = {
        at + offset
        for form in forms
        for at in range(len(data))
        if data.startswith(form, at)
        for offset in range(len(form))
    }
    assert {at for start, end in SecretSearch(forms).spans(data) for at in range(start, end)} == covered


@pytest.mark.parametrize(
    "lines",
    [
        [b"%08d" % number for number in range(100_000)],
        [b"a" * length for length in range(8, 1400)],
        [b"a" * 900 + b"%04d" % number for number in range(1000)],
    ],
)
@pytest.mark.parametrize("output", [b"0123456789" * 26_000, b"a" * 262_144, (b"a" * 501 + b"b") * 522])
def test_a_large_secret_is_searched_once_for_each_byte_of_the_output(lines: list[bytes], output: bytes) -> None:
    search = SecretSearch(lines)
    search.spans(output)
    assert search.steps <= len(output)


def test_a_long_secret_is_masked_whole_and_also_where_only_a_part_of_it_is_printed() -> None:
    secret = b"".join(b"%06d" % number for number in range(2000))
    secrets = Secrets(secret)
    assert secrets.mask(b"<" + secret + b">") == b"<***>"
    assert secrets.mask(secret[1024:4096] + b".") == b"***."
    assert secrets.longest == 1024


async def test_an_output_with_a_large_secret_is_condensed_without_it() -> None:
    secret = b"".join(b"%06d" % number for number in range(100_000))
    secrets = Secrets(secret)
    head, tail = bytes_to_keep(secrets)
    data = b"x" * 500 + secret + b"y" * 500
    kept = await condensed(data[:head], data[-tail:], len(data), secrets)
    assert kept.startswith(b"x" * 500 + b"\n[...")
    assert kept.endswith(b"...]\n" + b"y" * 500)


async def test_a_long_search_runs_in_a_thread_and_a_short_one_does_not() -> None:
    secrets = Secrets(b"\n".join(b"%08d" % number for number in range(2000)))
    used: list[str] = []

    def search(data: bytes) -> bytes:
        used.append(threading.current_thread().name)
        return secrets.mask(data)

    assert await secrets.searched(search, b"is 00000042", 11) == b"is ***"  # the secrets are sorted first
    assert await secrets.searched(search, b"is 00000042", 11) == b"is ***"
    assert await secrets.searched(search, b"x" * 100_000, 100_000) == b"x" * 100_000
    assert [name.startswith("compute") for name in used] == [True, False, True]
    assert await secrets.masked_text("no 00000007") == "no ***"


async def test_an_output_is_withheld_if_there_are_too_many_secrets_to_mask_them() -> None:
    secrets = Secrets(b"hunter2", b"x" * MOST_SECRET_BYTES)
    assert await secrets.masked(b"it is hunter2") == WITHHELD
    assert secrets.mask(b"") == b""
    many = Secrets(*(b"%08d" % number for number in range(MOST_SECRET_VALUES + 1)))
    assert await many.masked(b"it is 00000007") == WITHHELD


async def test_long_searches_of_one_namespace_leave_a_thread_to_others() -> None:
    end = threading.Event()
    masked = [Secrets(b"hunter2", namespace="team-a") for _ in range(5)]
    long = [asyncio.create_task(secrets.searched(lambda _: end.wait(), b"", 100_000)) for secrets in masked]
    try:
        async with asyncio.timeout(60):
            assert (
                await Secrets(b"hunter2", namespace="team-b").masked(b"x" * 10_000 + b"hunter2") == b"x" * 10_000 + MASK
            )
    finally:
        end.set()
    assert await asyncio.gather(*long) == [True] * 5
