"""Rules that the API server checks: what is allowed, in CEL, and what it answers to who breaks them.

A validator in a model and its rule say the same thing twice, because one runs here and the other in the API server;
they stand beside each other in the model, and tests hold them to the same verdict on the same manifests. A rule may
let something through that the validator refuses (the operator then reports it in status); it must never refuse what
the validator lets through. Texts that become numbers or instants in CEL are matched against their pattern first,
because an evaluation error is a refusal without words.

What a rule may cost is bounded twice by the API server: for the schema by the lengths that it allows, and for each
object by what it has. Every value alone may be as large as the models allow; a manifest above a megabyte in which
many are at once can be too much, and is refused with these words.

Only functions that every supported API server has are used: Kubernetes 1.29 for CEL (``find``, ``replace``,
``messageExpression``, ``fieldPath``), 1.31 for the resource's ``selectableFields``.
"""

from typing import Any, NamedTuple

from pydantic import Field

VALIDATIONS = "x-kubernetes-validations"
ALTERNATIVES = "x-alternatives"
"""A sentence for the description of what has ``one_of`` or ``at_most_one_of``."""

DURATION_PATTERN = r"^([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$"

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
"""New zones get new cities; regions, and names without one, have been the same for decades."""

_LONGEST_ZONE_OFFSET = "16h"
"""No zone was ever further than that from UTC."""


class Rule(NamedTuple):
    """What must hold for a value (``self``), and the answer if it does not."""

    holds: str
    message: str
    field: str = ""
    """The key below the value that is at fault."""
    answer: str = ""
    """CEL for a message that repeats what was found; ``message`` stands in where that fails."""

    def schema(self) -> dict[str, Any]:
        """The rule as a CRD writes it."""
        parts = {"rule": self.holds, "message": self.message, "messageExpression": self.answer}
        if self.field:
            parts["fieldPath"] = f".{self.field}"
        return {key: value for key, value in parts.items() if value}


def stated(*rules: Rule) -> Any:
    """The rules of a field's type, to stand in its ``Annotated``."""
    return Field(json_schema_extra={VALIDATIONS: [rule.schema() for rule in rules]})


def literal(text: str) -> str:
    """A text as CEL writes it, without escapes where it can be."""
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
        f"int(('0' + {value}.find('[0-9]+{unit}')).replace('{unit}', '')) * {length}"
        for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
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
    """CEL: the text can be given to ``seconds``."""
    return matches(value, DURATION_PATTERN)


def not_later(first: str, second: str) -> str:
    """CEL: the instant ``first`` is at most as late as ``second``; true where one of them can't be read."""
    readable = f"{matches(first, INSTANT_PATTERN)} && {matches(second, INSTANT_PATTERN)}"
    return f"!({readable}) || {instant(first)} <= {instant(second)}"


def not_longer(first: str, second: str) -> str:
    """CEL: the duration ``first`` is at most as long as ``second``; true where one of them can't be read."""
    return f"!({is_duration(first)} && {is_duration(second)}) || {seconds(first)} <= {seconds(second)}"


def window_is_open(start: str, end: str, zone: str) -> str:
    """CEL: ``start`` is before ``end``, each an instant or a date in ``zone``; true where that can't be told here.

    Two dates stand in the same zone, so that UTC orders them as well. Between a date and an instant a zone is worth
    up to 16 h, and no function of CEL tells how much: what is left is the operator's to judge.
    """
    either = f"{DATE_PATTERN}|{INSTANT_PATTERN}"
    mixed = f"(size({start}) == 10) != (size({end}) == 10)"
    tolerance = f"duration({mixed} && has({zone}) ? '{_LONGEST_ZONE_OFFSET}' : '0s')"
    readable = f"{matches(start, either)} && {matches(end, either)}"
    return f"!({readable}) || {instant(start)} < {instant(end)} + {tolerance}"


def alternatives(keys: tuple[str, ...], *, needed: bool) -> Rule:
    """Exactly one of the keys, or at most one where none is ``needed``, has a value."""
    amount = "exactly one of" if needed else "at most one of"
    given = "[" + ", ".join(f"has(self.{key})" for key in keys) + "].filter(given, given)"
    told = f"{amount} {', '.join(keys)}"
    # The cost of a join has no bound that the API server could estimate.
    found = " + ".join(f"(has(self.{key}) ? ', {key}' : '')" for key in keys)
    none = " || ".join(f"has(self.{key})" for key in keys)
    answer = f"'{told}; found ' + ({none} ? ({found}).substring(2) : 'none')"
    return Rule(f"size({given}) {'==' if needed else '<='} 1", told, answer=answer)
