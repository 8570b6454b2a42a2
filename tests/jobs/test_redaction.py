"""Redaction masks secrets as they are, and in the forms in which programs write them."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import pytest

from scheduledjob.engine.executor import OUTPUT_LIMIT, Attempt, Result
from scheduledjob.jobs.redaction import Redaction, redacted
from scheduledjob.jobs.secret_forms import secret_parts
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


AWKWARD = "it's P@ss!w(or)d~#$&<x>\"é*"


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param("it%27s%20P%40ss%21w%28or%29d~%23$&%3Cx%3E%22%C3%A9%2A", id="a user in a URL of Go"),
        pytest.param("it's%20P%40ss!w(or)d~%23%24%26%3Cx%3E%22%C3%A9*", id="encodeURIComponent"),
        pytest.param("it%27s+P%40ss%21w%28or%29d%7E%23%24%26%3Cx%3E%22%C3%A9*", id="URLSearchParams"),
        pytest.param("".join(f"%{byte:02x}" for byte in AWKWARD.encode()), id="every byte of a URL"),
        pytest.param("it'\\''s P@ss!w(or)d~#$&<x>\"é*", id="set -x"),
        pytest.param("it'\"'\"'s P@ss!w(or)d~#$&<x>\"é*", id="export -p of dash"),
        pytest.param("it's P@ss!w(or)d~#\\$&<x>\\\"é*", id="declare -p"),
        pytest.param("it\\'s P@ss!w(or)d~#$&<x>\"\\303\\251*", id="octal"),
        pytest.param("it's P@ss!w(or)d~#$&<x>\\\"\\xE9*", id="YAML"),
        pytest.param('it\\x27s P@ss!w(or)d~#$&<x>"\\xc3\\xa9*', id="bytes of Python"),
        pytest.param('it\\u0027s P@ss!w(or)d~#$\\u0026\\u003Cx\\u003E\\"\\u00e9*', id="JSON of PHP"),
        pytest.param("".join(f"\\u{ord(letter):04X}" for letter in AWKWARD), id="every character of JSON"),
        pytest.param("it&apos;s P@ss!w(or)d~#$&amp;&lt;x&gt;&quot;&#233;*", id="XML"),
        pytest.param(AWKWARD.lower(), id="a host in a URL"),
        pytest.param(AWKWARD.upper(), id="in capital letters"),
    ],
)
def test_a_value_is_masked_whichever_of_its_characters_are_escaped(shown: str) -> None:
    assert Redaction(AWKWARD).mask_text(f"<%41&amp;{shown}\\n>") == "<%41&amp;***\\n>"


@pytest.mark.parametrize(
    "shown", ["a\\ud83d\\ude00bcde", "a\\u{1F600}bcde", "a&#x1f600;bcde", "a\\360\\237\\230\\200bcde"]
)
def test_an_escape_is_masked_as_a_whole(shown: str) -> None:
    assert Redaction("\N{GRINNING FACE}bcd").mask_text(f"[{shown}]") == "[a***e]"


@pytest.mark.parametrize(
    "text", ["\\", "%", "&", "\\ud800", "\\u{FFFFFF}", "&#xd800;", "&#9999999;", "\\x8", "\\777", "&nosuch;"]
)
def test_what_looks_like_an_escape_stays_as_it_is(text: str) -> None:
    assert Redaction(AWKWARD).mask_text(text) == text


def test_capitals_of_a_word_are_not_masked() -> None:
    assert Redaction("Disabled").mask_text("disabled Disabled") == "disabled ***"


PLAIN = "hunter2-of-the-database/+?>"
PEM = (
    "-----BEGIN KEY-----\n"
    + "\n".join(f"{number:02}" + "MIIEvQ" * 10 for number in range(20))
    + "\n-----END KEY-----\n"
)


def in_base64(before: str, after: str = "") -> str:
    return base64.b64encode(f"{before}{PLAIN}{after}".encode()).decode()


@pytest.mark.parametrize(
    "shown",
    [
        in_base64(""),
        in_base64("").rstrip("="),
        in_base64("", "\n"),
        in_base64("app:"),
        in_base64("user:"),
        in_base64("admin:", "@db"),
        base64.urlsafe_b64encode(PLAIN.encode()).decode(),
        base64.encodebytes(f"{'x' * 40}{PLAIN}".encode()).decode(),
        PLAIN.encode().hex(),
        PLAIN.encode().hex(" ").upper(),
        PLAIN.encode().hex(" ", -2),
        PLAIN.encode().hex("-", -4),
        PLAIN.encode().hex(" ").replace(" ", ", 0x"),
        "hunter2-of-the-database\\/+?>",
        "hunter2-of-the-database/+?\\u003e",
        "hunter2-of-the-database/+?&gt;",
        "hunter2-of-the-database%252F%252B%253F%253E",
        "\x1b[31mhunter2\x1b[0m-of-the-\x1b]8;;x\x07database/+?>",
        "hunter2-of-\nthe-database/+?>",
        "hunter2-of-\r\n    the-data\\\nbase/+?>",
        "\n".join(PLAIN),
        "\0".join(PLAIN),
    ],
)
def test_a_value_is_masked_as_programs_write_it(shown: str) -> None:
    masked = Redaction(PLAIN).mask_text(f"<{shown}>")
    assert masked.startswith("<")
    assert "***" in masked
    end = shown.rstrip("=\n")[-11:-5]
    assert end not in masked


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("pass word+x", "pass+word%2Bx"),
        ("it's a secret", "'it'\"'\"'s a secret'"),
        ("it's a secret", "it\\'s\\ a\\ secret"),
        ('say "secret"', "say &#34;secret&#34;"),
        ("geheim-äöü", "b'geheim-\\xc3\\xa4\\xc3\\xb6\\xc3\\xbc'"),
        (PEM, PEM.replace("\n", "\\n")),
        (PEM, PEM.replace("\n", "\r\n    ")),
        (PEM, PEM.replace("\n", "")),
        (PEM, base64.encodebytes(PEM.encode()).decode()),
    ],
)
def test_a_value_of_many_kinds_is_masked_as_programs_write_it(value: str, shown: str) -> None:
    masked = Redaction(value).mask_text(shown)
    assert "***" in masked
    assert len(masked) < 20, masked


@pytest.mark.parametrize(
    ("value", "shown", "masked"),
    [
        ("postgres://app:hunter2x@db/app", "password of app: hunter2x", "password of app: ***"),
        ("amqp://u:p%40ss-word@mq", "AUTH u p@ss-word", "AUTH u ***"),
        ('{"type": "service_account", "private_key": "-BEGIN-\\nMIIEvQIBADANBg\\n"}', "MIIEvQIBADANBg", "***"),
        ('{"type": "service_account", "private_key": "-BEGIN-\\nMIIEvQ"}', "a service_account", "a service_account"),
        ('{"auths": {"r.io": {"auth": "cm9ib3Q6cGFzc3cwcmQ="}}}', "robot, passw0rd", "robot, ***"),
        ("HOST=database\nDB_PASSWORD='hunter2x'\n", "no hunter2x in database", "no *** in database"),
        ("[default]\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG\n", "wJalrXUtnFEMI/K7MDENG", "***"),
        ("host: database\napi:\n  token: hunter2x\n", "no hunter2x in database", "no *** in database"),
        ("host=database password=hunter2x user=app", "hunter2x for app on database", "*** for app on database"),
        ("Server=database;AccountKey=aHVudGVyMng=;x=y", "database: aHVudGVyMng=", "database: ***"),
        ("AUTH_METHOD=password\nTOKEN=disabled\n", "a password, disabled", "a password, disabled"),
        ("//npm.example/:_authToken=npm_hunter2x", "npm_hunter2x", "***"),
        (
            "Bearer hunter2-token",
            '{"authenticated": true, "token": "hunter2-token"}',
            '{"authenticated": true, "token": "***"}',
        ),
        ("Authorization: Bearer hunter2-token", "Bearer is hunter2-token", "Bearer is ***"),
        ("Basic YXBwOmh1bnRlcjJ4", "app has hunter2x, sent YXBwOmh1bnRlcjJ4", "app has ***, sent ***"),
        ('DB_PASSWORD="correct horse battery"\n', "no correct horse battery", "no ***"),
        ("password: correct horse battery # old\n", "no correct horse battery", "no ***"),
        ('{"pin": 1234567, "password": 12345678}', "pin 1234567, 12345678", "pin 1234567, ***"),
        ("machine db\nlogin app\npassword hunter2x\n", "app on db: hunter2x", "app on db: ***"),
        ("db:5432:*:app:hunter2:x\n", "app on db: hunter2:x", "app on db: ***"),
        ("app:hunter2x", "app: hunter2x", "app: ***"),
        ("app:hunter2x\nroot:hunter3x\n", "hunter2x, hunter3x", "***, ***"),
        ("app:hunter2x@tcp(db:3306)/main", "app has hunter2x", "app has ***"),
        ("<server><id>main</id><password>hunter&amp;2</password></server>", "main: hunter&2", "main: ***"),
        ("https://ghp_0123456789abcdef@github.com/a/b", "token ghp_0123456789abcdef", "token ***"),
        ("https://store/?sv=2024&sig=AbC%2Bdef01", "no AbC+def01", "no ***"),
        ("https://hooks.example/services/T0/B0/hunter2x", "POST /services/T0/B0/hunter2x 404", "POST *** 404"),
        ("postgres://app:hun/ter@2x@db/main", "app has hun/ter@2x", "app has ***"),
        ("https://app.example/", "no https://app.example/, but app.example/", "no ***, but app.example/"),
    ],
)
def test_the_secret_parts_of_a_file_are_masked(value: str, shown: str, masked: str) -> None:
    assert Redaction(value).mask_text(shown) == masked


@pytest.mark.parametrize("value", ["[" * 60_000, "-" * 60_000, '"' * 60_000, "a=" * 30_000, "://:" * 15_000, "{"])
def test_a_value_that_is_no_file_has_no_parts(value: str) -> None:
    assert secret_parts(value.encode()) == []


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le", "latin-1"])
def test_a_value_is_masked_in_other_charsets(charset: str) -> None:
    for value in (PLAIN, "geheim-äöü"):
        shown = f"<{value}>".encode(charset)
        masked = Redaction(value).mask(shown)
        assert b"***" in masked
        assert len(masked) < 16, masked


def test_short_values_are_not_masked_across_lines() -> None:
    assert Redaction("1234").mask_text("12\n34, 1\x1b[0m234") == "12\n34, ***"


async def test_the_forms_of_many_values_are_made_in_a_thread() -> None:
    redaction = Redaction(*(f"value number {number}" for number in range(100)))
    used: list[str] = []

    def search(data: bytes) -> bytes:
        used.append(threading.current_thread().name)
        return redaction.mask(data)

    assert await redaction.secrets.searched(search, b"value number 42", 15) == b"***"
    assert used[0].startswith("compute")


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
