"""Reads the log of a Pod, whose end is the output in history. ``Redaction`` masks it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .pods_protocol import PodRefused, PodsUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pods_protocol import Pods

LOG_SECONDS = 15.0
"""Maximum seconds that a result waits for its output."""


async def log_of(pods: Pods, pod: Mapping[str, Any]) -> bytes:
    """Return the end of the log, longer than history keeps and not masked; empty if it can't be read in time."""
    try:
        async with asyncio.timeout(LOG_SECONDS):
            return await pods.log(pod)
    except (PodsUnavailable, PodRefused, TimeoutError):
        return b""
