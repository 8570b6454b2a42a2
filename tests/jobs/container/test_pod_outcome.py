"""The outcome of a Pod: statuses as kubelets and controllers write them, and the reasons made from them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from scheduledjob.engine.executor import Result
from scheduledjob.jobs.container.pod_outcome import PodObservation, PodPhase, gone, observe, started_at, whole_lines
from scheduledjob.jobs.container.runner_order import encode_report
from scheduledjob.jobs.redaction import Redaction


def pod(
    status: dict[str, Any],
    *,
    memory: str | None = None,
    deleted: bool = False,
    runner: bool = False,
    timeout: str = "",
    deadline: int | None = None,
) -> Any:
    container: dict[str, Any] = {"name": "job", "image": "busybox"}
    if memory is not None:
        container["resources"] = {"limits": {"memory": memory}}
    if runner:
        container["env"] = [{"name": "SJOB_RUN", "value": "{}"}]
    metadata: dict[str, Any] = {"name": "a"}
    if deleted:
        metadata["deletionTimestamp"] = "2026-12-01T10:00:00Z"
    if timeout:
        metadata["annotations"] = {"scheduledjobs.dev/timeout": timeout}
    spec: dict[str, Any] = {"containers": [{"name": "proxy"}, container]}
    if deadline is not None:
        spec["activeDeadlineSeconds"] = deadline
    return {"metadata": metadata, "spec": spec, "status": status}


def terminated(exit_code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": exit_code, "reason": reason, "startedAt": "2026-12-01T10:00:01Z", **more}}
    return {"name": "job", "state": state}


def over(container: dict[str, Any] | None, phase: str = "Failed", **more: Any) -> dict[str, Any]:
    return {"phase": phase, "containerStatuses": [] if container is None else [container], **more}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"name": "job", "state": {"waiting": {"reason": reason, "message": message}}}


def result_of(observation: PodObservation) -> Result:
    """The result with everything that belongs to its reason."""
    assert observation.result is not None
    return asyncio.run(Redaction().seal(msgspec.structs.replace(observation.result), observation.detail))


DISRUPTED = {"type": "DisruptionTarget", "status": "True"}


@pytest.mark.parametrize(
    ("status", "options", "reason", "code"),
    [
        (over(terminated(3)), {}, "exit code 3", 3),
        (over(terminated(127)), {}, "exit code 127 (command not found)", 127),
        (over(terminated(137)), {}, "killed by SIGKILL (exit code 137)", 137),
        (over(terminated(143)), {}, "killed by SIGTERM (exit code 143)", 143),
        (over(terminated(139)), {}, "exit code 139 (SIGSEGV)", 139),
        (over(terminated(255)), {}, "exit code 255", 255),
        (over(terminated(0, signal=9)), {}, "killed by SIGKILL", 0),
        (over(terminated(3, message="no rows\nin table")), {}, "exit code 3: no rows in table", 3),
        (
            over(terminated(137, "OOMKilled")),
            {"memory": "64Mi"},
            "killed: it used more memory than its limit of 64Mi",
            137,
        ),
        (over(terminated(137, "OOMKilled")), {}, "killed: it used more memory than there was", 137),
        (
            over(terminated(128, "StartError", message='exec: "foo": executable file not found in $PATH')),
            {},
            'can\'t be started: exec: "foo": executable file not found in $PATH',
            128,
        ),
        (
            over(None, reason="Evicted", message="The node was low on resource: memory."),
            {},
            "evicted: The node was low on resource: memory.",
            None,
        ),
        (
            over(terminated(137), reason="Evicted", message="Pod ephemeral local storage usage exceeds the limit"),
            {},
            "evicted: Pod ephemeral local storage usage exceeds the limit",
            137,
        ),
        (over(terminated(143), reason="DeadlineExceeded"), {}, "ended by activeDeadlineSeconds", 143),
        (over(terminated(143), reason="DeadlineExceeded"), {"timeout": "90s"}, "timed out after 1m30s", 143),
        (
            over(terminated(143), reason="DeadlineExceeded"),
            {"timeout": "90s", "deadline": 1},
            "timed out after 1m30s",
            143,
        ),
        (
            over(terminated(143), reason="DeadlineExceeded"),
            {"timeout": "90s", "deadline": 20},
            "ended by activeDeadlineSeconds",
            143,
        ),
        (
            over(None, reason="NodeLost", message="Node a which was running pod b is unresponsive"),
            {},
            "lost with its node: Node a which was running pod b is unresponsive",
            None,
        ),
        (
            over(terminated(137, "ContainerStatusUnknown", message="could not be located")),
            {},
            "lost with its node: could not be located",
            137,
        ),
        (
            over(None, conditions=[{**DISRUPTED, "reason": "DeletionByPodGC", "message": "PodGC: no node"}]),
            {},
            "its node is gone: PodGC: no node",
            None,
        ),
        (
            over(terminated(143), conditions=[{**DISRUPTED, "reason": "PreemptionByScheduler"}]),
            {},
            "its Pod made room for one of higher priority",
            143,
        ),
        (
            over(None, reason="OutOfcpu", message="Node didn't have enough resource: cpu"),
            {},
            "refused by its node: OutOfcpu: Node didn't have enough resource: cpu",
            None,
        ),
        (
            over(None, reason="NodeAffinity", message="Pod was rejected: Predicate NodeAffinity failed"),
            {},
            "refused by its node: NodeAffinity: Pod was rejected: Predicate NodeAffinity failed",
            None,
        ),
        (
            over(None, reason="NodeName", message="Predicate NodeName failed"),
            {},
            "refused by its node: NodeName: Predicate NodeName failed",
            None,
        ),
        (
            over(terminated(137), reason="Preempting", message="Preempted in order to admit critical pod"),
            {},
            "ended by its node: Preempting: Preempted in order to admit critical pod",
            137,
        ),
        (
            over(None, reason="Terminated", message="Pod was terminated in response to imminent node shutdown."),
            {},
            "lost with its node: Pod was terminated in response to imminent node shutdown.",
            None,
        ),
        (over(terminated(143)), {"deleted": True}, "its Pod was deleted (killed by SIGTERM (exit code 143))", 143),
        (over(terminated(2)), {"deleted": True}, "exit code 2", 2),
        (
            over(
                waiting("PodInitializing"),
                initContainerStatuses=[{"name": "setup", "state": {"terminated": {"exitCode": 4, "reason": "Error"}}}],
            ),
            {},
            "init container setup: exit code 4",
            4,
        ),
        (over(None), {}, "the Pod failed and does not say why", None),
    ],
)
def test_a_failure(status: dict[str, Any], options: dict[str, Any], reason: str, code: int | None) -> None:
    observation = observe(pod(status, **options))
    assert observation.phase is PodPhase.ENDED
    assert result_of(observation) == Result(False, reason, code)


def test_success() -> None:
    observation = observe(pod(over(terminated(0, "Completed"), "Succeeded")))
    assert observation.result == Result(True, code=0)
    assert observation.log_wanted
    assert observation.settled


def test_success_of_a_pod_that_is_being_deleted() -> None:
    assert observe(pod(over(terminated(0, "Completed"), "Succeeded"), deleted=True)).result == Result(True, code=0)


def test_exit_codes_that_complete_the_schedule() -> None:
    assert observe(pod(over(terminated(100))), frozenset({100})).result == Result(True, code=100, complete=True)
    killed = observe(pod(over(terminated(137, "OOMKilled"))), frozenset({137})).result
    assert killed is not None
    assert not killed.ok


@pytest.mark.parametrize(
    ("status", "words", "hopeless"),
    [
        ({}, "", False),
        ({"phase": "Pending"}, "", False),
        (over(waiting("ContainerCreating"), "Pending"), "", False),
        (
            over(waiting("ImagePullBackOff", 'Back-off pulling image "x"'), "Pending"),
            'the image can\'t be pulled (ImagePullBackOff): Back-off pulling image "x"',
            False,
        ),
        (
            over(waiting("InvalidImageName", 'couldn\'t parse image name "A"'), "Pending"),
            "the image's name is wrong: couldn't parse image name \"A\"",
            True,
        ),
        (
            over(waiting("CreateContainerConfigError", 'secret "db" not found'), "Pending"),
            'can\'t be started: secret "db" not found',
            True,
        ),
        (
            over(
                waiting("CreateContainerConfigError", "failed to sync secret cache: timed out"),
                "Pending",
            ),
            "can't be started: failed to sync secret cache: timed out",
            False,
        ),
        (
            over(
                waiting("PodInitializing"),
                "Pending",
                initContainerStatuses=[{**waiting("ErrImagePull", "no such image"), "name": "setup"}],
            ),
            "init container setup: the image can't be pulled (ErrImagePull): no such image",
            False,
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient cpu.",
                    }
                ],
            },
            "can't be scheduled: 0/3 nodes are available: 3 Insufficient cpu.",
            False,
        ),
    ],
)
def test_waiting(status: dict[str, Any], words: str, hopeless: bool) -> None:
    observation = observe(pod(status))
    assert observation.phase is PodPhase.PENDING
    assert (observation.words, observation.hopeless) == (words, hopeless)


def test_running() -> None:
    running = {"name": "job", "state": {"running": {"startedAt": "2026-12-01T10:00:01Z"}}}
    observation = observe(pod(over(running, "Running")))
    assert observation.phase is PodPhase.RUNNING
    assert started_at(pod(over(running, "Running"))) == "2026-12-01T10:00:01Z"
    assert started_at(pod({})) is None


def test_a_sidecar_outlives_the_job() -> None:
    observation = observe(pod(over(terminated(3), "Running")))
    assert observation.phase is PodPhase.ENDED
    assert not observation.settled
    assert observation.result == Result(False, "exit code 3", 3)


def test_a_sidecar_that_was_killed_when_the_job_had_ended() -> None:
    side = {"name": "side", "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}
    observation = observe(pod(over(terminated(0, "Completed"), "Failed", initContainerStatuses=[side])))
    assert observation.result == Result(True, code=0)


def test_gone() -> None:
    assert gone(pod({})) == "its Pod was deleted"
    evicted = {"conditions": [{**DISRUPTED, "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}]}
    assert gone(pod(evicted)) == "its Pod was evicted: Eviction API: evicting"


# ---------------------------------------------------------------- the runner's report


def reported(result: Result, exit_code: int = 0, **more: Any) -> Any:
    message = encode_report(result).decode()
    phase = "Failed" if exit_code else "Succeeded"
    ended = terminated(exit_code, "Error" if exit_code else "Completed", message=message)
    return observe(pod(over(ended, phase, **more), runner=True))


def test_a_report_is_the_result() -> None:
    result = Result(True, "", 204, b"fine", True, b"\xff", b"r")
    observation = reported(result)
    assert result_of(observation) == result
    assert not observation.log_wanted


def test_a_report_of_a_failure() -> None:
    result = Result(False, "HTTP 500, expected 2xx", 500, b"oops")
    assert result_of(reported(result, 1)) == result


def test_what_ended_the_pod_takes_precedence_over_the_report() -> None:
    observation = reported(Result(False, "exit code 143", 143, b"out"), 1, reason="Evicted", message="disk")
    assert observation.result == Result(False, "evicted: disk", 143, b"out")


def test_a_user_container_can_not_report() -> None:
    message = encode_report(Result(True, complete=True)).decode()
    observation = observe(pod(over(terminated(1, message=message))))
    assert observation.result is not None
    assert not observation.result.ok


@pytest.mark.parametrize(
    "message", ["", "{", "[]", '{"ok": 1}', '{"ok":true,"payload":"*"}', '{"ok":true,"code":2147483648}']
)
def test_a_report_that_can_not_be_read(message: str) -> None:
    observation = observe(pod(over(terminated(1, message=message)), runner=True))
    assert observation.result == Result(False, "exit code 1", 1)
    assert observation.log_wanted


def test_a_runner_killed_for_its_memory() -> None:
    observation = observe(pod(over(terminated(137, "OOMKilled")), runner=True, memory="32Mi"))
    assert observation.result == Result(False, "killed: it used more memory than its limit of 32Mi", 137)


@pytest.mark.parametrize("output", [b"x" * 9000, b"\n" * 9000, b'"' * 9000, b"\xff" * 9000, "é".encode() * 5000])
def test_a_report_fits(output: bytes) -> None:
    encoded = encode_report(Result(False, "r" * 400, 1, output))
    assert len(encoded) <= 4096
    decoded = msgspec.json.decode(encoded)
    assert decoded["cut"]
    assert decoded["reason"] == "r" * 400
    assert len(decoded["output"]) > 400


def test_a_result_that_is_too_long_for_a_report() -> None:
    observation = reported(Result(True, payload=b"x" * 4000), 1)
    assert observation.result is not None
    assert not observation.result.ok
    assert "4000 bytes" in result_of(observation).reason


def test_lines_that_the_kubelet_has_cut_are_left_out() -> None:
    short, long = "nter2\nfailed", "nter2\nfailed\n" + "x" * 2050 + "\nhunt"
    assert whole_lines(short, pod({})) == short
    assert whole_lines(long, pod({})) == "failed\n" + "x" * 2050
    crowded = pod({})
    crowded["spec"]["initContainers"] = [{"name": f"i{index}"} for index in range(22)]
    assert whole_lines("nter2\nfailed\n" + "x" * 500 + "\nhunt", crowded) == "failed\n" + "x" * 500
