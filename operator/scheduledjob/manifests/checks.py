"""Checks of single values that a pattern can't express: cron expressions, zones, instants, RE2, URLs, headers.

The CRD's schema checks patterns, bounds and lengths. These functions run when a manifest is loaded; in a cluster, the
operator reports their faults in status. Each function is a pydantic validator: it returns the value, or calls
``refuse`` with what is wrong and what is allowed.
"""

from __future__ import annotations

import functools
import re
from calendar import monthrange
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from scheduledjob.domain.time.durations import parse_duration, parse_interval
from scheduledjob.domain.time.zone_data import zone_names
from scheduledjob.domain.time.zones import zone_of
from scheduledjob.domain.triggers.calendar_days import TIME_PATTERN
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.jobs.curl.patterns import PatternError, PatternTooLarge, check_pattern

from .problems import Vocabulary, plain, quoted, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.time.instants import Micros

QUANTITY = re.compile(
    r"\+?(?:[0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:[KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,2})?\Z"
)
"""A quantity of Kubernetes: ``500m``, ``2``, ``1Gi``."""

REFUSED = "refused"
"""The pydantic error type of ``refuse``."""

PAYLOAD_LIMIT = 64 * 1024
"""Bytes of UTF-8."""

FIRST_YEAR, LAST_YEAR = 1970, 9998
"""Years in which the local time of every zone is a valid date."""


def refuse(message: str, allowed: str = "", *path: str | int) -> NoReturn:
    """Reject a value. ``path`` leads from the validated field to the field at fault."""
    # The message may contain a value from the user: keep it to one short, printable line.
    message = plain(shortened(message, 300))
    # Braces in pydantic's templates are placeholders, so pass the text as a parameter.
    raise PydanticCustomError(REFUSED, "{message}", {"message": message, "allowed": plain(allowed), "path": path})


def cron(expression: str) -> str:
    """Check a cron expression."""
    try:
        Cron(expression)
    except ValueError as error:
        # A long expression would leave no room for what is wrong with it.
        refuse(str(error).replace(repr(expression), quoted(expression)))
    return expression


def duration(value: Any) -> Any:
    """Check a duration such as ``1h30m``. This runs before the field's pattern, because its message is more precise."""
    return _length(value, parse_duration)


def interval(value: Any) -> Any:
    """Check an interval, a duration or whole weeks, before the field's pattern."""
    return _length(value, parse_interval)


def _length(value: Any, parse: Callable[[str], Micros]) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        refuse(f"{value} has no unit", f'write "{value}s" for seconds, "{value}m" for minutes')
    if isinstance(value, str):
        try:
            parse(value)
        except ValueError as error:
            refuse(str(error))
    return value


def positive(text: str) -> str:
    """Check that a duration or an interval is at least one second."""
    if parse_interval(text) <= 0:
        refuse(f"{quoted(text)} is too short", "at least 1s")
    return text


def time_zone(name: str) -> str:
    """Check that this machine knows an IANA time zone."""
    try:
        zone_of(name)
    except ValueError:
        zones, places = _places()
        close = places.nearest(name.replace(" ", "_"))
        hint = f'did you mean "{zones[close]}"?' if close else 'write an IANA name such as "Europe/Lisbon"'
        refuse(f"the time zone {quoted(name)} is unknown", hint)
    return name


@functools.cache
def _places() -> tuple[dict[str, str], Vocabulary]:
    """Return the zones by their full names and by the names of their cities, and all these names."""
    names = sorted(zone_names(), reverse=True)
    zones = {name.rpartition("/")[2]: name for name in names} | {name: name for name in names}
    return zones, Vocabulary(zones)


_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?"
    r"(?P<offset>[Zz]|[+-][0-9]{2}:[0-5][0-9])?\Z"
)
_FINER = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6})[0-9]+([Zz]|[+-][0-9]{2}:[0-5][0-9])?\Z"
)
_INSTANT_EXAMPLE = 'write it like "2026-12-01T10:00:00Z" or "2026-12-01T10:00:00+01:00"'
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


def parse_instant(text: str) -> datetime:
    """Return the instant of an RFC 3339 text as an aware datetime in UTC. A text without an offset is refused."""
    match = _INSTANT.match(text)
    if match is None:
        if finer := _FINER.match(text):
            refuse(f"{quoted(text)} is finer than a microsecond", f'write at most six decimals: "{finer[1]}{finer[2]}"')
        refuse(f"{quoted(text)} is not a point in time", _INSTANT_EXAMPLE)
    if match["offset"] is None:
        refuse(f"{quoted(text)} has no offset from UTC", f'write "{text}Z" for UTC, or "{text}+01:00"')
    try:
        moment = datetime.fromisoformat(text.upper())
        _check_year(moment.year, text)
        return moment.astimezone(UTC)
    except ValueError as error:
        refuse(f"{quoted(text)} is not a point in time: {_date_fault(text, error)}")


def no_number(value: Any) -> Any:
    """Refuse a number before the type check, which would suggest to put a count of seconds in quotes."""
    if isinstance(value, int | float):
        refuse(f"{value} is not a point in time", _INSTANT_EXAMPLE)
    return value


def instant(text: str) -> str:
    """Check an RFC 3339 instant with an offset."""
    parse_instant(text)
    return text


_TIME_OF_DAY = re.compile(rf"{TIME_PATTERN}\Z")
_NEARLY_TIME = re.compile(
    r"([0-9]{1,2})(?:[:.]([0-9]{2}))?(?::[0-9]{2})? ?([ap]m)?(Z|[+-][0-9]{2}:?[0-9]{2})?\Z", re.IGNORECASE
)


