"""Reads the output of a Pod for history: the end of its log, without the values of its Secrets.

The Secrets are read when the log is read, and forgotten afterwards. If the operator may not read one of them, it can't
mask its values, so the output is left out, and says why.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from scheduledjob.engine.executor import OUTPUT_LIMIT
from scheduledjob.jobs.output import without_broken_start
from scheduledjob.jobs.values import Secrets

from .pod_projection import secrets_of
from .pods_protocol import PodRefused, PodsUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pods_protocol import Pods

LOG_SECONDS = 15.0
"""Maximum seconds that a result waits for its output."""


async def output_of(pods: Pods, pod: Mapping[str, Any]) -> bytes:
    """Return the last ``OUTPUT_LIMIT`` bytes of the log; empty if it can't be read in time."""
    try:
        async with asyncio.timeout(LOG_SECONDS):
            log = await pods.log(pod)
            return await _without_secrets(pods, pod, log) if log else b""
    except (PodsUnavailable, PodRefused, TimeoutError):
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
    return without_broken_start((await secrets.masked(log))[-OUTPUT_LIMIT:])
