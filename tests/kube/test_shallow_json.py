"""An object that is nested too deeply hides no other from the operator."""

from __future__ import annotations

import json

import pytest

from scheduledjob.kube.client.shallow_json import DEEPEST, decode, shallow


def nested(levels: int) -> bytes:
    return b'{"items":[{"a":' + b'{"a":' * levels + b"1" + b"}" * levels + b'},{"b":"]}[{\\"{"}]}'


@pytest.mark.parametrize("levels", [DEEPEST, 900, 2000, 9000])
def test_what_is_too_deep_is_left_out_and_the_rest_stays(levels: int) -> None:
    left = shallow(nested(levels))
    assert left.count(b"{") < DEEPEST + 4
    page = json.loads(left)
    assert page["items"][1] == {"b": ']}[{"{'}
    found, depth = page["items"][0], 3
    while found is not None:
        found, depth = found["a"], depth + 1
    assert depth == DEEPEST + 1


def test_what_is_not_too_deep_stays_as_it_is() -> None:
    for data in (nested(DEEPEST - 3), b'{"a":[' + b"{}," * DEEPEST + b"1]}", b'"{"'):
        assert shallow(data) == data


def test_any_depth_can_be_decoded() -> None:
    assert decode(nested(9000))["items"][1]["b"] == ']}[{"{'
    assert decode(nested(10)) == json.loads(nested(10))
    with pytest.raises(ValueError, match="truncated"):
        decode(b"{")
