"""Pods on a real API server without a node: what is asked of it, what it refuses, and what becomes of that.

The status of a Pod is written by the test, as its kubelet would; everything else is the API server's own.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.time.durations import MAX_DURATION
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.executor import CANCELLED, RELEASED, Result, Value
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_executor import PodExecutor
from scheduledjob.jobs.container.pod_names import AttemptOf
from scheduledjob.jobs.container.pod_security import PodSecurity, with_defaults
from scheduledjob.jobs.container.pod_spec import CustomSpec, PodSettings, PodSpec
from scheduledjob.jobs.container.runner_order import encode_report
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from scheduledjob.kube.client.api import Api
from scheduledjob.kube.pods.template_check import TemplateCheck
from scheduledjob.kube.reconcile.desired_state import ObjectRules, read_object
from tests.cluster.harness import ApiError
from tests.cluster.pods_support import ENDED_AT, began, bench, cancel, container, exited, waits
from tests.jobs.container.security_cases import APPARMOR, OF_CONTAINER, OF_POD
from tests.support.objects import object_with_template

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.cluster.harness import Cluster, ControlPlane

pytestmark = pytest.mark.cluster

SETTINGS = PodSettings(image="registry.example.com/scheduledjob:1")


async def test_the_end_of_a_pod_is_the_end_of_its_attempt(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"), timeout=60.0)
        task = at.run(attempt)
        pod = await at.created(attempt)
        assert pod["spec"]["activeDeadlineSeconds"] == 60 + 300 + 30 + 60
        assert pod["metadata"]["ownerReferences"][0]["uid"] == at.uid
        await at.report(attempt, began())
        await at.report(attempt, exited(3))
        result = await task
        assert (result.ok, result.reason, result.code) == (False, "exit code 3", 3)
        assert result.where == pod["metadata"]["name"]


@pytest.mark.parametrize(
    "spec",
    [
        PodSpec(shell=ShellSpec("echo $HOME", env={"A": Value(secret=("x/s", "k"))}), image="alpine"),
        PodSpec(shell=ShellSpec("echo $HOME", env={"A": Value(secret=("x/s", "k"))})),
        PodSpec(curl=CurlSpec("https://example.com", body=Value("x" * 200_000), bearer=Value(secret=("x/s", "k")))),
        PodSpec(custom=CustomSpec("report", {"a": 1}), payload_from=Value(config_map=("x/c", "k"), optional=True)),
        container(template={"spec": {"initContainers": [{"name": "a", "image": "b"}], "hostname": "a"}}),
    ],
)
async def test_the_api_server_accepts_the_built_pods(spec: PodSpec, cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace, SETTINGS) as at:
        attempt = at.attempt(spec, payload=b"p")
        task = at.run(attempt)
        await at.created(attempt)
        await at.report(attempt, exited(0))
        assert (await task).ok


async def test_the_api_server_accepts_the_longest_durations(cluster: Cluster, namespace: str) -> None:
    century = MAX_DURATION / SECOND
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"), timeout=century, pending=century)
        task = at.run(attempt)
        await at.created(attempt)
        await at.report(attempt, began())
        await at.report(attempt, exited(0))
        assert (await task).ok


@pytest.mark.parametrize(
    ("spec", "level", "settings"),
    [
        (PodSpec(shell=ShellSpec("true")), "restricted", SETTINGS),
        (PodSpec(curl=CurlSpec("https://example.com")), "restricted", SETTINGS),
        (container("true"), "baseline", SETTINGS),
        (container("true"), "restricted", PodSettings(security=PodSecurity.RESTRICTED)),
        (
            container("true", template={"spec": {"containers": [{"name": "b", "image": "b"}]}}),
            "restricted",
            PodSettings(security=PodSecurity.RESTRICTED),
        ),
    ],
)
async def test_pod_security_admits_the_pods(
    spec: PodSpec, level: str, settings: PodSettings, cluster: Cluster, namespace: str
) -> None:
    async with bench(cluster, namespace, settings) as at:
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}
        await at.api.patch(f"/api/v1/namespaces/{namespace}", label)
        attempt = at.attempt(spec)
        task = at.run(attempt)
        await at.created(attempt)
        await at.report(attempt, exited(0))
        assert (await task).ok


async def test_the_checks_agree_with_the_api_servers_own(cluster: Cluster, namespace: str) -> None:
    """Each violation is refused from the level that the checks say, and accepted at the level below."""
    async with bench(cluster, namespace) as at:

        async def verdicts(level: PodSecurity) -> list[str]:
            label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level.word}}}
            await at.api.patch(f"/api/v1/namespaces/{namespace}", label)
            return [await verdict(template) for _, template in cases]

        async def verdict(template: dict[str, Any]) -> str:
            spec = container("true", template=template)
            pod = build_pod(at.attempt(spec), spec, PodSettings(security=PodSecurity.PRIVILEGED))
            pod["spec"] = with_defaults(pod["spec"], restricted=True)
            try:
                await at.api.post(f"{at.path}?dryRun=All&fieldValidation=Strict", pod)
            except ApiError as error:
                return "forbidden" if "violates PodSecurity" in str(error) else f"invalid: {error}"
            return "accepted"

        cases = [(first, {"spec": spec}) for first, spec, _ in OF_POD]
        cases += [
            (first, {"spec": {kind: [{"name": name, "image": "x", **part}]}})
            for first, part, _ in OF_CONTAINER
            for kind, name in (("containers", "job"), ("initContainers", "setup"))
            if kind == "containers" or not {"lifecycle", "livenessProbe"} & part.keys()
        ]
        cases.append((PodSecurity.BASELINE, {"metadata": {"annotations": {APPARMOR: "unconfined"}}}))
        for level in (PodSecurity.BASELINE, PodSecurity.RESTRICTED):
            for (first, template), found in zip(cases, await verdicts(level), strict=True):
                if not found.startswith("invalid"):
                    assert found == ("forbidden" if level >= first else "accepted"), (level, template)


async def test_a_misspelt_field_is_an_error(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        spec = {"nodeSelectr": {"disk": "ssd"}, "tolerations": [{"key": "x", "opertor": "Exists"}]}
        result = await at.executor.run(at.attempt(container("true", template={"spec": spec})))
        assert not result.ok
        assert 'unknown field "spec.nodeSelectr"' in result.reason
        assert 'unknown field "spec.tolerations[0].opertor"' in result.reason


async def test_a_template_is_checked_before_the_first_run(cluster: Cluster, namespace: str) -> None:
    """The words of the API server make the object invalid; a policy, a quota or a missing account do not."""
    rules = ObjectRules()

    async def problem(spec: dict[str, Any], **status: Any) -> str:
        body = object_with_template(namespace, spec) | {"status": status}
        return await check(read_object(body, rules), body)

    async with bench(cluster, namespace) as at, Api.from_config(str(cluster.kubeconfig)) as api:
        check = TemplateCheck(api, rules.pods)
        assert await problem({"nodeSelector": {"disk": "ssd"}}) == ""
        misspelt = await problem({"nodeSelectr": {"disk": "ssd"}})
        assert misspelt.startswith("spec.execution.pod: ")
        assert 'unknown field "spec.nodeSelectr"' in misspelt
        assert "spec.tolerations[0].operator" in await problem({"tolerations": [{"key": "x", "operator": "Exist"}]})
        assert await problem({"serviceAccountName": "not-there-yet"}) == ""
        stalled = [{"type": "Stalled", "status": "False"}]
        assert await problem({"nodeSelectr": {}}, observedGeneration=1, conditions=stalled) == "", "checked before"
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        await at.api.patch(f"/api/v1/namespaces/{namespace}", label)
        assert await problem({"nodeSelector": {"disk": "ssd"}}) == ""
        assert await at.api.list(at.path) == []


async def test_a_refusal_by_admission_has_its_message(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        await at.api.patch(f"/api/v1/namespaces/{namespace}", label)
        result = await at.executor.run(at.attempt(container("true")))
        assert not result.ok
        assert not result.lost
        assert 'violates PodSecurity "restricted:latest": unrestricted capabilities' in result.reason


async def test_a_refusal_by_a_quota_has_its_message(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}}
        path = f"/api/v1/namespaces/{namespace}/resourcequotas"
        await at.api.post(path, quota)
        await at.api.patch(f"{path}/few/status", {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}})
        result = await at.executor.run(at.attempt(container("true")))
        assert not result.ok
        assert "exceeded quota: few, requested: pods=1" in result.reason


async def test_an_invalid_pod_is_a_failed_attempt(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        result = await at.executor.run(at.attempt(container("true", resources={"limits": {"memory": "-1"}})))
        assert not result.ok
        assert "spec.containers[0].resources.limits[memory]" in result.reason
        wrong = await at.executor.run(at.attempt(container("true", template={"spec": {"containers": {}}})))
        assert wrong.reason == "execution.pod.template.spec.containers is an object: a list belongs here"
        missing = await at.executor.run(at.attempt(container("true", service_account="robot")))
        assert 'serviceaccount "robot" not found' in missing.reason


async def test_a_failing_webhook_ends_the_attempt_in_time(cluster: Cluster, namespace: str) -> None:
    waits: list[str] = []
    async with bench(cluster, namespace, on_waiting=lambda attempt, words, started: waits.append(words)) as at:
        webhook = {
            "metadata": {"name": f"down-{namespace}"},
            "webhooks": [
                {
                    "name": "down.example.com",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                    "timeoutSeconds": 2,
                    "clientConfig": {"url": "https://127.0.0.1:1/x"},
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "rules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ],
                }
            ],
        }
        path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        await at.api.post(path, webhook)
        try:
            result = await at.executor.run(at.attempt(container("true"), pending=5.0))
        finally:
            await at.api.delete(f"{path}/down-{namespace}")
        assert not result.ok
        assert result.reason.startswith("not started within 5s: the API server: ")
        assert 'failed calling webhook "down.example.com"' in result.reason
        assert 'failed calling webhook "down.example.com"' in waits[0]
        assert waits[-1] == ""


async def test_a_pod_that_is_too_large_fails_at_once(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        env = [{"name": f"V{number}", "value": "x" * 100_000} for number in range(20)]
        spec = container("true", template={"spec": {"containers": [{"name": "job", "env": env}]}})
        result = await at.executor.run(at.attempt(spec))
        assert not result.ok
        assert result.reason.endswith("make its template or its payload smaller")


async def test_a_missing_namespace_is_a_failed_attempt(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        result = await at.executor.run(at.attempt(container("true"), namespace="nowhere"))
        assert result.reason == 'refused by the API server: namespaces "nowhere" not found'


async def test_an_existing_pod_is_adopted(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        first = at.run(attempt)
        pod = await at.created(attempt)
        assert await cancel(first, attempt, RELEASED) is None
        attempt.ending = ""
        for adopted in (False, True):  # found by its name, and looked up
            attempt.adopted = adopted
            task = at.run(attempt)
            if adopted:
                await at.report(attempt, exited(7))
                assert (await task).code == 7
            else:
                assert await cancel(task, attempt, RELEASED) is None
                attempt.ending = ""
        now = await at.api.get(at.path_of(attempt))
        assert now["metadata"]["uid"] == pod["metadata"]["uid"]


async def test_a_pod_that_has_finished_gives_its_outcome(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true", complete_exit_codes=frozenset({100})))
        task = at.run(attempt)
        await at.created(attempt)
        assert await cancel(task, attempt, RELEASED) is None
        await at.report(attempt, exited(100))
        attempt.ending, attempt.adopted = "", True
        result = await at.executor.run(attempt)
        assert (result.ok, result.complete) == (True, True)


async def test_an_adopted_attempt_keeps_its_deadline(cluster: Cluster, namespace: str) -> None:
    """Its time counts from when its container started, by the cluster's clocks."""
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"), timeout=3600.0)
        task = at.run(attempt)
        await at.created(attempt)
        await at.report(attempt, began())
        assert await cancel(task, attempt, RELEASED) is None
        later = ENDED_AT + 3601 * SECOND
        attempt.ending, attempt.adopted, attempt.timeout = "", True, 5.0
        late = asyncio.create_task(PodExecutor(at.pods, now=lambda: later).run(attempt))
        async for event in at.api.watch(at.path, resourceVersion="0"):
            if event["object"]["spec"].get("activeDeadlineSeconds") == 1:
                break
        ended = exited(143, reason="DeadlineExceeded")
        await at.report(attempt, ended)
        assert (await late).reason == "timed out after 1h"


