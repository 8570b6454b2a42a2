"""What a Pod is called, and what it says of itself in labels and annotations.

The name is made of the run and the attempt alone, so that whoever wants to create the Pod of an attempt, however late
and on whichever replica, meets the one that is there. People read the front of it; the hash is what counts.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.time.instants import compact
from scheduledjob.resource_names import API_VERSION, GROUP, KIND

from .pod_spec import KeepPods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Attempt


CONTAINER = "job"
"""The container whose end is the job's."""

NAME_LABEL = f"{GROUP}/name"
UID_LABEL = f"{GROUP}/uid"
SLOT_LABEL = f"{GROUP}/slot"
TOKEN_LABEL = f"{GROUP}/token"
RUN_ID = f"{GROUP}/run-id"
ATTEMPT = f"{GROUP}/attempt"
HISTORY = f"{GROUP}/history"
TIMEOUT = f"{GROUP}/timeout"

_LONGEST = 63
_LABEL = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?")


def pod_name(name: str, run_id: str, attempt: int) -> str:
    """``nightly-report-4tq0v1h2m3a8-1``: a DNS label of at most 63 characters."""
    end = f"-{_hash(run_id)}-{attempt}"
    front = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")[: _LONGEST - len(end)].rstrip("-")
    return f"{front or 'job'}{end}"


def pod_labels(attempt: Attempt) -> dict[str, str]:
    """By which a Pod is found: the job, and the slot or the token of a manual run."""
    found = {NAME_LABEL: label_value(attempt.name), UID_LABEL: label_value(attempt.uid)}
    token = token_of(attempt)
    if token is None:
        found[SLOT_LABEL] = compact(attempt.slot)
    else:
        found[TOKEN_LABEL] = label_value(token)
    return found


def pod_annotations(attempt: Attempt, keep: KeepPods) -> dict[str, str]:
    """What tells one attempt's Pod from every other, how long it may run, and how many stay when they have finished."""
    found = {
        RUN_ID: attempt.run_id,
        ATTEMPT: str(attempt.attempt),
        HISTORY: f"{keep.succeeded}/{keep.failed}/{keep.ttl}s",
    }
    if attempt.timeout is not None:
        found[TIMEOUT] = f"{attempt.timeout:g}s"
    return found


def timeout_of(pod: Mapping[str, Any]) -> float | None:
    """Seconds that its job may run: what held when the attempt started, whatever was edited since."""
    said = re.fullmatch(r"([0-9.e+]{1,20})s", annotation(pod, TIMEOUT))
    try:
        return None if said is None else float(said[1])
    except ValueError:
        return None


def keep_of(pod: Mapping[str, Any]) -> KeepPods:
    """How many Pods of its job stay, as this Pod says; the defaults where it says nothing that can be read."""
    said = re.fullmatch(r"(\d{1,9})/(\d{1,9})/(\d{1,12})s", annotation(pod, HISTORY))
    return KeepPods() if said is None else KeepPods(int(said[1]), int(said[2]), int(said[3]))


def annotation(pod: Mapping[str, Any], name: str) -> str:
    """An annotation of a Pod; empty where there is none."""
    found = (pod["metadata"].get("annotations") or {}).get(name, "")
    return found if isinstance(found, str) else ""


def owner_reference(attempt: Attempt) -> dict[str, Any]:
    """The Pod goes with its ScheduledJob; it never holds up that one's deletion."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": attempt.name,
        "uid": attempt.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def is_of(pod: Mapping[str, Any], attempt: Attempt) -> bool:
    """Whether this Pod is the attempt's: made for this object, this run and this try of it."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return (
        any(owner.get("uid") == attempt.uid and owner.get("kind") == KIND for owner in owners)
        and annotation(pod, RUN_ID) == attempt.run_id
        and annotation(pod, ATTEMPT) == str(attempt.attempt)
    )


def token_of(attempt: Attempt) -> str | None:
    """What identifies a manual run in place of its slot."""
    rest = attempt.run_id.removeprefix(f"{attempt.uid}-")
    return None if rest == str(attempt.slot) else rest


def label_value(text: str) -> str:
    """``text`` where it can be a label, else a hash of it."""
    return text if len(text) <= _LONGEST and _LABEL.fullmatch(text) else _hash(text)


def _hash(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return base64.b32hexencode(digest).decode().lower()[:12]
