"""What history keeps of a Pod's output: the end of its log, without the values of the Secrets that it was given.

The values are asked for when the log is read, and forgotten with it. Where one can't be read, the operator was not
trusted with it; then the output might show what the operator may not know, and is left out with a word on why.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from scheduledjob.engine.executor import OUTPUT_LIMIT
from scheduledjob.jobs.values import Secrets

from .pod_projection import secrets_of
from .pods_protocol import PodRefused, PodsAway

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pods_protocol import Pods

LOG_SECONDS = 15.0
"""Seconds that a result waits for its output."""


async def output_of(pods: Pods, pod: Mapping[str, Any]) -> bytes:
    """The last ``OUTPUT_LIMIT`` bytes of the log; nothing where there is none to be had in time."""
    try:
        async with asyncio.timeout(LOG_SECONDS):
            log = await pods.log(pod)
            return await _without_secrets(pods, pod, log) if log else b""
    except (PodsAway, PodRefused, TimeoutError):
        return b""


async def _without_secrets(pods: Pods, pod: Mapping[str, Any], log: bytes) -> bytes:
    secrets = Secrets()
    for name, keys in secrets_of(pod).items():
        try:
            values = await pods.secret(pod["metadata"]["namespace"], name)
        except PodRefused:
            return (
                f"[the output is left out: Secret \"{name}\" can't be read, so its values can't be masked]\n".encode()
            )
        for key, value in values.items():
            if keys is None or key in keys:
                secrets.remember(value)
    kept = secrets.mask(log)[-OUTPUT_LIMIT:]
    start = 0
    while start < min(3, len(kept)) and 0x80 <= kept[start] < 0xC0:  # the rest of a character that was cut
        start += 1
    return kept[start:]
