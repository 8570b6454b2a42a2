"""Notifications of listening replicas, as the payloads of NOTIFY: JSON of less than 8000 bytes each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.engine.store import Wake

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_SLUG_BYTES = 7000
"""How many bytes of a payload slugs may fill. Postgres allows 7999 in all."""


class _Payload(msgspec.Struct, omit_defaults=True, rename={"sender": "from"}):
    due: int | None = None
    changed: list[str] = []
    sender: str = ""
    """The replica that sent the notification, if it need not receive it itself."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Payload)


def encode_changed(changed: Iterable[str]) -> list[str]:
    """Return as few payloads as possible for changed slugs. (The queries make the payloads for due rows.)"""
    batches: list[list[str]] = [[]]
    room = _MAX_SLUG_BYTES
    for slug in changed:
        size = len(_encoder.encode(slug)) + 1
        if size > room and batches[-1]:
            batches.append([])
            room = _MAX_SLUG_BYTES
        batches[-1].append(slug)
        room -= size
    return [_encoder.encode(_Payload(changed=batch)).decode() for batch in batches if batch]


def decode_wake(text: str, own: Iterable[str] = ()) -> Wake | None:
    """Return what a payload says; None if one of the ``own`` replicas sent it. An unreadable payload causes a poll."""
    try:
        payload = _decoder.decode(text)
    except msgspec.DecodeError:
        return Wake(notifications_lost=True)
    if payload.sender and payload.sender in own:
        return None
    return Wake(payload.due, payload.changed)
