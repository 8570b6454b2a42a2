"""From an object of the cluster to the wish that the store holds: what is asked for, or why it can't be done.

An object that the API server took may still be wrong (a time zone that does not exist, a cron expression that no
pattern can judge) or not allowed here (inline shell in a namespace that was not opened to it). It becomes a wish too,
of the kind ``cluster.invalid``: a schedule that fires never and says why. So the schedule stops, what ran goes on
being known, and once the object is mended the past is not replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ValidationError

from scheduledjob.domain.schedule.backoff import Exponential
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import NONE, Requests
from scheduledjob.domain.time.instants import Instant, to_instant
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.jobs.built_in_kind import Place
from scheduledjob.jobs.container.pod_builder import Blueprint
from scheduledjob.jobs.container.pod_spec import PodSettings, PodSpec
from scheduledjob.jobs.job_registry import stored_kind
from scheduledjob.manifests.checks import PAYLOAD_LIMIT, parse_instant
from scheduledjob.manifests.jobs.job_model import place_of
from scheduledjob.manifests.loader import load_text
from scheduledjob.manifests.models import ScheduledJob
from scheduledjob.manifests.pod_translation import to_pod_definition
from scheduledjob.manifests.translate import payload_of, to_definition
from scheduledjob.resource_names import API_VERSION, GROUP, KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from scheduledjob.domain.schedule.misfire import Slots

STORED_PREFIX = "cluster"
"""Of the names that the kinds of a cluster have in the store."""
KIND_INVALID = "cluster.invalid"
TOKEN_LIMIT = 253
"""Characters of a token: more is no name for anything."""
PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ObjectRules:
    """What the administrator allows, as far as it decides how an object is run."""

    pods: PodSettings = field(default_factory=PodSettings)
    """How Pods are made. Without an image there only jobs that name their own can be Pods."""
    allows_shell: Callable[[str], bool] = lambda namespace: False
    """Whether shell jobs of a namespace may run inline."""
    shell_off: str = ""
    """Why none may, whatever is allowed."""
    kinds: Collection[str] | None = None
    """What this operator can run; None: whatever there is."""

    def why_not_inline(self, namespace: str) -> str:
        """Why shell jobs of this namespace don't run inline; empty: they do."""
        if not self.allows_shell(namespace):
            return f'inline shell is not allowed in namespace "{namespace}"'
        return self.shell_off


@dataclass(slots=True)
class DesiredState:
    """What one object asks for."""

    slug: str
    uid: str
    generation: int
    created_at: Instant
    kind: str
    plan: Plan
    payload: bytes | None
    requests: Requests
    problem: str = ""
    """Why it is invalid; empty where it is not."""
    refused_act: str = ""
    """Why something that was asked by annotation is not done."""
    unknown_kind: str = ""
    """Why this operator can't run it, though another may."""

    @property
    def definition(self) -> Definition:
        return self.plan.definition

    @property
    def ready(self) -> bool:
        """Whether this operator can run it."""
        return not (self.problem or self.unknown_kind)

    @property
    def asked(self) -> str:
        """As ``asked_of`` says."""
        return self.requests.encode() + self.refused_act

    @property
    def slots(self) -> Slots | None:
        return slots_of(self.plan, seed=self.slug, created=self.created_at)

    @property
    def follows(self) -> list[str]:
        """Slugs of the schedules whose runs this one follows."""
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
    """Why this kind is not run by an operator that runs those; empty where it is."""
    if kind in kinds:
        return ""
    known = sorted(kind.removeprefix("cluster.custom.") for kind in kinds if kind.startswith("cluster.custom."))
    job, _, name = kind.removeprefix("cluster.").partition(".")
    if job != "custom":
        return f"spec.job.{job}: this operator runs no such jobs inline: write execution.mode: Pod"
    return f'spec.job.custom.kind: no job "{name}" is installed in the operator (known: {", ".join(known)})'


