"""Paths of the API server."""

from __future__ import annotations

import re

from scheduledjob.resource_names import API_VERSION, PLURAL

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""The name of an object. A text of another form must not become part of a path: it could lead to another object."""


def scheduled_jobs(namespace: str = "", name: str = "") -> str:
    """Return the path of a ScheduledJob, of those in a namespace, or of all."""
    return _path(f"/apis/{API_VERSION}", namespace, PLURAL, name)


def pods(namespace: str = "", name: str = "") -> str:
    """Return the path of a Pod, of those in a namespace, or of all."""
    return _path("/api/v1", namespace, "pods", name)


def _path(root: str, namespace: str, plural: str, name: str) -> str:
    return "/".join(part for part in (root, namespace and f"namespaces/{namespace}", plural, name) if part)
