"""Paths of the API server for what we read and write."""

from __future__ import annotations

import re

from scheduledjob.resource_names import GROUP, VERSION

PLURAL = "scheduledjobs"

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""Of a Secret, say. What somebody wrote as a name is part of a path only if it is one: else it may lead elsewhere."""


def scheduled_jobs(namespace: str = "", name: str = "") -> str:
    """Of one ScheduledJob, of those in a namespace, or of all."""
    return _path(f"/apis/{GROUP}/{VERSION}", namespace, PLURAL, name)


def pods(namespace: str = "", name: str = "") -> str:
    """Of one Pod, of those in a namespace, or of all."""
    return _path("/api/v1", namespace, "pods", name)


def _path(root: str, namespace: str, plural: str, name: str) -> str:
    return "/".join(part for part in (root, namespace and f"namespaces/{namespace}", plural, name) if part)
