"""Derives the outcome of a job from its Pod: pure, from the JSON of the API server.

The kubelet reports in five places (phase, reason, conditions, and the states of two kinds of containers), and which of
them it fills in depends on how the Pod ended. Here, what ended the whole Pod (eviction, deadline, its node) takes
precedence over what ended the container, because the exit code of a container that was killed with its Pod says nothing
about the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from scheduledjob.engine.executor import Result
from scheduledjob.jobs.reasons import exit_code, signal_name, timed_out

from .pod_names import CONTAINER, JOB_ENDED, annotation, timeout_of
from .runner_order import ORDER, read_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet


class PodPhase(Enum):
    PENDING = "pending"
    """The job's container has not started."""
    RUNNING = "running"
    ENDED = "ended"
    """The job has ended; ``PodObservation.result`` says how."""


@dataclass(slots=True)
class PodObservation:
    """What the current state of a Pod means for its job."""

    phase: PodPhase
    words: str = ""
    """Pending: what it waits for; empty if nothing is wrong."""
    hopeless: bool = False
    """Pending: it will not start until somebody changes the manifest."""
    has_started: bool = False
    """Whether the job's container has run, so that there may be a log."""
    settled: bool = True
    """Ended: whether no container of the Pod is alive. A sidecar may outlive the job."""
    result: Result | None = None
    """Ended: the result without the output, if the output is in the log."""
    detail: str = ""
    """Text that a container wrote, or that contains its command line: it belongs to ``words`` or to the reason of the
    result, and may contain values of Secrets."""
    log_wanted: bool = True
    """Ended: whether the output is in the log, and not in the result already."""


EXPIRED = 1
"""The ``activeDeadlineSeconds`` that a Pod gets when its job times out."""
_LOG_IN_MESSAGE, _ALL_MESSAGES = 2048, 12288
"""Bytes that the kubelet keeps of a log as a termination message, and of all messages of a Pod."""
_TRIMMED = 64
"""Bytes by which a message may be shorter than that limit, because white space at its ends was removed."""
_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"}
)
_CREATING = frozenset({"", "ContainerCreating", "PodInitializing"})
_NODE_ENDED = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "Terminated"})
"""Reasons of Pods whose node was lost or shut down. Others that name a node, such as NodeAffinity, are refusals."""
_DISRUPTIONS = {
    "PreemptionByScheduler": "its Pod made room for one of higher priority",
    "DeletionByTaintManager": "its node is lost or was tainted",
    "EvictionByEvictionAPI": "its Pod was evicted",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended the Pod",
}


def observe(pod: Mapping[str, Any], complete: AbstractSet[int] = frozenset()) -> PodObservation:
    """Return what a Pod means for its job. ``complete``: exit codes that complete the schedule."""
    status = pod.get("status") or {}
    phase = status.get("phase") or "Pending"
    over = phase in ("Succeeded", "Failed")
    container = _container(status.get("containerStatuses"), CONTAINER)
    state = container.get("state") or {}
    ended = state.get("terminated")
    has_started = ended is not None or "running" in state
    if over:
        # If the operator ended the Pod because its job had ended, only the container says how.
        of_pod = None if ended is not None and annotation(pod, JOB_ENDED) else _of_pod(pod, status, ended)
        ending = of_pod or _of_container(pod, ended, complete) or _of_init(status)
        return _ended(ending or _unexplained(status, phase), pod, ended, has_started=has_started)
    if ended is not None:
        ending = _of_container(pod, ended, complete)
        assert ending is not None
        observation = _ended(ending, pod, ended, has_started=True)
        observation.settled = False
        return observation
    if has_started:
        return PodObservation(PodPhase.RUNNING, has_started=True)
    obstacle = _obstacle(pod, status, state)
    return PodObservation(PodPhase.PENDING, obstacle.words, obstacle.hopeless, detail=obstacle.detail)


def started_at(pod: Mapping[str, Any]) -> str | None:
    """Return when the job's container started, by its node's clock (RFC 3339); None before."""
    state = _container((pod.get("status") or {}).get("containerStatuses"), CONTAINER).get("state") or {}
    found = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return None if found is None else str(found)


def gone(pod: Mapping[str, Any]) -> str:
    """Return the reason for a Pod that somebody else deleted. ``pod`` is its last known state."""
    return _disruption(pod.get("status") or {}) or "its Pod was deleted"


