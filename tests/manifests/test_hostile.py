"""Hostile manifests: each has problems, quickly, with limited memory, in our own words.

Time is not asserted: the documents are so large that without the limits a test would not end, or would end the
process. What is asserted is the answer, and the memory it took.
"""

from __future__ import annotations

import difflib
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduledjob.domain.schedule.misfire import decide_slots
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.state import Run
from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.triggers.day_bits import MAX_STEPS
from scheduledjob.manifests.files import decode
from scheduledjob.manifests.loader import Loaded, load, load_text
from scheduledjob.manifests.problems import COMPARED, Problem
from scheduledjob.manifests.translate import to_definition
from scheduledjob.resource_names import API_VERSION, KIND
from tests.support import costly

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEAD = """apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {name: a}
spec:
  triggers: [{every: 30s}]
"""
PARAMS = HEAD + "  job:\n    custom:\n      kind: report\n      params:\n"
MEGABYTES = 1 << 20
NOW: Instant = 1_796_000_000 * SECOND


def curl(regex: str) -> str:
    return HEAD + f"  job: {{curl: {{url: 'http://example.com/', expect: {{bodyRegex: '{regex}'}}}}}}\n"


def aliases(width: int, levels: int) -> str:
    lines = ["        a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"        a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * width) + "]" for n in range(1, levels)]
    return PARAMS + "\n".join(lines) + "\n"


