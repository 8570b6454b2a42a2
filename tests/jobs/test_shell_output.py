"""Shortened output: of limited length, with head and tail, and without secrets wherever the cuts are."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.executor import OUTPUT_LIMIT
from scheduledjob.jobs.output import bytes_to_keep, condense
from scheduledjob.jobs.redaction import Redaction
from scheduledjob.jobs.values import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = re.compile(rb"\n\[\.\.\. (\d+) bytes left out \.\.\.\]\n")


def kept(data: bytes, *values: str) -> bytes:
    """Shorten ``data`` as the helper and the executor do."""
    secrets = Secrets()
    for value in values:
        secrets.remember(value)
    head, tail = bytes_to_keep(secrets)
    rest = data[head:]
    return condense(data[:head], rest[-tail:], len(data), secrets)


SHOWN: dict[str, Callable[[bytes], bytes]] = {
    "base64": lambda secret: base64.b64encode(b"user:" + secret),
    "base64 in lines": lambda secret: base64.encodebytes(b"user:" + secret),
    "hexadecimal": lambda secret: secret.hex().encode(),
    "UTF-16": lambda secret: secret.decode().encode("utf-16-le"),
    "a letter in each line": lambda secret: b"\n".join(secret[at : at + 1] for at in range(len(secret))),
    "colours": lambda secret: b"".join(b"\x1b[3%dm%c" % (at % 8, byte) for at, byte in enumerate(secret)),
}


@given(st.sampled_from(sorted(SHOWN)), st.integers(0, 6000), st.integers(0, 6000), st.integers(12, 200))
def test_a_secret_is_masked_anywhere_in_each_form(form: str, before: int, after: int, length: int) -> None:
    secret = "".join(chr(0x21 + n * 7 % 90) for n in range(length)).encode()
    shown = SHOWN[form](secret)
    secrets = Redaction(secret).secrets
    head, tail = bytes_to_keep(secrets)
    data = b" " * before + shown + b" " * after
    rest = data[head:]
    output = condense(data[:head], rest[-tail:], len(data), secrets)
    assert len(output) <= OUTPUT_LIMIT
    left = re.sub(rb"\x1b\[\d*m|[\0\n]", b"", MARKER.sub(b" ", output))
    plain = secret if form in ("UTF-16", "a letter in each line", "colours") else shown.replace(b"\n", b"")
    assert not any(plain[at : at + 10] in left for at in range(7, len(plain) - 17)), output


def test_short_output_is_kept_as_it_is() -> None:
    data = b"x" * OUTPUT_LIMIT
    assert kept(data) == data
    assert kept(b"") == b""


@given(st.integers(0, 20_000))
def test_output_is_limited_and_says_what_is_left_out(size: int) -> None:
    data = b"".join(b"%07d\n" % n for n in range(size // 8))
    output = kept(data)
    assert len(output) <= OUTPUT_LIMIT
    if len(data) > OUTPUT_LIMIT:
        head, count, tail = MARKER.split(output)
        assert data.startswith(head)
        assert data.endswith(tail)
        assert len(head) + int(count) + len(tail) == len(data)


@given(st.integers(0, 6000), st.integers(0, 6000), st.integers(2, 300))
def test_a_secret_is_masked_anywhere_in_the_output(before: int, after: int, length: int) -> None:
    secret = "".join(chr(0x21 + n % 90) for n in range(length))
    output = kept(b" " * before + secret.encode() + b" " * after, secret)
    assert len(output) <= OUTPUT_LIMIT
    # No part of the secret is left, only spaces, masks and the marker.
    assert re.fullmatch(rb" *", MARKER.sub(b"", output).replace(b"***", b""))


@given(st.lists(st.sampled_from(["a", "bb", "abc", "***", " "]), max_size=3000))
def test_masks_that_are_longer_than_secrets_keep_the_limit(pieces: list[str]) -> None:
    output = kept("".join(pieces).encode(), "a", "bb")
    assert len(output) <= OUTPUT_LIMIT
    assert b"bb" not in output


@given(st.integers(0, 7), st.sampled_from(["é", "€", "😀"]))
def test_a_cut_does_not_split_a_character(shift: int, character: str) -> None:
    output = kept(b"x" * shift + character.encode() * 5000)
    assert set(MARKER.sub(b"", output).decode()) <= {"x", character}


@given(st.binary(max_size=3000), st.integers(1, 5))
def test_any_output_is_limited(data: bytes, times: int) -> None:
    assert len(kept(data * times)) <= OUTPUT_LIMIT
