"""What manifests and objects of a cluster need beside an executor: how a stored description of a job is read, how
hooks are called, how a run is told as JSON.

``run -f`` and the operator name their kinds differently in the store and offer different ones; what stands here they
have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.time.instants import MINUTE, SECOND, Micros, rfc3339
from scheduledjob.engine.executor import Attempt, CurlSpec, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.engine.attempts import Hook
    from scheduledjob.engine.executor import Executor

CURL_TIMEOUT: Micros = MINUTE
"""How long one attempt of a request may take where ``timeouts.attempt`` is unset; also a call of a hook."""


def described_as(description: type) -> Callable[[Definition], Any]:
    """Makes an executor's typed description of the plain JSON of a definition."""

    def describe(definition: Definition) -> Any:
        try:
            return msgspec.convert(definition.job, description)
        except msgspec.ValidationError as error:
            raise ValueError(f"the job can't be read by this version: {error}") from None

    return describe


def hook_caller(curl: Executor) -> Hook:
    """Calls hooks with ``curl``, which must have been started by then."""

    async def call_hook(hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        return await _call_hook(curl, hook, attempt, record)

    return call_hook


async def _call_hook(curl: Executor, hook: Any, attempt: Attempt, record: RunRecord) -> Result:
    """The run as JSON is the hook's body unless it has one, and its idempotency key is not the run's own."""
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
    """A run with the keys that it has in JSON everywhere."""
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
    """(namespace, name) of a manifest's slug; the namespace is empty for a schedule of the library."""
    namespace, slash, name = slug.partition("/")
    return (namespace, name) if slash else ("", slug)
