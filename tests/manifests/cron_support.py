"""Cron expressions for tests of patterns: generated from the grammar, and then spoilt."""

from __future__ import annotations

from hypothesis import strategies as st

from scheduledjob.domain.cron.parse import MACROS, Field

_BREAKS = st.sampled_from([" ", " ", " ", "  ", "\t", "\x1f", "\n", "\r\n", "\v"])


def _cased(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(names).flatmap(lambda name: st.sampled_from([name, name.lower(), name.title()]))


def _number(field: Field, past: int = 0) -> st.SearchStrategy[str]:
    plain = st.integers(field.first, field.last + past).map(str)
    padded = st.integers(field.first, field.last).flatmap(
        lambda number: st.integers(1, 4).map(lambda width: f"{number:0{width}d}")
    )
    numbers = plain if field is Field.YEAR else st.one_of(plain, plain, padded)
    return st.one_of(numbers, _cased(field.names)) if field.names else numbers


@st.composite
def terms(draw: st.DrawFn, field: Field) -> str:
    """A term of a field; most are valid."""
    value = _number(field)
    forms = [
        st.just("*"),
        value,
        st.tuples(value, value).map("-".join),
        st.tuples(value, value).map(lambda pair: f"H({pair[0]}-{pair[1]})"),
        st.sampled_from(["H", "h"]),
    ]
    body = draw(st.one_of(*forms))
    stepped = body + draw(st.sampled_from(["", "", "/1", "/5", "/07", "/0015", "/90", "/9999"]))
    before = st.sampled_from(["", "0", "00"])
    special = {
        Field.DAY: st.one_of(
            st.sampled_from(["L", "l", "LW", "Lw"]),
            st.tuples(before, st.integers(0, 30)).map(lambda pair: f"L-{pair[0]}{pair[1]}"),
            value.map(lambda day: f"{day}W"),
        ),
        Field.WEEKDAY: st.one_of(
            st.tuples(value, before, st.integers(1, 5)).map(lambda nth: f"{nth[0]}#{nth[1]}{nth[2]}"),
            value.map(lambda day: f"{day}L"),
        ),
    }.get(field)
    return draw(st.one_of(st.just(stepped), special)) if special is not None else stepped


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """An expression of the dialect; many are valid, some are not."""
    kind = draw(st.sampled_from(["unix", "unix", "six", "seven", "macro", "every"]))
    if kind == "macro":
        name = draw(st.sampled_from(sorted(MACROS)))
        return draw(st.sampled_from([name, name.lower(), f" {name.title()}\t"]))
    if kind == "every":
        counts = draw(st.lists(st.integers(0, 4000), min_size=4, max_size=4))
        units = draw(st.sets(st.sampled_from("dhms"), min_size=1))
        return "@every " + "".join(
            f"{count}{unit}" for count, unit in zip(counts, "dhms", strict=True) if unit in units
        )
    fields = list(Field)[1:6] if kind == "unix" else list(Field)[: 6 if kind == "six" else 7]
    texts = [",".join(draw(st.lists(terms(field), min_size=1, max_size=3))) for field in fields]
    if kind != "unix":
        # Mostly valid: one of the two day fields is ? or *.
        texts[draw(st.sampled_from([3, 3, 5, 5, 2]))] = draw(st.sampled_from(["?", "*", "*/2"]))
    elif draw(st.booleans()):
        texts[draw(st.sampled_from([2, 4]))] = draw(st.sampled_from(["?", "*"]))
    edges = draw(st.sampled_from(["", "", "", " ", "\t"]))
    text = texts[0]
    for field in texts[1:]:
        text += draw(_BREAKS) + field
    return edges + text + edges


SPOILS = ("drop a field", "add a field", "a number too high", "a word", "a stray character", "a step of zero", "a hole")


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """An expression with a typical typing mistake."""
    texts = draw(expressions()).split()
    at = draw(st.integers(0, len(texts) - 1))
    slip = draw(st.sampled_from(SPOILS))
    match slip:
        case "drop a field":
            del texts[at]
        case "add a field":
            texts.insert(at, draw(st.sampled_from(["*", "0", "?"])))
        case "a number too high":
            texts[at] = str(draw(st.integers(60, 1900)))
        case "a word":
            texts[at] = draw(st.sampled_from(["MONDAY", "noon", "every", "JANUAR", "1st", "weekday", "L5", "W", "5th"]))
        case "a stray character":
            place = draw(st.integers(0, len(texts[at])))
            texts[at] = texts[at][:place] + draw(st.sampled_from("-/,#%;.+&x!ü")) + texts[at][place:]
        case "a step of zero":
            texts[at] += "/0"
        case _:
            texts[at] = texts[at] + ","
    return " ".join(texts)
