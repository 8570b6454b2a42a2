"""What is told by NOTIFY arrives, and fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.store import Wake
from scheduledjob.stores.postgres.wakes import decode_wake, encode_changed

MOST = 7999
"""Bytes that Postgres takes as the payload of a notification."""

slugs = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@given(st.lists(slugs, max_size=300), st.integers(1, 40))
def test_every_changed_slug_is_told_in_as_few_payloads_as_fit(changed: list[str], times: int) -> None:
    told = encode_changed(changed * times)
    assert all(len(payload.encode()) <= MOST for payload in told)
    heard = [decode_wake(payload) for payload in told]
    assert [slug for wake in heard if wake is not None for slug in wake.changed] == changed * times
    size = sum(len(payload.encode()) for payload in told)
    assert len(told) <= size // 6000 + 1


def test_nothing_is_told_of_nothing() -> None:
    assert encode_changed([]) == []


def test_a_replica_need_not_hear_itself() -> None:
    payload = '{"due": 7, "from": "alice"}'
    assert decode_wake(payload, {"alice"}) is None
    assert decode_wake(payload, {"bob"}) == Wake(due=7, changed=[])


def test_what_a_later_version_says_makes_one_look() -> None:
    assert decode_wake('{"due": "soon"}') == Wake(notifications_lost=True)
    assert decode_wake('{"due": 7, "why": "because"}') == Wake(due=7, changed=[])
