"""Patterns for cron expressions, with which the API server itself refuses most wrong ones.

It then refuses an edit with a wrong expression, and the previous version stays in effect. A pattern can check the
syntax and the ranges of numbers, but not the calendar: that an expression never fires is mostly left to
``domain.cron.parse``, which decides. Nothing that it accepts is refused here.

Each check reads the whole expression, and accepts what another check refuses, so that a mistake has one message.
Patterns are RE2. The separator of fields is any character up to the space: control characters are wrong in a field
anyway, and this class is short.
"""

from typing import Final, NamedTuple

from scheduledjob.domain.cron.parse import MACROS, Field

from .rules import Rule, literal, matches

_SPACE: Final = r"[\x00- ]"
_CHAR: Final = "[!-~]"
_GAP: Final = f"{_SPACE}+"
_WORD: Final = f"{_CHAR}+"
_FIRST_WORD: Final = f"[!-?A-~]{_CHAR}*"


# The number of leading zeros is not limited, to keep the patterns short: their length is the cost of a check.
_BELOW_60: Final = r"0*[1-5]?\d"
_HOUR: Final = r"0*(?:1?\d|2[0-3])"
_DAY: Final = r"0*(?:[1-9]|[12]\d|3[01])"
_BELOW_31: Final = r"0*(?:[12]?\d|30)"
_MONTH: Final = f"0*(?:[1-9]|1[0-2])|{'|'.join(Field.MONTH.names)}"
_WEEKDAY: Final = f"0*[0-7]|{'|'.join(Field.WEEKDAY.names)}"
_YEAR: Final = r"19[7-9]\d|20\d\d"
_STEP: Final = r"(?:/0*[1-9]\d{0,3})?"


def _list(value: str, *special: str, ending: str = "", hashed: bool = True) -> str:
    """Return the pattern of a field: a list of terms. ``special`` are terms, too; ``ending`` may follow a value."""
    number = f"(?:{value})"
    stepped = [r"\*", f"{number}(?:-{number})?"] if not ending else [r"\*"]
    if hashed:
        stepped.append(rf"H(?:\({number}-{number}\))?")
    forms = [f"(?:{'|'.join(stepped)}){_STEP}", *special]
    if ending:
        forms.append(f"{number}(?:(?:-{number})?{_STEP}|{ending})")
    term = f"(?:{'|'.join(forms)})"
    return f"{term}(?:,{term})*"


_FORMS: Final = {
    Field.SECOND: _list(_BELOW_60),
    Field.MINUTE: _list(_BELOW_60),
    Field.HOUR: _list(_HOUR),
    Field.DAY: rf"(?:\?|{_list(_DAY, 'LW', f'L(?:-(?:{_BELOW_31}))?', ending='W')})",
    Field.MONTH: _list(_MONTH),
    Field.WEEKDAY: rf"(?:\?|{_list(_WEEKDAY, ending='#0*[1-5]|L')})",
    Field.YEAR: _list(_YEAR, hashed=False),
}
_UNIX: Final = (Field.MINUTE, Field.HOUR, Field.DAY, Field.MONTH, Field.WEEKDAY)
_QUARTZ: Final = tuple(Field)

_NO_FIELDS: Final = f"(?:{_WORD}(?:{_GAP}{_WORD}){{0,3}})?|{_WORD}(?:{_GAP}{_WORD}){{7,}}|@.*|.*[^\\x00-~].*"
"""An expression that the check of the number of fields refuses, or a macro."""


class Check(NamedTuple):
    """A pattern that an expression must match (or must not if ``forbidden``), and the message if it is wrong."""

    pattern: str
    message: str
    forbidden: bool = False

    def rule(self) -> Rule:
        """Return the check as a rule of the CRD."""
        return Rule(("!" if self.forbidden else "") + matches("self", self.pattern), self.message)


def _whole(*forms: str) -> str:
    return f"(?is)^{_SPACE}*(?:{'|'.join(forms)}){_SPACE}*$"


def _count() -> Check:
    macros = "|".join(name.removeprefix("@").lower() for name in MACROS)
    lengths = [rf"\d{{1,10}}{unit}" for unit in "dhms"]
    durations = (
        length + "".join(f"(?:{smaller})?" for smaller in lengths[place + 1 :]) for place, length in enumerate(lengths)
    )
    forms = (f"{_FIRST_WORD}(?:{_GAP}{_WORD}){{4,6}}", f"@(?:{macros})", f"@every{_GAP}(?:{'|'.join(durations)})")
    allowed = ", ".join(name.lower() for name in MACROS)
    return Check(
        _whole(*forms),
        "write 5 fields (minute hour day-of-month month day-of-week), 6 (second first) or 7 (year last), or one of "
        f"{allowed} and @every 30s",
    )