def read_object(body: Mapping[str, Any], rules: ObjectRules) -> DesiredState:
    """The wish of an object as the API server gives it."""
    metadata = body["metadata"]
    slug = f"{metadata['namespace']}/{metadata['name']}"
    requests, refused = _requests(metadata.get("annotations") or {})
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
        refused_act=refused,
    )
    try:
        job = ScheduledJob.model_validate(_judged(body))
        definition = _definition(job, rules)
        plan = Plan(definition)
        slots_of(plan, seed=slug, created=created)
    except ValidationError:
        desired.problem = _in_words(body)
    except ValueError as error:
        desired.problem = str(error)
    else:
        desired.kind, desired.plan, desired.payload = definition.kind, plan, payload_of(job)
        desired.unknown_kind = "" if rules.kinds is None else unknown_kind(desired.kind, rules.kinds)
        return desired
    desired.plan = Plan(msgspec.structs.replace(_NEVER.definition, job={"problem": desired.problem}))
    return desired


def requests_of(body: Mapping[str, Any]) -> Requests:
    """What is asked of an object by annotation."""
    return _requests(body["metadata"].get("annotations") or {})[0]


def asked_of(body: Mapping[str, Any]) -> str:
    """The same as text, with why something of it is not done: it changes when something else is to be done or said."""
    requests, refused = _requests(body["metadata"].get("annotations") or {})
    return requests.encode() + refused


def problem_of(definition: Definition) -> str:
    """Why the object that this definition was made of is invalid; empty where it is not."""
    return definition.job["problem"] if definition.kind == KIND_INVALID else ""


# Nothing of it starts by itself, and a retry that was due when the object became wrong fails for good.
_NEVER = Plan(Definition(kind=KIND_INVALID, job={"problem": ""}, retry=Exponential(max_retries=0)))


def _judged(body: Mapping[str, Any]) -> dict[str, Any]:
    """The part that the user wrote: the rest of the metadata is the API server's, and it has judged it."""
    metadata = body["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": body.get("spec"),
    }


def _in_words(body: Mapping[str, Any]) -> str:
    problems = load_text(msgspec.json.encode(_judged(body)).decode()).problems
    lines = [
        ": ".join(part for part in (problem.field, problem.message, problem.allowed) if part) for problem in problems
    ]
    more = len(lines) - PROBLEMS_SHOWN
    return "; ".join(lines[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _definition(job: ScheduledJob, rules: ObjectRules) -> Definition:
    """Raises ``ValueError`` for what is not allowed or not possible in this cluster."""
    if not _as_pod(job, rules):
        definition = to_definition(job)
        return msgspec.structs.replace(definition, kind=kind_of(definition.kind))
    definition = to_pod_definition(job)
    spec = msgspec.convert(definition.job, PodSpec)
    if spec.by_runner and spec.image is None and not rules.pods.image:
        raise ValueError(
            "spec.execution.pod.image: this job needs a Pod, and the operator was not told which image to run it in: "
            "name one here for a shell job, use job.container, or have the administrator set SJOB_POD_IMAGE"
        )
    Blueprint(spec, rules.pods)  # a template that can't be merged is found here and not at each attempt
    return definition


def _as_pod(job: ScheduledJob, rules: ObjectRules) -> bool:
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
    """What is asked by annotation, and why something of it is not done."""
    asked = {name: annotations.get(f"{GROUP}/{name}", "") for name in ("run-now", "cancel", "resume")}
    for name, token in asked.items():
        if len(token) > TOKEN_LIMIT:
            reason = f"metadata.annotations.{GROUP}/{name}: more than {TOKEN_LIMIT} characters: write a shorter one"
            return NONE, reason
    payload = annotations.get(f"{GROUP}/run-now-payload")
    if payload is not None and ("\0" in payload or len(payload.encode()) > PAYLOAD_LIMIT):
        reason = (
            f"metadata.annotations.{GROUP}/run-now-payload: at most 64 KiB of text without NUL: nothing was started"
        )
        return Requests(cancel=asked["cancel"], resume=asked["resume"]), reason
    run = asked["run-now"]
    given = payload.encode() if run and payload is not None else None
    return Requests(run=run, payload=given, cancel=asked["cancel"], resume=asked["resume"]), ""
