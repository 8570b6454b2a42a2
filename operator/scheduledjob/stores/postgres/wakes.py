"""What clients tell listening replicas, as the payload of a NOTIFY: small JSON, at most 8000 bytes each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.engine.store import Wake

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROOM = 7000
"""Bytes of one payload that slugs may fill; Postgres allows 7999 in all."""


class _Told(msgspec.Struct, omit_defaults=True, rename={"sender": "from"}):
    due: int | None = None
    changed: list[str] = []
    sender: str = ""
    """The replica that tells, where it need not hear it itself."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Told)


def payloads(changed: Iterable[str]) -> list[str]:
    """That tell of changed slugs, as few as can be; the queries make those that tell when something is due."""
    parcels: list[list[str]] = [[]]
    room = _ROOM
    for slug in changed:
        size = len(_encoder.encode(slug)) + 1
        if size > room and parcels[-1]:
            parcels.append([])
            room = _ROOM
        parcels[-1].append(slug)
        room -= size
    return [_encoder.encode(_Told(changed=parcel)).decode() for parcel in parcels if parcel]


def wake_of(payload: str, own: Iterable[str] = ()) -> Wake | None:
    """What a payload tells; None where one of the ``own`` replicas said it. What can't be read makes one look."""
    try:
        told = _decoder.decode(payload)
    except msgspec.DecodeError:
        return Wake(notifications_lost=True)
    if told.sender and told.sender in own:
        return None
    return Wake(told.due, told.changed)
