"""Asks the API server whether it would accept the Pods of a job, before the job runs for the first time.

Only the API server knows all fields of a Pod and what they may contain. A dry run makes it check a Pod without creating
it. Only what an edit of the object can change makes the object invalid: unknown fields and invalid values. A quota, a
policy or a service account that does not exist yet may be different when the job runs.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.engine.executor import Attempt
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_spec import POD_KIND, PodSettings, PodSpec
from scheduledjob.kube.client.api_errors import ApiError, BadRequest, Invalid
from scheduledjob.kube.client.paths import pods as pods_path

from .pods_api import STRICT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.reconcile.desired_state import DesiredState

log = structlog.get_logger("scheduledjob.reconcile")

IN_FLIGHT = 16
"""Dry runs in flight."""
SECONDS = 10.0
"""Maximum seconds of a dry run. After that the object counts as valid, and its first Pod shows whether it is."""
_UNKNOWN_FIELD = "strict decoding error"


class TemplateCheck:
    """Call it for each Pod job that may be new."""

    def __init__(self, api: Api, settings: PodSettings) -> None:
        self._api = api
        self._settings = settings
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

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
            async with self._in_flight, asyncio.timeout(SECONDS):
                await self._api.post(pods_path(namespace), pod, params, attempts=1)
        except (BadRequest, Invalid) as error:
            return f"spec.execution.pod: {error.message}" if _is_of_spec(error) else ""
        except (ApiError, TimeoutError, ValueError) as error:
            log.debug("a Pod template was not checked", slug=desired.slug, error=str(error))
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