HOSTILE = {
    "lists in lists": (PARAMS + "        a: " + "[" * 10_000 + "]" * 10_000, "nested too deeply"),
    "mappings in mappings": (PARAMS + "        a: " + "{a: " * 10_000 + "}" * 10_000, "nested too deeply"),
    "brackets that never close": ("[" * 1_000_000, "nested too deeply"),
    "dashes": ("- " * 500_000, "nested too deeply"),
    "keys in keys": ("? " * 500_000, "nested too deeply"),
    "indentation": ("\n".join(" " * level + "a:" for level in range(1_400)), "nested too deeply"),
    "billion laughs": (aliases(10, 20), "more than 100000 values"),
    "deep by aliases": (aliases(1, 10_000), "nested too deeply"),
    "long by aliases": (
        PARAMS + "        a: &a " + "x" * 500_000 + "\n        b: [" + ", ".join(["*a"] * 50_000) + "]",
        "more than 100000 values",
    ),
    "wide by merges": (
        PARAMS
        + "        a: &a {"
        + ", ".join(f"k{n}: 1" for n in range(5_000))
        + "}\n        b: ["
        + ", ".join(["{<<: *a}"] * 50_000)
        + "]",
        "more than 100000 values",
    ),
    "large for a job": (PARAMS + "        a: [" + "x, " * 50_000 + "]", "more than 20000 values"),
    "many documents": ("---\n" * 250_000, "more than 10000 documents"),
    "a long key": (HEAD + "  " + "k" * 1_000_000 + ": 1", "expected ':'"),
    "tags": (PARAMS + "        a: " + "!!str " * 150_000 + "x", "not readable"),
    "a long number": (PARAMS + "        a: " + "9" * 1_000_000, "too large a number"),
    "a long cron expression": (HEAD.replace("every: 30s", "cron: '" + "*/2," * 200_000 + "'"), "at most 512"),
    "a list of years": (HEAD.replace("every: 30s", "cron: '" + "0-59," * 90 + "'") + PARAMS[len(HEAD) :], "has 1 "),
    "repetitions of repetitions": (curl("((((a{100}){100}){100}){100}){100}"), "not a regular expression"),
    "a regex that is large once compiled": (curl(r"\pL{900}" * 450), "too large"),
    "a regex nested deeply": (curl("(" * 300 + "a" + ")*" * 299 + ")"), ""),
    "a regex nested more deeply": (curl("(" * 900 + "a" + ")*" * 899 + ")"), "too large"),
    "a regex that backtracks elsewhere": (curl("(a*)*" * 250 + "b"), ""),
    "control characters": (HEAD.replace("30s", '"\\e]0;title\\a\\r\\n"'), "is not a duration"),
    "right to left": (HEAD.replace("30s", '"\\u202e30s"'), "is not a duration"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_each_hostile_text_is_refused_with_limited_memory(name: str) -> None:
    text, answer = HOSTILE[name]
    tracemalloc.start()
    try:
        loaded = load_text(text, "f.yaml")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    messages = [str(problem) for problem in loaded.problems]
    assert bool(messages) == bool(answer)
    assert all(line.isprintable() and len(line) < 600 for line in messages)
    assert not answer or any(answer in line for line in messages), messages
    assert peak < 100 * MEGABYTES


def test_a_file_of_ten_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(HEAD + "  payload: " + "x" * 10 * MEGABYTES, encoding="utf-8")
    tracemalloc.start()
    try:
        (problem,) = load([str(path)]).problems
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.message == "larger than 1 MiB"
    assert peak < 5 * MEGABYTES


def test_python_tags_are_refused() -> None:
    """A tag of Python never becomes an object."""
    for place in ("name: !!python/name:os.system", "a: !!python/object/new:type [x]", "? !!python/tuple [a]\n: b"):
        (problem,) = load_text(place).problems
        assert "the tag" in problem.message


VALID = (
    HEAD
    + """  payload: '{"region": "eu"}'
  timeouts: {attempt: 1m, total: 1h}
  retry: {maxRetries: 3, fixed: {intervals: [10s, 1m]}}
  exclude: [{from: 2026-12-24, to: 2026-12-27, timeZone: Europe/Lisbon}]
  onFailure: [{curl: {url: "https://example.com/", headers: {A: b}}}]
  job:
    shell:
      command: |
        echo hi
      env: &env
        - {name: A, value: "1"}
        - name: B
          valueFrom: {secretKeyRef: {name: s, key: k}}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {k: aGk=}
"""
)
FRAGMENTS = st.sampled_from(
    [
        *(
            "\n",
            " ",
            "\t",
            ":",
            ": ",
            "- ",
            "---\n",
            "...\n",
            "&a ",
            "*a",
            "<<: ",
            "!!str ",
            "!x ",
            "? ",
            "| ",
            ">",
            "'",
            '"',
        ),
        *(
            "{",
            "}",
            "[",
            "]",
            ",",
            "#",
            "%",
            "@",
            "`",
            "\\",
            "\x00",
            "\x85",
            "\u2028",
            "\ufeff",
            "é",
            "🙂",
            "\x1b",
            "\x7f",
        ),
        *(
            "null",
            "true",
            "no",
            "-1",
            "0",
            "1.5",
            ".nan",
            "1e400",
            "9" * 30,
            "0x",
            "08",
            "1:30",
            "2026-02-30",
            "30s",
            "~",
            "=",
        ),
        *(
            "cron: '* * 31 2 *'",
            "every: 0s",
            "following: {name: a}",
            "apiVersion: v1",
            "kind: List",
            "items: [{}]",
            "metadata:",
        ),
    ]
)


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """A valid text with some pieces removed, doubled, moved or inserted."""
    text = VALID
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = draw(st.one_of(st.just(""), FRAGMENTS, st.text(max_size=5), st.just(text[start:end] * 2)))
        if draw(st.booleans()):
            lines = text.split("\n")
            index = draw(st.integers(0, len(lines) - 1))
            lines.insert(draw(st.integers(0, len(lines))), lines[index])
            text = "\n".join(lines)
        else:
            text = text[:start] + piece + text[end:]
    return text


def check(loaded: Loaded, lines: int) -> None:
    """Check that any input gives models that become definitions, or problems in a printable line."""
    for problem in loaded.problems:
        assert str(problem).isprintable()
        assert problem.message
        assert 0 <= problem.line <= lines + 1
    for found in loaded.jobs.values():
        to_definition(found.job).encode()


@settings(max_examples=600)
@given(mutations())
def test_mutated_manifests_give_models_or_problems(text: str) -> None:
    # As in str.splitlines, because in YAML 1.1 some rare characters end lines, too.
    check(load_text(text, "f.yaml"), len(text.splitlines()) + text.count("\x85"))


@settings(max_examples=300)
@given(st.data())
def test_mutated_bytes_give_models_or_problems(data: st.DataObject) -> None:
    whole = bytearray(VALID.encode())
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    text = decode("f.yaml", bytes(whole))
    if isinstance(text, Problem):
        assert str(text).isprintable()
    else:
        check(load_text(text, "f.yaml"), len(text.splitlines()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("30s"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SPEC_KEYS = st.sampled_from(
    [
        *("triggers", "exclude", "startAt", "endAt", "maxRuns", "jitter", "suspend", "payload", "payloadFrom"),
        *("job", "execution", "concurrencyPolicy", "misfire", "maxConcurrent", "queueDepth", "retry"),
        *("timeouts", "completeOn", "pauseAfterFailures", "expectSuccessWithin", "history", "onFailure"),
        *("onSuccess", "cron", "every", "at", "after", "from", "to", "timeZone", "shell", "curl", "container"),
        *("custom", "command", "url", "kind", "params", "fixed"),
    ]
)


@settings(max_examples=400)
@given(st.dictionaries(SPEC_KEYS, JSON | st.dictionaries(SPEC_KEYS, JSON, max_size=3), max_size=4))
def test_any_json_in_any_field_gives_models_or_problems(spec: dict[str, object]) -> None:
    document = {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": "a"},
        "spec": {"triggers": [{"every": "30s"}], "job": {"custom": {"kind": "report"}}} | spec,
    }
    text = decode("f.json", json.dumps(document, indent=1).encode())
    assert isinstance(text, str)
    loaded = load_text(text, "f.json")
    check(loaded, text.count("\n") + 1)
    assert bool(loaded.jobs) != bool(loaded.problems)


def test_a_search_for_slots_that_is_too_costly_is_refused_with_words() -> None:
    exclude = [*costly.EXCLUDE[:63], {"cron": "* * * * *"}]
    spec = {"triggers": costly.TRIGGERS, "exclude": exclude, "job": {"shell": {"command": "true"}}}
    job = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "costly"}, "spec": spec}
    loaded = load_text(json.dumps(job))
    assert not loaded.jobs
    (problem,) = loaded.problems
    assert problem.field == "spec.exclude"
    assert "steps for each day" in problem.message
    assert problem.allowed.startswith("use fewer time zones")


ZONES = ("UTC", "Europe/Lisbon", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Tehran")
DECEMBER = [{"cron": "* * * 1-11 *"}, {"cron": "* 1-23 1 12 *"}]


def but_an_hour_a_year(zones: int) -> list[dict[str, str]]:
    return DECEMBER + [{"cron": f"* * {day} 12 *", "timeZone": ZONES[day % zones]} for day in range(2, 32)]


COSTLY: dict[str, tuple[list[dict[str, Any]], list[dict[str, str]]]] = {
    "an hour a year": ([{"cron": f"{n} * * * *"} for n in range(16)], but_an_hour_a_year(1)),
    "an hour a year in four zones": (
        [{"cron": f"{n} * * * *", "timeZone": ZONES[n % 4]} for n in range(16)],
        but_an_hour_a_year(4),
    ),
    "odd intervals and an hour a year": ([{"every": "1h1s"}, {"every": "61s"}], but_an_hour_a_year(1)),
    "odd intervals": ([{"every": f"{61 + 2 * n}s"} for n in range(16)], []),
    "nothing left of a weekly slot": (
        [{"every": "1w", "on": ["WED"], "at": "17:10:46"}],
        [{"cron": f"* * {n % 20 + 1} * {n % 7}"} for n in range(63)] + [{"cron": "* * * * *"}],
    ),
    "weekly slots and 64 exclusions in all zones": (
        [{"every": f"{n + 2}w", "on": ["WED"], "at": "10:10", "timeZone": ZONES[n % 4]} for n in range(16)],
        [{"cron": f"* * {n % 28 + 1} * *", "timeZone": ZONES[3 + n % 4]} for n in range(64)],
    ),
    "windows of hours": (
        [{"cron": f"7 {n} {n} * * ?", "timeZone": ZONES[n % 7]} for n in range(16)],
        [
            {
                "from": f"2026-11-{1 + n // 3:02}T{8 * (n % 3):02}:00:00Z",
                "to": f"2026-11-{1 + n // 3:02}T{8 * (n % 3) + 7:02}:59:59Z",
            }
            for n in range(64)
        ],
    ),
}


@pytest.mark.parametrize("jitter", ["", "30d"])
@pytest.mark.parametrize("catch_up", ["Skip", "Last", "All"])
@pytest.mark.parametrize("name", COSTLY)
def test_ten_missed_years_are_decided_in_a_bounded_number_of_steps(name: str, catch_up: str, jitter: str) -> None:
    triggers, exclude = COSTLY[name]
    spec: dict[str, Any] = {
        "triggers": triggers,
        "exclude": exclude,
        "misfire": {"catchUp": catch_up} | ({"maxCatchUp": 100} if catch_up == "All" else {}),
        "job": {"custom": {"kind": "print", "params": {"text": "x"}}},
    }
    spec |= {"jitter": jitter} if jitter else {}
    text = json.dumps({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "a"}, "spec": spec})
    loaded = load_text(text)
    assert not loaded.problems
    (item,) = loaded.jobs.values()
    definition = to_definition(item.job)
    created, now = NOW - 3650 * DAY, NOW
    slots = slots_of(Plan(definition), seed="n/a", created=created)
    assert slots is not None
    first = slots.next(created)
    if first is None:
        assert slots.steps < MAX_STEPS + 300
        return
    begin = slots.steps
    decision = decide_slots(definition, slots, "u", Run(slot=first, due=first), created, now)
    slots.next(decision.decided_until)
    assert slots.steps - begin < 3 * MAX_STEPS + 300
    assert decision.missed >= 0
    assert decision.excluded >= 0
    assert decision.start == sorted(set(decision.start))


def test_many_unknown_time_zones_are_compared_with_a_few_names_each(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    get_close_matches = difflib.get_close_matches

    def counted(word: str, possibilities: Iterable[str], *rest: Any, **options: Any) -> list[str]:
        names = list(possibilities)
        compared.append(len(names))
        return get_close_matches(word, names, *rest, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    triggers = [{"cron": "0 6 * * *", "timeZone": f"Europe/Lisb{number}"} for number in range(16)]
    exclude = [{"cron": "0 6 * * *", "timeZone": f"America/New_Yor{number:02}"} for number in range(64)]
    spec = {"triggers": triggers, "exclude": exclude, "job": {"curl": {"url": "http://example.com"}}}
    text = json.dumps({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "a"}, "spec": spec})
    problems = load_text(text).problems
    hints = [problem.allowed for problem in problems if "is unknown" in problem.message]
    assert set(hints) == {'did you mean "Europe/Lisbon"?', 'did you mean "America/New_York"?'}
    assert len(compared) >= 80
    assert sum(compared) < 100 * COMPARED
