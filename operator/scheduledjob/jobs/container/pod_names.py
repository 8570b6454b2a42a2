"""The name, labels and annotations of a Pod.

The name follows from the run and the attempt, so that whoever creates the Pod of an attempt, however late and on
whichever replica, gets "already exists" if it is there. The first part is for people; the hash makes the name unique.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from scheduledjob.domain.time.instants import compact
from scheduledjob.resource_names import API_VERSION, GROUP, KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Attempt


CONTAINER = "job"
"""The name of the container whose end is the end of the job."""

NAME_LABEL = f"{GROUP}/name"
UID_LABEL = f"{GROUP}/uid"
SLOT_LABEL = f"{GROUP}/slot"
TOKEN_LABEL = f"{GROUP}/token"
RUN_ID = f"{GROUP}/run-id"
ATTEMPT = f"{GROUP}/attempt"
TIMEOUT = f"{GROUP}/timeout"
JOB_ENDED = f"{GROUP}/job-ended"
"""The annotation of a Pod that the operator ends because its job has ended: how the Pod ended says nothing."""
SECRETS = f"{GROUP}/secret-versions"
"""The annotation with the versions of the Secrets that the containers of a Pod can read."""

_LONGEST = 63
_NUMBER = re.compile(r"[0-9]{1,10}")
_LABEL = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?")


def pod_name(name: str, run_id: str, attempt: int) -> str:
    """Return ``nightly-report-4tq0v1h2m3a8-1``, a DNS label of at most 63 characters."""
    end = f"-{_hash(run_id)}-{attempt}"
    front = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")[: _LONGEST - len(end)].rstrip("-")
    return f"{front or 'job'}{end}"


def pod_labels(attempt: Attempt) -> dict[str, str]:
    """Return the labels by which people find a Pod: the job, and the slot or the token of a manual run."""
    found = {NAME_LABEL: label_value(attempt.name), UID_LABEL: label_value(attempt.uid)}
    token = token_of(attempt)
    if token is None:
        found[SLOT_LABEL] = compact(attempt.slot)
    else:
        found[TOKEN_LABEL] = label_value(token)
    return found


def pod_annotations(attempt: Attempt) -> dict[str, str]:
    """Return the annotations: the attempt, and how long it may run."""
    found = {RUN_ID: attempt.run_id, ATTEMPT: str(attempt.attempt)}
    if attempt.timeout is not None:
        found[TIMEOUT] = f"{attempt.timeout:g}s"
    return found


def timeout_of(pod: Mapping[str, Any]) -> float | None:
    """Return the time limit of a Pod's job in seconds, as it was when the attempt started; None: no limit."""
    found = re.fullmatch(r"([0-9.e+]{1,20})s", annotation(pod, TIMEOUT))
    try:
        return None if found is None else float(found[1])
    except ValueError:
        return None


def annotation(pod: Mapping[str, Any], name: str) -> str:
    """Return an annotation of a Pod; empty if it has none of that name."""
    found = (pod["metadata"].get("annotations") or {}).get(name, "")
    return found if isinstance(found, str) else ""


def owner_reference(attempt: Attempt) -> dict[str, Any]:
    """Return the owner reference: the Pod is deleted with its ScheduledJob, and does not delay that deletion."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": attempt.name,
        "uid": attempt.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


class AttemptOf(NamedTuple):
    """The attempt to which a Pod belongs."""

    namespace: str
    name: str
    """Of the ScheduledJob."""
    uid: str
    """Of the ScheduledJob."""
    run_id: str
    attempt: int

    @property
    def slug(self) -> str:
        return f"{self.namespace}/{self.name}"


def attempt_of(pod: Mapping[str, Any]) -> AttemptOf | None:
    """Return the attempt that a Pod was made for; None if it was made for none.

    Anybody who may create Pods can write labels, annotations and owner references like the operator's, with any values.
    So a Pod counts only as one of a ScheduledJob of its own namespace, which its owner reference names and whose uid it
    has, and only if its name is that of the attempt.
    """
    metadata = pod["metadata"]
    owner = next((owner for owner in metadata.get("ownerReferences") or () if _is_scheduled_job(owner)), None)
    run_id, number = annotation(pod, RUN_ID), annotation(pod, ATTEMPT)
    if owner is None or not run_id or not _NUMBER.fullmatch(number):
        return None
    found = AttemptOf(metadata["namespace"], str(owner.get("name")), str(owner.get("uid")), run_id, int(number))
    label = (metadata.get("labels") or {}).get(UID_LABEL)
    is_whole = label == label_value(found.uid) and run_id.startswith(f"{found.uid}-")
    return found if is_whole and metadata["name"] == pod_name(found.name, run_id, found.attempt) else None


def is_of(pod: Mapping[str, Any], attempt: Attempt) -> bool:
    """Whether a Pod was made for this attempt."""
    expected = AttemptOf(attempt.namespace, attempt.name, attempt.uid, attempt.run_id, attempt.attempt)
    return attempt_of(pod) == expected


def is_of_job(pod: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Whether a Pod was made for this ScheduledJob, both as the API server returns them."""
    found, metadata = attempt_of(pod), job["metadata"]
    return found is not None and found[:3] == (metadata["namespace"], metadata["name"], metadata["uid"])


def _is_scheduled_job(owner: Mapping[str, Any]) -> bool:
    return owner.get("kind") == KIND and str(owner.get("apiVersion")).partition("/")[0] == GROUP


def token_of(attempt: Attempt) -> str | None:
    """Return the token of a manual run, which has no slot; None for others."""
    rest = attempt.run_id.removeprefix(f"{attempt.uid}-")
    return None if rest == str(attempt.slot) else rest


def label_value(text: str) -> str:
    """Return ``text`` if it is a valid label, otherwise a hash of it."""
    return text if len(text) <= _LONGEST and _LABEL.fullmatch(text) else _hash(text)


def _hash(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return base64.b32hexencode(digest).decode().lower()[:12]
