"""What passes between the operator and its runner in a Pod: an order in, a report out.

The order is JSON in the environment, in as many variables as Linux's limit on one of them asks for. A reference in it
stays one: the kubelet puts the value into a variable, and the order only says which variable that is. The report is
JSON in the container's termination message, which the kubelet cuts at 4 KiB, so it is made to fit: what a job
leaves (payload, result) goes before what it printed, because the log has the output, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Result

ORDER = "SJOB_RUN"
"""The variable with the order; the second part of a long one is in ``SJOB_RUN_2``."""
REFERENCE = "SJOB_REF_"
"""The variables with the values referred to, counted from 0."""
MESSAGE_LIMIT = 4096
"""Bytes that the kubelet takes of a termination message."""
OUTPUT_IN_REPORT = 3584
"""Bytes of output in a report, at most."""
_PART = 30_000
"""Characters of one part of an order: at four bytes each they are below the 128 KiB that Linux allows a variable."""


@dataclass(slots=True)
class Order:
    """What the runner is to run."""

    kind: str
    """``shell``, ``curl`` or the name of a Python job."""
    job: Any = None
    """The spec of the kind, as plain JSON."""
    timeout: float | None = None
    """Seconds."""
    payload: bytes | None = None
    """Where it is nothing that a variable can hold; else it is in ``SCHEDULEDJOB_PAYLOAD``."""
    payload_is_secret: bool = False
    """It came out of a Secret, and is not to be shown."""
    grace: float = 5.0
    """Seconds that the job has between TERM and KILL when the Pod is ended."""
    references: list[tuple[str, str, str]] = field(default_factory=list)
    """(kind, name, key) of the value in each ``SJOB_REF_n``."""


def variables(text: str) -> dict[str, str]:
    """The variables that carry an order."""
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    return {ORDER if index == 0 else f"{ORDER}_{index + 1}": part for index, part in enumerate(parts)}


def read_order(environment: Mapping[str, str]) -> Order:
    """The order in these variables. ``LookupError`` without one; ``ValueError`` for one that can't be read."""
    parts = [environment[ORDER]] if ORDER in environment else []
    while parts and (name := f"{ORDER}_{len(parts) + 1}") in environment:
        parts.append(environment[name])
    if not parts:
        raise LookupError(f"{ORDER} is not set")
    return msgspec.json.decode("".join(parts), type=Order)


class Report(msgspec.Struct, omit_defaults=True):
    """A ``Result`` on its way out of a Pod."""

    ok: bool
    reason: str = ""
    code: int | None = None
    complete: bool = False
    payload: bytes | None = None
    result: bytes | None = None
    output: str = ""
    cut: bool = False
    """There was more output: the log has it."""


def encode_report(result: Result) -> bytes:
    """At most ``MESSAGE_LIMIT`` bytes. What a job left that is too long for them makes it a failure that says so."""
    report = Report(result.ok, result.reason, result.code, result.complete, result.payload, result.result)
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
        # Escapes make text longer than its bytes: cut by the excess, and look again.
        output = output[max(1, min(len(output), excess // 6 + 1)) :]


def read_report(message: str) -> Report | None:
    """The report in a termination message; None where there is none."""
    try:
        return msgspec.json.decode(message, type=Report)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def grace_of(seconds: int) -> float:
    """Seconds that a job has between TERM and KILL in a Pod that itself has this many."""
    return max(1.0, min(seconds - 5.0, seconds * 0.8))
