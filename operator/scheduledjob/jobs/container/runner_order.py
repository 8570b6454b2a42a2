"""What the operator and its runner in a Pod exchange: the operator sends an order, the runner a report.

The order is JSON in the environment, split over several variables if it exceeds Linux's limit for a variable. The
kubelet resolves its references: it puts each value into a variable, and the order says which variable that is. The
report is JSON in the container's termination message, which the kubelet cuts at 4 KiB. What a job leaves (payload,
result) has precedence over its output there, because the log has the output, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from scheduledjob.domain.time.instants import Micros

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Result

ORDER = "SJOB_RUN"
"""The variable with the order. The second part of a long order is in ``SJOB_RUN_2``."""
REFERENCE = "SJOB_REF_"
"""Prefix of the variables with the values of references, which are numbered from 0."""
MESSAGE_LIMIT = 4096
"""Maximum bytes of a termination message; the kubelet cuts the rest."""
OUTPUT_IN_REPORT = 3584
"""Maximum bytes of output in a report."""
_PART = 30_000
"""Characters of a part of an order: with four bytes each, they are below Linux's limit of 128 KiB."""


@dataclass(slots=True)
class Order:
    """What the runner runs."""

    kind: str
    """A registered kind, such as ``shell`` or the name of a Python job."""
    job: Any = None
    """The spec of the kind, as plain JSON."""
    timeout: float | None = None
    """Seconds."""
    payload: bytes | None = None
    """A payload that a variable can't hold; otherwise it is in ``SCHEDULEDJOB_PAYLOAD``."""
    payload_is_secret: bool = False
    """The payload came from a Secret, so it is masked."""
    grace: float = 5.0
    """Seconds between TERM and KILL of the job when the Pod is ended."""
    references: list[tuple[str, str, str]] = field(default_factory=list)
    """(kind, name, key) of the value in each ``SJOB_REF_n``."""


def variables(text: str) -> dict[str, str]:
    """Return the variables for an order."""
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    return {ORDER if index == 0 else f"{ORDER}_{index + 1}": part for index, part in enumerate(parts)}


def read_order(environment: Mapping[str, str]) -> Order:
    """Return the order. Raises ``LookupError`` if there is none, and ``ValueError`` if it can't be decoded."""
    parts = [environment[ORDER]] if ORDER in environment else []
    while parts and (name := f"{ORDER}_{len(parts) + 1}") in environment:
        parts.append(environment[name])
    if not parts:
        raise LookupError(f"{ORDER} is not set")
    return msgspec.json.decode("".join(parts), type=Order)


class Report(msgspec.Struct, omit_defaults=True):
    """A ``Result`` as a Pod reports it."""

    ok: bool
    reason: str = ""
    code: Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] | None = None
    """As in ``RunRecord``: what a job writes in place of its runner must not make a run that no store can record."""
    complete: bool = False
    payload: bytes | None = None
    result: bytes | None = None
    output: str = ""
    cut: bool = False
    """Whether there was more output, which is in the log."""
    retry_after: Micros | None = None
    payload_cleared: bool = False


def encode_report(result: Result) -> bytes:
    """Return at most ``MESSAGE_LIMIT`` bytes. If the payload and the result are too long, the report is a failure."""
    report = Report(
        result.ok,
        result.reason,
        result.code,
        result.complete,
        result.payload,
        result.result,
        retry_after=result.retry_after,
        payload_cleared=result.payload_cleared,
    )
    bare = msgspec.json.encode(report)
    if len(bare) > MESSAGE_LIMIT - 64 and (result.payload is not None or result.result is not None):
        left = len(result.payload or b"") + len(result.result or b"")
        reason = (
            f"the job left {left} bytes in task.payload and task.result: a Pod can give back about 3000; "
            "write less, or run it Inline"
        )
        report = Report(False, reason)
        bare = msgspec.json.encode(report)
    output = result.output[-OUTPUT_IN_REPORT:]
    while True:
        report.output, report.cut = output.decode(errors="replace"), len(output) < len(result.output)
        encoded = msgspec.json.encode(report)
        excess = len(encoded) - MESSAGE_LIMIT
        if excess <= 0 or not output:
            return encoded
        # Escapes make the text longer than its bytes, so cut by a part of the excess and try again.
        output = output[max(1, min(len(output), excess // 6 + 1)) :]


def read_report(message: str) -> Report | None:
    """Return the report of a termination message; None if it is not a report."""
    try:
        return msgspec.json.decode(message, type=Report)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def grace_of(seconds: int) -> float:
    """Return the seconds between TERM and KILL of a job whose Pod has ``seconds`` between them."""
    return max(1.0, min(seconds - 5.0, seconds * 0.8))
