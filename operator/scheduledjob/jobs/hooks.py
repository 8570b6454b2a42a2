"""Calls the hooks of a schedule (``onFailure``, ``onSuccess``), and writes a run as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.curl.curl_kind import CURL_TIMEOUT
from scheduledjob.jobs.curl.curl_spec import CurlSpec

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.engine.executor import Executor, Hook


def hook_caller(curl: Executor) -> Hook:
    """Return a function that calls hooks with ``curl``, which must have been started by then."""

    async def call_hook(hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        return await _call_hook(curl, hook, attempt, record)

    return call_hook


async def _call_hook(curl: Executor, hook: Any, attempt: Attempt, record: RunRecord) -> Result:
    """Call a hook. Its body is the run as JSON unless it has its own; its idempotency key is not the run's."""
    call = Attempt(
        run_id=f"{attempt.run_id}-{record.outcome.value.lower()}",
        uid=attempt.uid,
        namespace=attempt.namespace,
        name=attempt.name,
        slot=attempt.slot,
        attempt=attempt.attempt,
        version=attempt.version,
        deadline=attempt.deadline,
        timeout=CURL_TIMEOUT / SECOND,
        payload=msgspec.json.encode(run_as_json(record)),
        references=attempt.references,
    )
    try:
        call.params = msgspec.convert(hook, CurlSpec)
        return await curl.run(call)
    except Exception as error:  # a hook must not end the replica
        return Result(False, f"{type(error).__name__}: {error}")


def run_as_json(record: RunRecord) -> dict[str, Any]:
    """Return a run as the JSON object that hooks, lists and the history have."""
    namespace, name = split_slug(record.slug)
    return {
        "name": name,
        "namespace": namespace,
        "slot": rfc3339(record.slot),
        "started": None if record.started is None else rfc3339(record.started),
        "finished": rfc3339(record.finished),
        "attempt": record.attempt,
        "outcome": record.outcome.value,
        "reason": record.reason,
    }


def split_slug(slug: str) -> tuple[str, str]:
    """Return the namespace and name of a slug; the namespace is empty for a schedule of the library."""
    namespace, slash, name = slug.partition("/")
    return (namespace, name) if slash else ("", slug)
