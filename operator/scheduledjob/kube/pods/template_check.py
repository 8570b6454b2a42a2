"""Asks the API server whether it would accept the Pods of a job, before the job runs for the first time.

Only the API server knows all fields of a Pod and what they may contain. A dry run makes it check a Pod without creating
it. Only what an edit of the object can change makes the object invalid: unknown fields and invalid values. A quota, a
policy or a service account that does not exist yet may be different when the job runs.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.engine.executor import Attempt
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_spec import POD_KIND, PodSettings, PodSpec
from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable, BadRequest, Invalid
from scheduledjob.kube.client.paths import pods as pods_path

from .pods_api import STRICT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.reconcile.desired_state import DesiredState

log = structlog.get_logger("scheduledjob.reconcile")

IN_FLIGHT = 16
"""Dry runs in flight."""
SECONDS = 2.0
"""Maximum seconds of a check. After that the object counts as valid, and its first Pod shows whether it is."""
SKIPPED_SECONDS = 60.0
"""Seconds for which a namespace is not checked after a dry run there was not answered. Otherwise a webhook that hangs
in one namespace would delay the objects of all."""
_UNKNOWN_FIELD = "strict decoding error"


class TemplateCheck:
    """Call it for each Pod job that may be new."""

    def __init__(self, api: Api, settings: PodSettings) -> None:
        self._api = api
        self._settings = settings
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._skipped_until: dict[str, float] = {}
        """By namespace, in monotonic seconds."""

    async def __call__(self, desired: DesiredState, body: Mapping[str, Any]) -> str:
        """Return why the API server would refuse the Pods of an object; empty if it would not, or did not answer.

        An object that has been found valid at this generation is not checked again.
        """
        if desired.kind != POD_KIND or _is_known_valid(body):
            return ""
        spec = msgspec.convert(desired.definition.job, PodSpec)
        if not (spec.template or spec.resources):
            return ""
        namespace, _, name = desired.slug.partition("/")
        if time.monotonic() < self._skipped_until.get(namespace, 0.0):
            return ""
        attempt = Attempt(
            run_id=f"{desired.uid}-0",
            uid=desired.uid,
            namespace=namespace,
            name=name,
            slot=0,
            attempt=1,
            version=1,
            deadline=math.inf,
            payload=desired.payload,
        )
        params = {**STRICT, "dryRun": "All"}
        try:
            pod = build_pod(attempt, spec, self._settings)
            async with asyncio.timeout(SECONDS), self._in_flight:
                await self._api.post(pods_path(namespace), pod, params, attempts=1)
        except (BadRequest, Invalid) as error:
            return f"spec.execution.pod: {error.message}" if _is_of_spec(error) else ""
        except (ApiUnavailable, TimeoutError) as error:
            self._skipped_until[namespace] = time.monotonic() + SKIPPED_SECONDS
            log.info("Pod templates are not checked", namespace=namespace, error=str(error) or "no answer in time")
        except (ApiError, ValueError):
            pass  # refused for a reason that may be gone when the job runs
        return ""


def _is_known_valid(body: Mapping[str, Any]) -> bool:
    status = body.get("status") or {}
    return status.get("observedGeneration") == body["metadata"]["generation"] and any(
        condition.get("type") == "Stalled" and condition.get("status") == "False"
        for condition in status.get("conditions") or ()
    )


def _is_of_spec(error: ApiError) -> bool:
    """Whether the error is about a field of the Pod, and not a policy's, which has no field."""
    causes = error.details.get("causes") or ()
    return _UNKNOWN_FIELD in error.message or any(str(cause.get("field")).startswith("spec") for cause in causes)
