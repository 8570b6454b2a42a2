"""Translates an object of the cluster to the desired state of its schedule.

The API server accepts objects that are still invalid (a time zone that does not exist, an impossible cron expression)
or not allowed here (inline shell in a namespace that does not allow it). These become schedules too, of the kind
``cluster.invalid``, which never run and say why. So the schedule stops, the store keeps its state, and no slots are
replayed after the object is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ValidationError

from scheduledjob.domain.schedule.backoff import Exponential
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import NO_REQUESTS, Requests
from scheduledjob.domain.time.instants import Instant, to_instant
from scheduledjob.domain.triggers.circles import words_of_circle
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.jobs.built_in_kind import Place
from scheduledjob.jobs.container.pod_builder import Blueprint
from scheduledjob.jobs.container.pod_spec import PodSettings, PodSpec
from scheduledjob.jobs.job_registry import stored_kind
from scheduledjob.manifests.checks import PAYLOAD_LIMIT, parse_instant
from scheduledjob.manifests.jobs.job_model import place_of
from scheduledjob.manifests.loader import JOB_WEIGHT, TOO_MANY_VALUES, load_text
from scheduledjob.manifests.models import ScheduledJob
from scheduledjob.manifests.pod_translation import to_pod_definition
from scheduledjob.manifests.translate import payload_of, to_definition
from scheduledjob.manifests.yamltree import CHARACTERS_PER_WEIGHT, MAX_DEPTH
from scheduledjob.resource_names import API_VERSION, GROUP, KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from scheduledjob.domain.schedule.misfire import Slots

STORED_PREFIX = "cluster"
"""The prefix of kinds in the store that come from a cluster."""
KIND_INVALID = f"{STORED_PREFIX}.invalid"
TOKEN_LIMIT = 253
"""Characters of a token."""
PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ObjectRules:
    """What the administrator allows, as far as it decides how an object runs."""

    pods: PodSettings = field(default_factory=PodSettings)
    """How Pods are built. Without an image, only jobs that name their own can run as Pods."""
    allows_shell: Callable[[str], bool] = lambda namespace: False
    """Whether shell jobs of a namespace may run inline."""
    shell_off: str = ""
    """Why no shell job may run inline, whatever ``allows_shell`` says; empty if they may."""
    kinds: Collection[str] | None = None
    """The kinds that this operator can run; None means all."""

    def why_not_inline(self, namespace: str) -> str:
        """Return why shell jobs of this namespace don't run inline, or an empty text if they do."""
        if not self.allows_shell(namespace):
            return f'inline shell is not allowed in namespace "{namespace}"'
        return self.shell_off


@dataclass(slots=True)
class DesiredState:
    """What an object asks for."""

    slug: str
    uid: str
    generation: int
    created_at: Instant
    kind: str
    plan: Plan
    payload: bytes | None
    requests: Requests
    problem: str = ""
    """Why the object is invalid; empty if it is valid."""
    request_problem: str = ""
    """Why a request made by annotation can't be carried out."""
    unknown_kind: str = ""
    """Why this operator can't run the object, though another may."""
    depends_on_others: bool = False
    """Whether it is invalid because of other objects. So it has to be read again although it did not change."""

    @property
    def definition(self) -> Definition:
        return self.plan.definition

    @property
    def ready(self) -> bool:
        """Whether this operator can run the object."""
        return not (self.problem or self.unknown_kind)

    @property
    def requests_key(self) -> str:
        """The same as the function ``requests_key``."""
        return self.requests.encode() + self.request_problem

    def refuse(self, problem: str) -> None:
        """Make this the desired state of an invalid object."""
        self.problem, self.kind, self.payload, self.unknown_kind = problem, KIND_INVALID, None, ""
        self.plan = _never(problem)

    @property
    def slots(self) -> Slots | None:
        return slots_of(self.plan, seed=self.slug, created=self.created_at)

    @property
    def follows(self) -> list[str]:
        """The slugs of the schedules that this schedule follows."""
        namespace, _, _ = self.slug.partition("/")
        return [
            f"{namespace}/{trigger.name}"
            for trigger in self.definition.triggers
            if isinstance(trigger, FollowingTrigger)
        ]


