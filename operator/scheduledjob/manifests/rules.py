"""Rules that the API server checks: a CEL expression, and the message for an object that breaks the rule.

``spanning_rules`` makes the rules that span several fields. A rule here is about one value, and ``checks`` holds the
Python function that checks the same value when a file is loaded. A rule may accept a value that the function refuses
(the operator then reports it in status). It must never refuse a value that the function accepts; tests run both on the
same manifests. CEL matches a text against its pattern before it turns the text into a number or an instant, because
the API server reports an evaluation error without the rule's message.

The API server limits the cost of a rule twice: for the schema, by the lengths that it allows, and for each object, by
its content. Each value alone may be as large as the models allow. The API server can refuse a manifest larger than a
megabyte that has many large values.

The rules use only functions that every supported API server has: Kubernetes 1.29 for CEL (``find``, ``replace``,
``messageExpression``, ``fieldPath``), and 1.31 for ``selectableFields`` of the resource.
"""

from typing import Any, NamedTuple

from pydantic import Field

from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND

VALIDATIONS = "x-kubernetes-validations"
ALTERNATIVES = "x-alternatives"
"""The sentence that ``one_of`` or ``at_most_one_of`` adds to a description."""

DURATION_PATTERN = r"^([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"
INTERVAL_PATTERN = r"^([0-9]{1,9}w|([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?)$"
"""A duration, or whole weeks."""

_UP_TO_28 = "0[1-9]|1[0-9]|2[0-8]"
_MONTH_DAY = f"(?:(?:0[1-9]|1[0-2])-(?:{_UP_TO_28})|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_YEAR = "(?:19[7-9][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = f"(?:{_YEAR}-{_MONTH_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_OFFSET = "(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
DATE_PATTERN = f"^{_DATE}$"
INSTANT_PATTERN = f"^{_DATE}[Tt ]{_TIME}{_OFFSET}$"

_REGIONS = (
    "Africa America Antarctica Arctic Asia Atlantic Australia Brazil Canada Chile Etc Europe Indian Mexico Pacific US"
)
_SINGLE_NAMES = (
    "CET CST6CDT Cuba EET EST EST5EDT Egypt Eire GB GB-Eire GMT GMT[+]0 GMT-0 GMT0 Greenwich HST Hongkong Iceland Iran "
    "Israel Jamaica Japan Kwajalein Libya MET MST MST7MDT NZ NZ-CHAT Navajo PRC PST8PDT Poland Portugal ROC ROK "
    "Singapore Turkey UCT UTC Universal W-SU WET Zulu"
)
TIME_ZONE_PATTERN = (
    f"^(?:(?:{'|'.join(_REGIONS.split())})(?:/[A-Za-z0-9][-+_A-Za-z0-9]*){{1,2}}|{'|'.join(_SINGLE_NAMES.split())})$"
)
"""New zones are new cities. The regions, and the names without a region, have been the same for decades."""

_LONGEST_ZONE_OFFSET = "16h"
"""No zone was ever further from UTC."""


class Rule(NamedTuple):
    """A CEL expression that must hold for a value (``self``), and the message if it does not."""

    holds: str
    message: str
    field: str = ""
    """The key, below the value, that the message is about."""
    answer: str = ""
    """CEL that makes a message with the value found in it; ``message`` replaces it where the CEL fails."""

    def schema(self) -> dict[str, Any]:
        """Return the rule as an entry of ``x-kubernetes-validations``."""
        parts = {"rule": self.holds, "message": self.message, "messageExpression": self.answer}
        if self.field:
            parts["fieldPath"] = f".{self.field}"
        return {key: value for key, value in parts.items() if value}


def stated(*rules: Rule) -> Any:
    """Return the rules in the form that a field's ``Annotated`` takes."""
    return Field(json_schema_extra={VALIDATIONS: [rule.schema() for rule in rules]})


def literal(text: str) -> str:
    """Return a CEL string literal, without escapes where possible."""
    if "'" not in text and text.isascii() and text.isprintable():
        return f"r'{text}'" if "\\" in text else f"'{text}'"
    return "'" + "".join(_escaped(char) for char in text) + "'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    return char if char.isascii() and char.isprintable() else f"\\U{ord(char):08x}"


def matches(value: str, pattern: str) -> str:
    """CEL: the text ``value`` matches ``pattern`` (RE2, not anchored)."""
    return f"{value}.matches({literal(pattern)})"


def seconds(value: str) -> str:
    """CEL: the length of a duration that matches ``DURATION_PATTERN``."""
    parts = (
        f"int(('0' + {value}.find('[0-9]+{unit}')).replace('{unit}', '')) * {length // SECOND}"
        for unit, length in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND))
    )
    return f"({' + '.join(parts)})"


def instant(value: str) -> str:
    """CEL: the timestamp of a text that matches ``INSTANT_PATTERN`` or ``DATE_PATTERN``, a date's midnight in UTC."""
    with_time = (
        f"{value}.substring(0, 10) + 'T' + {value}.substring(11, 16) + "
        f"({value}.substring(16, 17) == ':' ? '' : ':00') + {value}.substring(16).upperAscii()"
    )
    return f"timestamp(size({value}) == 10 ? {value} + 'T00:00:00Z' : {with_time})"


def is_duration(value: str) -> str:
    """CEL: ``seconds`` can parse the text."""
    return matches(value, DURATION_PATTERN)


def not_later(first: str, second: str) -> str:
    """CEL: the instant ``first`` is at most as late as ``second``; true if one of them can't be parsed."""
    readable = f"{matches(first, INSTANT_PATTERN)} && {matches(second, INSTANT_PATTERN)}"
    return f"!({readable}) || {instant(first)} <= {instant(second)}"


def not_longer(first: str, second: str) -> str:
    """CEL: the duration ``first`` is at most as long as ``second``; true if one of them can't be parsed."""
    return f"!({is_duration(first)} && {is_duration(second)}) || {seconds(first)} <= {seconds(second)}"


def earlier(start: str, end: str, zone: str) -> str:
    """CEL: ``start`` is before ``end``, each an instant or a date in ``zone``; true where CEL can't tell.

    Two dates are in the same zone, so comparing them in UTC gives the right order. CEL has no function for a zone's
    offset from UTC, which can be up to 16 h. So a date is compared with an instant only roughly here, and exactly by
    the operator.
    """
    either = f"{DATE_PATTERN}|{INSTANT_PATTERN}"
    mixed = f"(size({start}) == 10) != (size({end}) == 10)"
    tolerance = f"duration({mixed} && has({zone}) ? '{_LONGEST_ZONE_OFFSET}' : '0s')"
    readable = f"{matches(start, either)} && {matches(end, either)}"
    return f"!({readable}) || {instant(start)} < {instant(end)} + {tolerance}"