def instant_or_time(text: str) -> str:
    """Check an RFC 3339 instant with an offset, or a time of day."""
    if _TIME_OF_DAY.match(text):
        return text
    if (nearly := _NEARLY_TIME.match(text)) and not text.isdigit():
        refuse(f"{quoted(text)} is not a time of day", _likely_time(nearly))
    return instant(text)


def _likely_time(nearly: re.Match[str]) -> str:
    hours, minutes, half, offset = nearly.groups()
    hour = int(hours)
    if half:
        hour = hour % 12 + (12 if half.lower() == "pm" else 0) if 1 <= hour <= 12 else 24
    likely = f"{hour:02d}:{minutes or '00'}"
    if not _TIME_OF_DAY.match(likely):
        return 'write it like "09:00"'
    return f'write "{likely}", and its zone in timeZone' if offset else f'did you mean "{likely}"?'


def parse_day(text: str) -> date | None:
    """Return the date of a text such as ``2026-12-24``; None for a text of another form."""
    if not _DATE.match(text):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        refuse(f"{quoted(text)} is not a date: {_date_fault(text, error)}")
    _check_year(day.year, text)
    return day


def _date_fault(text: str, error: ValueError) -> str:
    """What is wrong with a date or instant of the right form, in the same words on every version of Python."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    if year == 0:
        return "year 0 is out of range"
    if 1 <= month <= 12 and not 1 <= day <= monthrange(year, month)[1]:
        return "day is out of range for month"
    if "offset" in str(error):
        return f"the offset {text[-6:]} is a day or more"
    return str(error).partition(", not ")[0]


def instant_or_date(text: str) -> str:
    """Check an RFC 3339 instant with an offset, or a date."""
    if parse_day(text) is None:
        if not _INSTANT.match(text):
            refuse(
                f"{quoted(text)} is neither a date nor a point in time",
                'write it like "2026-12-24" or "2026-12-24T18:00:00Z"',
            )
        parse_instant(text)
    return text


def _check_year(year: int, text: str) -> None:
    if not FIRST_YEAR <= year <= LAST_YEAR:
        refuse(f"{quoted(text)} is out of range", f"a year from {FIRST_YEAR} to {LAST_YEAR}")


def regex(pattern: str) -> str:
    """Check a regular expression in RE2 syntax."""
    try:
        check_pattern(pattern)
    except PatternTooLarge as error:
        refuse(f"{quoted(pattern)}: {error}")
    except PatternError as error:
        refuse(
            f"{quoted(pattern)} is not a regular expression in RE2 syntax: {str(error)[:120]}",
            "see github.com/google/re2/wiki/Syntax",
        )
    return pattern


URL_PATTERN = (
    r"^(?i:https?)://([^/?#]*@)?(\[[^\]/?#]*\]|[^/?#:\[\]]+)"
    r"(:(0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?([/?#]|$)"
)
"""What a pattern can check in a URL: the scheme, the host and the port."""


def url(text: str, credentials: str = "auth.basic", example: str = "https://example.com/path") -> str:
    """Check an absolute http or https URL without user and password, which belong into ``credentials``."""
    example = f'write it like "{example}"'
    if any(char.isspace() or not char.isprintable() for char in text):
        refuse("the URL contains a space or a control character", "write %20 for a space")
    # Do not repeat a URL that may contain a password.
    shown = "the URL" if "@" in text else f"the URL {quoted(text)}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        refuse(f"{shown} is not valid: check brackets and the port (1 to 65535)", example)
    if "@" in parts.netloc:
        refuse("a URL must not contain a user or a password", f"put them in a Secret and refer to it in {credentials}")
    if parts.scheme not in ("http", "https"):
        refuse(f"{shown} must begin with http:// or https://", example)
    if not parts.hostname:
        refuse(f"{shown} has no host", example)
    if port == 0:
        refuse(f"{shown} has port 0", "a port from 1 to 65535")
    return text


def proxy_url(text: str) -> str:
    """Check the URL of a proxy."""
    return url(text, "proxyAuth", "http://proxy.example.com:3128")


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def headers(values: dict[str, str]) -> dict[str, str]:
    """Check HTTP headers: valid names, no name twice, no header that the request or the run sets itself."""
    seen: dict[str, str] = {}
    for name, value in values.items():
        folded = name.lower()
        if not _TOKEN.match(name):
            refuse(f"{quoted(name)} is not a header name", "letters, digits and !#$%&'*+-.^_`|~", name)
        if folded in seen:
            refuse(f"the header {quoted(name)} is given twice, as {quoted(seen[folded])} too", "leave one out", name)
        if folded in _FRAMING:
            refuse(f"{quoted(name)} is set by the request itself", "leave it out", name)
        if folded.startswith("x-scheduledjob-") or folded == "idempotency-key":
            refuse(f"{quoted(name)} is set for each run", "leave it out", name)
        if any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in value):
            refuse("a header's value can't hold line breaks or control characters", "write it in one line", name)
        seen[folded] = name
    return values


def payload(text: str) -> str:
    """Check that a payload has at most 64 KiB of UTF-8, and no NUL."""
    size = len(text.encode())
    if size > PAYLOAD_LIMIT:
        refuse(f"{size} bytes are too many", f"at most {PAYLOAD_LIMIT} bytes of UTF-8")
    return without_nul(text)


def without_nul(text: str) -> str:
    """Check that a text can be an argument or an environment variable."""
    if "\0" in text:
        refuse(f"contains a NUL character (character {text.index(chr(0)) + 1})", "remove it")
    return text


def environment_name(name: str) -> str:
    """Check that the name of an environment variable is not reserved."""
    if name.startswith("SCHEDULEDJOB_"):
        refuse(f"{quoted(name)} begins with SCHEDULEDJOB_, which is reserved", "choose another name")
    return name
