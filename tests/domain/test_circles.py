"""Jobs that follow each other in a circle."""

from __future__ import annotations

import pytest

from scheduledjob.domain.triggers.circles import MAX_SEARCHED, Follows, words_of_circle


def follows(**upstreams: str) -> Follows[str]:
    found = Follows[str]()
    for job, names in upstreams.items():
        found.set(job, names.split())
    return found


@pytest.mark.parametrize(
    ("jobs", "circle"),
    [
        ({"a": "b"}, []),
        ({"a": "b", "b": "c"}, []),
        ({"a": "a"}, ["a", "a"]),
        ({"a": "b", "b": "a"}, ["a", "b", "a"]),
        ({"a": "c", "b": "a", "c": "b"}, ["a", "b", "c", "a"]),
        ({"a": "x b", "b": "y a", "x": "y", "y": "x"}, ["a", "b", "a"]),
        ({"a": "b", "b": "c", "c": "b"}, []),
        ({"a": "b c", "b": "d", "c": "d", "d": "e"}, []),
    ],
)
def test_the_circle_through_a_job(jobs: dict[str, str], circle: list[str]) -> None:
    assert follows(**jobs).circle("a") == circle


def test_a_circle_is_gone_when_one_of_its_jobs_follows_nothing_more() -> None:
    found = follows(a="b", b="a")
    found.set("b", ())
    assert found.circle("a") == []


def test_a_search_is_bounded() -> None:
    found = Follows[int]()
    for job in range(100 * MAX_SEARCHED):
        found.set(job, [job + 1, job + 2])
    found.set(100 * MAX_SEARCHED, [0])
    assert found.circle(0) == []


def test_the_words_name_the_circle() -> None:
    message, advice = words_of_circle(["a", "b", "a"])
    assert message.endswith(": a -> b -> a")
    assert advice == "remove the trigger following from one of them"