def kind_of(kind: str) -> str:
    """Return the name of an inline kind of job in the store: ``cluster.shell``, ``cluster.custom.report``."""
    return stored_kind(STORED_PREFIX, kind)


def unknown_kind(kind: str, kinds: Collection[str]) -> str:
    """Return why an operator that runs ``kinds`` does not run this kind, or an empty text if it does."""
    if kind in kinds:
        return ""
    custom = f"{STORED_PREFIX}.custom."
    known = sorted(kind.removeprefix(custom) for kind in kinds if kind.startswith(custom))
    job, _, name = kind.removeprefix(f"{STORED_PREFIX}.").partition(".")
    if job != "custom":
        return f"spec.job.{job}: this operator does not run such jobs inline: write execution.mode: Pod"
    return f'spec.job.custom.kind: no job "{name}" is installed in the operator (known: {", ".join(known)})'


def slug_of(body: Mapping[str, Any]) -> str:
    """Return ``namespace/name`` of an object."""
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def read_object(body: Mapping[str, Any], rules: ObjectRules) -> DesiredState:
    """Return the desired state of an object as the API server returned it."""
    metadata = body["metadata"]
    slug = slug_of(body)
    requests, request_problem = _requests(metadata.get("annotations") or {})
    created = to_instant(parse_instant(metadata["creationTimestamp"]))
    desired = DesiredState(
        slug,
        metadata["uid"],
        metadata["generation"],
        created,
        KIND_INVALID,
        _NEVER,
        None,
        requests,
        request_problem=request_problem,
    )
    try:
        _refuse_too_large(body.get("spec"))
        job = ScheduledJob.model_validate(_user_part(body))
        definition = _definition(job, rules)
        plan = Plan(definition)
        slots_of(plan, seed=slug, created=created)
    except ValidationError:
        desired.problem = _describe_problems(body)
    except ValueError as error:
        desired.problem = str(error)
    else:
        desired.kind, desired.plan, desired.payload = definition.kind, plan, payload_of(job)
        desired.unknown_kind = "" if rules.kinds is None else unknown_kind(desired.kind, rules.kinds)
        return desired
    desired.refuse(desired.problem)
    return desired


def refuse_circle(desired: DesiredState, circle: Sequence[str]) -> None:
    """Make an object invalid that closes a circle of objects (slugs) that follow each other."""
    message, advice = words_of_circle([slug.rpartition("/")[2] for slug in circle])
    desired.refuse(f"spec.triggers: {message}: {advice}")
    desired.depends_on_others = True


def _never(problem: str) -> Plan:
    return Plan(msgspec.structs.replace(_NEVER.definition, job={"problem": problem}))


def requests_of(body: Mapping[str, Any]) -> Requests:
    """Return the requests in the annotations of an object."""
    return _requests(body["metadata"].get("annotations") or {})[0]


def requests_key(body: Mapping[str, Any]) -> str:
    """Return a text that changes whenever the requests of an object change, or why they can't be carried out."""
    requests, request_problem = _requests(body["metadata"].get("annotations") or {})
    return requests.encode() + request_problem


def problem_of(definition: Definition) -> str:
    """Return why the object with this definition is invalid, or an empty text if it is valid."""
    return definition.job["problem"] if definition.kind == KIND_INVALID else ""


# It has no slots, and a retry that was due when the object became invalid fails for good.
_NEVER = Plan(Definition(kind=KIND_INVALID, job={"problem": ""}, retry=Exponential(max_retries=0)))


