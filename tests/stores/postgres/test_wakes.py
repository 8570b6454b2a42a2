"""The payloads of NOTIFY: they fit, and are decoded as they were encoded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.engine.store import Wake
from scheduledjob.stores.postgres.wakes import decode_wake, encode_changed

MOST = 7999
"""The most bytes that Postgres accepts as a payload."""

slugs = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@given(st.lists(slugs, max_size=300), st.integers(1, 40))
def test_changed_slugs_are_sent_in_as_few_payloads_as_possible(changed: list[str], times: int) -> None:
    sent = encode_changed(changed * times)
    assert all(len(payload.encode()) <= MOST for payload in sent)
    received = [decode_wake(payload) for payload in sent]
    assert [slug for wake in received if wake is not None for slug in wake.changed] == changed * times
    size = sum(len(payload.encode()) for payload in sent)
    assert len(sent) <= size // 6000 + 1


def test_no_changed_slug_makes_no_payload() -> None:
    assert encode_changed([]) == []


def test_a_replica_is_not_notified_of_its_own_writes() -> None:
    payload = '{"due": 7, "from": "alice"}'
    assert decode_wake(payload, {"alice"}) is None
    assert decode_wake(payload, {"bob"}) == Wake(due=7, changed=[])


def test_an_unknown_payload_causes_a_poll() -> None:
    assert decode_wake('{"due": "soon"}') == Wake(notifications_lost=True)
    assert decode_wake('{"due": 7, "why": "because"}') == Wake(due=7, changed=[])
