"""Acts: what people ask of a schedule by hand, beside what its definition says.

They come as a level, not as events: whoever watches the object hands over what stands there now, again and again. So
each carries a token, and a token counts once: ``State.handled`` remembers those that were taken.
"""

from __future__ import annotations

import msgspec


class Requests(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for; an empty token asks for nothing."""

    run: str = ""
    """Token of a run to start now: with the uid it identifies that run."""
    payload: bytes | None = None
    """For that run in place of the schedule's own."""
    cancel: str = ""
    """Id of a run to end."""
    resume: str = ""
    """Token of a request to go on after ``pauseAfterFailures``."""

    def encode(self) -> str:
        """Canonical JSON; empty where nothing is asked for."""
        return "" if self == NONE else _encoder.encode(self).decode()

    @staticmethod
    def decode(text: str) -> Requests:
        """Raises ``msgspec.ValidationError`` for a text that no version of this product wrote."""
        return _decoder.decode(text) if text else NONE


NONE = Requests()
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Requests)