async def test_a_foreign_pod_of_the_same_name_fails_the_attempt(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        name = at.path_of(attempt).rpartition("/")[2]
        body: dict[str, Any] = {"metadata": {"name": name}, "spec": {"containers": [{"name": "job", "image": "x"}]}}
        await at.api.post(at.path, body)
        result = await at.executor.run(attempt)
        assert result.reason == f'there is a Pod called "{name}" that is not this run\'s: delete it'
        attempt.ending = CANCELLED
        await at.executor.run(attempt)
        await at.api.get(at.path_of(attempt))


async def test_a_pod_deleted_by_a_user_fails_the_attempt(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        task = at.run(attempt)
        await at.created(attempt)
        await at.api.delete(at.path_of(attempt))
        assert (await task).reason == "its Pod was deleted"


async def test_a_cancel_waits_for_the_end_of_the_pod(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        task = at.run(attempt)
        await at.created(attempt)
        # A finalizer stands for a node that takes its time.
        await at.api.patch(at.path_of(attempt), {"metadata": {"finalizers": ["example.com/wait"]}})
        attempt.ending = CANCELLED
        task.cancel()
        async for event in at.api.watch(at.path, resourceVersion="0"):
            if event["object"]["metadata"].get("deletionTimestamp"):
                break
        assert not task.done()
        await at.api.patch(at.path_of(attempt), {"metadata": {"finalizers": None}})
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ApiError):
            await at.api.get(at.path_of(attempt))


async def test_a_cancel_at_any_moment_leaves_no_pod(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        for turns in range(30):
            attempt = at.attempt(container("true"))
            task = at.run(attempt)
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancel(task, attempt)
            assert task.cancelled()
        assert await at.api.list(at.path) == []


async def test_a_release_leaves_the_pod_alone(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        task = at.run(attempt)
        await at.created(attempt)
        assert await cancel(task, attempt, RELEASED) is None
        pod = await at.api.get(at.path_of(attempt))
        assert "deletionTimestamp" not in pod["metadata"]


async def test_a_cancel_before_the_start(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        task = at.run(attempt)
        await at.created(attempt)
        await cancel(task, attempt, RELEASED)
        attempt.ending = CANCELLED
        await at.executor.run(attempt)
        assert await at.api.list(at.path) == []
        other = at.attempt(container("true"), ending=CANCELLED)
        await at.executor.run(other)
        assert await at.api.list(at.path) == []


async def test_a_cancel_after_the_end_gives_the_result(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        task = at.run(attempt)
        await at.created(attempt)
        await cancel(task, attempt, RELEASED)
        await at.report(attempt, exited(0))
        attempt.ending = CANCELLED
        assert (await at.executor.run(attempt)).ok


async def test_a_pod_that_does_not_start_fails_after_the_pending_timeout(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"), pending=0.5)
        assert (await at.executor.run(attempt)).reason == "not started within 500ms"
        pulls = at.attempt(container("true"), pending=3.0)
        task = at.run(pulls)
        await at.created(pulls)
        await at.report(pulls, waits("ImagePullBackOff", 'Back-off pulling image "x"'))
        reason = 'not started within 3s: the image can\'t be pulled (ImagePullBackOff): Back-off pulling image "x"'
        assert (await task).reason == reason
        assert await at.api.list(at.path) == []


async def test_a_pod_that_cannot_start_fails_at_once(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempt = at.attempt(container("true"))
        task = at.run(attempt)
        await at.created(attempt)
        await at.report(attempt, waits("CreateContainerConfigError", 'secret "db" not found'))
        assert (await task).reason == 'can\'t be started: secret "db" not found'


async def test_the_report_of_the_runner_is_read(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace, SETTINGS) as at:
        attempt = at.attempt(PodSpec(curl=CurlSpec("https://example.com")))
        task = at.run(attempt)
        await at.created(attempt)
        reported = Result(False, "HTTP 500, expected 2xx", 500, b"oops", payload=b"next")
        status = exited(1)
        status["containerStatuses"][0]["state"]["terminated"]["message"] = encode_report(reported).decode()
        await at.report(attempt, status)
        result = await task
        result.where = ""
        assert result == reported


async def test_the_capacity_limits_the_pods(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace, capacity=1) as at:
        first, second = at.attempt(container("true")), at.attempt(container("true"))
        tasks = [at.run(first), at.run(second)]
        await at.created(first)
        assert len(await at.api.list(at.path)) == 1
        await at.report(first, exited(0))
        await at.created(second)
        await at.report(second, exited(0))
        assert all(result.ok for result in await asyncio.gather(*tasks))


async def test_old_and_orphaned_pods_are_deleted(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        attempts = [at.attempt(container("true")) for _ in range(6)]
        tasks = [at.run(attempt) for attempt in attempts]
        ends = [0, 0, 1, 1, None, None]
        for attempt, code in zip(attempts, ends, strict=True):
            await at.created(attempt)
            if code is not None:
                await at.report(attempt, exited(code))
        await asyncio.gather(*tasks[:4])
        # By now the watch has reported all of them, because their results came from it.
        await at.reported(6)
        living = AttemptOf(namespace, "job", at.uid, attempts[5].run_id, 1)
        asked: set[AttemptOf] = set()

        def kept(slug: str, uid: str) -> Keep | None:
            return Keep(1, 1) if (slug, uid) == (f"{namespace}/job", at.uid) else None

        async def active(those: Collection[AttemptOf]) -> Collection[AttemptOf]:
            asked.update(those)
            return {living}

        now = time.time_ns() // 1000
        assert await at.pods.prune(now, 60.0, kept, active) == 0
        later = max(now, ENDED_AT) + 120 * SECOND
        assert await at.pods.prune(later, 60.0, kept, active) == 3
        assert living in asked
        there = {pod["metadata"]["annotations"]["scheduledjobs.dev/run-id"] for pod in await at.api.list(at.path)}
        assert len(there) == 3
        assert attempts[4].run_id not in there
        assert attempts[5].run_id in there
        assert (await tasks[4]).reason == "its Pod was deleted"
        await cancel(tasks[5], attempts[5])


async def test_pods_are_followed_through_an_outage_of_the_api_server(own_cluster: ControlPlane) -> None:
    namespace = await own_cluster.new_namespace()
    async with bench(own_cluster, namespace) as at:
        attempts = [at.attempt(container("true")) for _ in range(50)]
        tasks = [at.run(attempt) for attempt in attempts]
        for attempt in attempts:
            await at.created(attempt)
        cancelled = at.attempt(container("true"))
        to_cancel = at.run(cancelled)
        await at.created(cancelled)
        own_cluster.apiserver.kill()
        late = at.attempt(container("true"))
        tasks.append(at.run(late))
        cancelled.ending = CANCELLED
        to_cancel.cancel()
        await asyncio.wait([to_cancel], timeout=0.5)
        assert not to_cancel.done()
        await own_cluster.apiserver.start()
        with pytest.raises(asyncio.CancelledError):
            await to_cancel
        await at.created(late)
        for attempt in (*attempts, late):
            await at.report(attempt, exited(0))
        results = await asyncio.gather(*tasks)
        assert [result.ok for result in results] == [True] * 51


async def test_many_pods_in_the_same_second(cluster: Cluster, namespace: str) -> None:
    async with bench(cluster, namespace) as at:
        spec = container("true")
        attempts = [at.attempt(spec) for _ in range(300)]
        tasks = [at.run(attempt) for attempt in attempts]
        await at.reported(len(attempts))
        assert len(await at.api.list(at.path, limit=500)) == len(attempts)
        for task, attempt in zip(tasks, attempts, strict=True):
            attempt.ending = RELEASED
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