def _user_part(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user wrote. The API server has validated the rest of the metadata."""
    metadata = body["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": body.get("spec"),
    }


def _refuse_too_large(spec: Any) -> None:
    """Raise ``ValueError`` for an object that is refused in a manifest file because of its size or its depth."""
    weight = 0
    left = [(spec, 2)]  # the object itself is the first level
    while left:
        value, depth = left.pop()
        weight += 1
        if isinstance(value, dict):
            weight += len(value)
            left += ((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            left += ((item, depth + 1) for item in value)
        elif isinstance(value, str):
            weight += len(value) // CHARACTERS_PER_WEIGHT
        if weight > JOB_WEIGHT:
            raise ValueError("spec: " + ": ".join(TOO_MANY_VALUES))
        if depth > MAX_DEPTH and isinstance(value, dict | list):
            raise ValueError(
                f"spec: nested too deeply: at most {MAX_DEPTH} levels: remove some from params or template"
            )


def _describe_problems(body: Mapping[str, Any]) -> str:
    problems = load_text(msgspec.json.encode(_user_part(body)).decode()).problems
    lines = [
        ": ".join(part for part in (problem.field, problem.message, problem.allowed) if part) for problem in problems
    ]
    more = len(lines) - PROBLEMS_SHOWN
    return "; ".join(lines[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _definition(job: ScheduledJob, rules: ObjectRules) -> Definition:
    """Raises ``ValueError`` if the job is not allowed or not possible in this cluster."""
    if not _runs_as_pod(job, rules):
        definition = to_definition(job)
        return msgspec.structs.replace(definition, kind=kind_of(definition.kind))
    definition = to_pod_definition(job)
    spec = msgspec.convert(definition.job, PodSpec)
    if spec.by_runner and spec.image is None and not rules.pods.image:
        raise ValueError(
            "spec.execution.pod.image: this job needs a Pod, and the operator has no image for it: "
            "set an image here for a shell job, use job.container, or have the administrator set SJOB_POD_IMAGE"
        )
    Blueprint(spec, rules.pods)  # report a template that can't be merged here, not at each attempt
    return definition


def _runs_as_pod(job: ScheduledJob, rules: ObjectRules) -> bool:
    spec, (namespace, _) = job.spec, job.key
    mode = spec.execution.mode if spec.execution is not None else None
    place = place_of(spec.job)
    if place is Place.POD or mode == "Pod":
        return True
    if place is Place.INLINE:
        return False
    if mode == "Inline":
        if why_not := rules.why_not_inline(namespace):
            raise ValueError(
                f"spec.execution.mode: {why_not}: write Pod, or have the administrator allow it "
                "(inline-shell-namespaces)"
            )
        return False
    pod = spec.execution.pod if spec.execution is not None else None
    return (pod is not None and pod.image is not None) or bool(rules.why_not_inline(namespace))


def _requests(annotations: Mapping[str, str]) -> tuple[Requests, str]:
    """Return the requests, and why some of them can't be carried out."""
    tokens = {name: annotations.get(f"{GROUP}/{name}", "") for name in ("run-now", "cancel", "resume")}
    for name, token in tokens.items():
        if len(token) > TOKEN_LIMIT:
            reason = f"metadata.annotations.{GROUP}/{name}: more than {TOKEN_LIMIT} characters: write a shorter token"
            return NO_REQUESTS, reason
    payload = annotations.get(f"{GROUP}/run-now-payload")
    if payload is not None and ("\0" in payload or len(payload.encode()) > PAYLOAD_LIMIT):
        reason = (
            f"metadata.annotations.{GROUP}/run-now-payload: at most 64 KiB of text without NUL: nothing was started"
        )
        return Requests(cancel=tokens["cancel"], resume=tokens["resume"]), reason
    run = tokens["run-now"]
    payload_bytes = payload.encode() if run and payload is not None else None
    return Requests(run=run, payload=payload_bytes, cancel=tokens["cancel"], resume=tokens["resume"]), ""