def whole_lines(message: str, pod: Mapping[str, Any]) -> str:
    """Return a termination message without lines that the kubelet may have cut, because half a secret is not masked.

    It keeps the last 2 KiB of a log, the last 4 KiB of a file, and of those the first bytes if the Pod has many
    containers.
    """
    count = sum(len(pod["spec"].get(kind) or ()) for kind in ("containers", "initContainers"))
    if len(message.encode(errors="replace")) < min(_LOG_IN_MESSAGE, _ALL_MESSAGES // max(1, count)) - _TRIMMED:
        return message
    return "\n".join(message.splitlines()[1:-1])


# ---------------------------------------------------------------- ended


class _Ending(NamedTuple):
    result: Result
    detail: str = ""


def _ended(
    ending: _Ending, pod: Mapping[str, Any], ended: Mapping[str, Any] | None, *, has_started: bool
) -> PodObservation:
    result, detail = ending
    observation = PodObservation(
        PodPhase.ENDED, has_started=has_started, result=result, log_wanted=has_started, detail=detail
    )
    if ended is None or not by_runner(pod):
        return observation
    report = read_report(ended.get("message") or "")
    if report is None:
        return observation
    output = report.output.encode(errors="replace")
    if result.ok or ended.get("reason") in ("Error", "Completed"):
        exact = Result(
            report.ok,
            "",
            report.code,
            output,
            report.complete,
            report.payload,
            report.result,
            retry_after=report.retry_after,
            payload_cleared=report.payload_cleared,
        )
        # If something ended the whole Pod, that is why the job failed, whatever its report says.
        ended_by_node = (pod.get("status") or {}).get("reason") and not annotation(pod, JOB_ENDED)
        if ended_by_node and not report.ok:
            exact.reason = result.reason
        else:
            observation.detail = report.reason
        observation.result = exact
        observation.log_wanted = report.cut
    return observation


def _of_pod(pod: Mapping[str, Any], status: Mapping[str, Any], ended: Mapping[str, Any] | None) -> _Ending | None:
    """Return how the job ended if something ended the whole Pod."""
    if status.get("phase") == "Succeeded":
        return None
    code = None if ended is None else ended.get("exitCode")
    reason, message = status.get("reason") or "", status.get("message") or ""
    if reason == "DeadlineExceeded":
        timeout, deadline = timeout_of(pod), pod["spec"].get("activeDeadlineSeconds")
        # A deadline shorter than the timeout is the template's, except for ``EXPIRED``, which marks a timeout.
        if timeout is None or (deadline is not None and EXPIRED < deadline < timeout):
            return _failed("ended by activeDeadlineSeconds", code)
        return _failed(timed_out(timeout), code)
    if reason == "Evicted":
        return _failed(f"evicted: {message}" if message else "evicted by its node", code)
    if reason in _NODE_ENDED:
        return _failed(f"lost with its node: {message or reason}", code)
    if words := _disruption(status):
        return _failed(words, code)
    if reason:
        # If no container has run, the kubelet did not admit it: OutOfcpu, UnexpectedAdmissionError, NodeAffinity ...
        words = "refused by its node" if ended is None else "ended by its node"
        return _failed(f"{words}: {reason}: {message}".rstrip(": "), code)
    if pod["metadata"].get("deletionTimestamp") and (code is None or code >= 128):
        return _failed("its Pod was deleted" + ("" if code is None else f" ({_signalled(code)})"), code)
    return None


def _of_init(status: Mapping[str, Any]) -> _Ending | None:
    for container in status.get("initContainerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if ended is not None and ended.get("exitCode"):
            words, detail = _words(ended, None)
            return _failed(f"init container {container['name']}: {words}", ended["exitCode"], detail)
    return None


def _of_container(
    pod: Mapping[str, Any], ended: Mapping[str, Any] | None, complete: AbstractSet[int]
) -> _Ending | None:
    if ended is None:
        return None
    code = ended.get("exitCode")
    reason = ended.get("reason") or ""
    if reason in ("", "Completed", "Error") and code in complete:
        return _Ending(Result(True, code=code, complete=True))
    if code == 0 and reason in ("", "Completed"):
        return _Ending(Result(True, code=0))
    words, detail = _words(ended, _memory_limit(pod))
    if reason in ("", "Error") and not by_runner(pod):
        detail = (ended.get("message") or "").strip()
    return _failed(words, code, detail)


def _words(ended: Mapping[str, Any], memory: str | None) -> tuple[str, str]:
    """Return words for the end of a container, and a message that may contain its command line."""
    code, reason = ended.get("exitCode"), ended.get("reason") or ""
    message = (ended.get("message") or "").strip()
    if reason == "OOMKilled":
        return "killed: it used more memory than " + (f"its limit of {memory}" if memory else "there was"), ""
    if reason in ("StartError", "ContainerCannotRun", "RunContainerError"):
        return "can't be started", message or reason
    if reason == "ContainerStatusUnknown":
        return f"lost with its node: {message or reason}", ""
    if number := ended.get("signal"):
        return f"killed by {signal_name(number)}", ""
    if code is None:
        return reason or "ended without an exit code", ""
    return _signalled(code) if code > 128 else exit_code(code), ""


def _signalled(code: int) -> str:
    """137 and 143 mean KILL and TERM. A program may use other codes above 128 for something else."""
    name = signal_name(code - 128)
    if code in (137, 143):
        return f"killed by {name} (exit code {code})"
    return f"exit code {code}" + (f" ({name})" if name.startswith("SIG") else "")


def _unexplained(status: Mapping[str, Any], phase: str) -> _Ending:
    if phase == "Succeeded":
        return _Ending(Result(True))
    words = (
        ": ".join(filter(None, (status.get("reason"), status.get("message")))) or "the Pod failed and does not say why"
    )
    return _failed(words, None)


def _disruption(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            words = _DISRUPTIONS.get(condition.get("reason") or "", "its Pod was disrupted")
            message = condition.get("message")
            return f"{words}: {message}" if message else words
    return ""


def _memory_limit(pod: Mapping[str, Any]) -> str | None:
    for container in pod["spec"]["containers"]:
        if container["name"] == CONTAINER:
            found = ((container.get("resources") or {}).get("limits") or {}).get("memory")
            return None if found is None else str(found)
    return None


def by_runner(pod: Mapping[str, Any]) -> bool:
    return any(
        container["name"] == CONTAINER and any(variable["name"] == ORDER for variable in container.get("env") or ())
        for container in pod["spec"]["containers"]
    )


def _failed(words: str, code: int | None, detail: str = "") -> _Ending:
    return _Ending(Result(False, words, code), detail)


# ---------------------------------------------------------------- pending


class _Obstacle(NamedTuple):
    words: str = ""
    hopeless: bool = False
    """Whether only a change of the manifest helps."""
    detail: str = ""


def _obstacle(pod: Mapping[str, Any], status: Mapping[str, Any], state: Mapping[str, Any]) -> _Obstacle:
    """Return why a Pod has not started."""
    sidecars = {
        container["name"]
        for container in pod["spec"].get("initContainers") or ()
        if container.get("restartPolicy") == "Always"
    }
    for container in status.get("initContainerStatuses") or ():
        its_state = container.get("state") or {}
        obstacle = _obstacle_of_container(its_state.get("waiting") or {})
        if obstacle.words:
            return obstacle._replace(words=f"init container {container['name']}: {obstacle.words}")
        if "running" in its_state and container["name"] not in sidecars:
            return _Obstacle(f"init container {container['name']} has not ended")
    obstacle = _obstacle_of_container(state.get("waiting") or {})
    if obstacle.words:
        return obstacle
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = condition.get("message") or condition.get("reason") or "no node accepts it"
            return _Obstacle(f"can't be scheduled: {message}")
    return _Obstacle()


def _obstacle_of_container(waiting: Mapping[str, Any]) -> _Obstacle:
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""
    if reason in _CREATING:
        return _Obstacle()
    detail = message or reason
    if reason == "InvalidImageName":
        return _Obstacle(f"the image's name is wrong: {detail}", True)
    if reason in _IMAGE:
        return _Obstacle(f"the image can't be pulled ({reason}): {detail}")
    if reason == "CreateContainerConfigError":
        # If the kubelet could not read something yet, it tries again. If something does not exist, the job fails at
        # once, like a job that runs inline.
        return _Obstacle(f"can't be started: {detail}", "timed out" not in detail and "cache" not in detail)
    return _Obstacle(f"can't be started ({reason})", detail=detail)


def _container(statuses: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    for status in statuses or ():
        if status.get("name") == name:
            return status
    return {}