def _words(count: int) -> str:
    return f"(?:{_WORD}{_GAP}){{{count}}}" if count else ""


def _field(field: Field) -> Check:
    """Return the check of a field, in expressions with five, six or seven fields."""
    form, forms = _FORMS[field], []
    if field in _UNIX:
        before = _UNIX.index(field)
        forms.append(_words(before) + form + f"(?:{_GAP}{_WORD}){{{4 - before}}}")
    else:
        forms.append(f"{_WORD}(?:{_GAP}{_WORD}){{4}}")
    before = _QUARTZ.index(field)
    if field is Field.YEAR:
        forms += [f"{_WORD}(?:{_GAP}{_WORD}){{5}}", _words(6) + form]
    else:
        forms.append(_words(before) + form + f"(?:{_GAP}{_WORD}){{{5 - before},{6 - before}}}")
    steps = ", lists (1,2), ranges (1-5) and steps (*/5)"
    return Check(_whole(*forms, _NO_FIELDS), f"{field.label}: allowed are * and {field.values}{steps}")


def _never() -> str:
    """Return a pattern for a day that none of the months has, while any day of the week matches."""
    day_30, day_31 = "0*3[01]W?", "0*31W?"
    february = "(?:0*2|FEB)"
    short = "(?:0*(?:[2469]|11)|FEB|APR|JUN|SEP|NOV)"
    pairs = f"{day_30}(?:,{day_30})*{_GAP}{february}(?:,{february})*|{day_31}(?:,{day_31})*{_GAP}{short}(?:,{short})*"
    return f"(?:{_WORD}{_GAP}){{2,3}}(?:{pairs}){_GAP}[*?]{_CHAR}*(?:{_GAP}{_WORD})?"


_SET: Final = f"[!-)+->@-~]{_CHAR}*"
_SIX_OR_SEVEN_BEFORE: Final = f"(?:{_WORD}{_GAP}){{3}}"
_SIX_OR_SEVEN_AFTER: Final = f"(?:{_GAP}{_WORD})?"

CRON_CHECKS: Final = (
    _count(),
    *(_field(field) for field in Field),
    Check(
        _whole(f"{_SIX_OR_SEVEN_BEFORE}{_SET}{_GAP}{_WORD}{_GAP}{_SET}{_SIX_OR_SEVEN_AFTER}"),
        "day-of-month and day-of-week are both set: with six or seven fields write ? or * in one of the two",
        forbidden=True,
    ),
    Check(
        _whole(rf"{_SIX_OR_SEVEN_BEFORE}\?{_GAP}{_WORD}{_GAP}\?{_SIX_OR_SEVEN_AFTER}"),
        "day-of-month and day-of-week are both ?: write * in one of them",
        forbidden=True,
    ),
    Check(
        _whole(_never()),
        "can never fire: the months have no such day; write another day or another month",
        forbidden=True,
    ),
    Check(
        _whole(f"@every{_GAP}(?:0+[dhms])+"),
        "@every is too short: write 1s or longer",
        forbidden=True,
    ),
)
"""In the order of the fields."""

_HASH_RANGE: Final = r"(?i)H\([0-9]{1,4}-[0-9]{1,4}\)"
_YEAR_RANGE: Final = "[12][0-9]{3}-[12][0-9]{3}"

CRON_RULES: Final = (
    *(check.rule() for check in CRON_CHECKS),
    # This checks the first range only: the API server can't bound the cost of all.
    Rule(
        f"!{matches('self', _HASH_RANGE)} || int(self.find({literal(_HASH_RANGE)}).find('[0-9]+')) <= "
        f"int(self.find({literal(_HASH_RANGE)}).find('-[0-9]+').substring(1))",
        "a range of H ends before it begins: write the smaller number first, as in H(10-30)",
    ),
    Rule(
        f"!{matches('self', _YEAR_RANGE)} || "
        f"self.find('{_YEAR_RANGE}').substring(0, 4) <= self.find('{_YEAR_RANGE}').substring(5)",
        "a range of years ends before it begins: write the earlier year first",
    ),
)
"""The rules of the CRD: the patterns, and the order of numbers in ranges that must not wrap around."""
