"""No value of a Secret that a container of a Pod could read leaves its attempt in plain text.

The API server is a stub whose Secrets the test changes while the Pod runs. tests/cluster has Pods on a real node.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.engine.executor import Result, Value
from scheduledjob.jobs.container.pod_executor import PodExecutor
from scheduledjob.jobs.container.pod_names import SECRETS
from scheduledjob.jobs.container.pod_projection import project
from scheduledjob.jobs.container.pod_secrets import PodSecrets, SecretUse, secret_uses
from scheduledjob.jobs.container.pod_security import PodSecurity
from scheduledjob.jobs.container.pod_spec import CustomSpec, PodSettings, PodSpec
from scheduledjob.jobs.container.pods_protocol import PodRefused, SecretVersion
from scheduledjob.jobs.container.runner_order import encode_report, read_report
from scheduledjob.jobs.output import condense
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from scheduledjob.jobs.values import Secrets
from tests.jobs.container.pod_support import SETTINGS, attempt, container, with_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scheduledjob.engine.executor import Attempt

STAMP = "2026-12-01T10:00:00Z"
VALUE = "hunter2-of-the-database"
FROM_KEY = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


class Cluster:
    """A Pod whose status the test writes, and a Secret that it changes."""

    def __init__(self, log: str = "", message: str = "") -> None:
        self.pod: dict[str, Any] | None = None
        self.secrets = {"db": {"password": VALUE}}
        self.version = 1
        self.readable = True
        self.gone: frozenset[str] = frozenset()
        self.latest: Mapping[str, Any] | None = None
        self.blind = False
        self._log = log
        self._message = message
        self._changed = asyncio.Event()
        self.created, self.waiting = asyncio.Event(), asyncio.Event()

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        metadata = {**pod["metadata"], "uid": "u", "creationTimestamp": STAMP}
        self.pod = {**pod, "metadata": metadata, "status": {}}
        self.created.set()
        return project(self.pod)

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return None if self.pod is None else project(self.pod)

    async def delete(self, pod: Mapping[str, Any]) -> None:
        self.gone = frozenset({"u"})
        self._changed.set()

    async def expire(self, pod: Mapping[str, Any], *, job_ended: bool = False) -> None:
        raise NotImplementedError

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        return self._log.encode()

    async def secret(self, namespace: str, name: str) -> SecretVersion:
        if not self.readable:
            raise PodRefused("no")
        if name not in self.secrets:
            return SecretVersion("", {})
        values = {key: text.encode() for key, text in self.secrets[name].items()}
        return SecretVersion(f"{name}/{self.version}", values)

    @contextmanager
    def watch(self, namespace: str, name: str) -> Iterator[Cluster]:
        yield self

    async def change(self) -> None:
        self.waiting.set()
        await self._changed.wait()
        self._changed.clear()

    async def report(self, phase: str, state: dict[str, Any], **more: Any) -> None:
        """Report a state of the Pod, and return when the executor has seen it and waits for the next one."""
        assert self.pod is not None
        status = {"phase": phase, "containerStatuses": [{"name": "job", "state": state}], **more}
        self.pod = {**self.pod, "status": status}
        self.latest = project(self.pod)
        self.waiting.clear()
        self._changed.set()

    async def begin(self) -> None:
        await self.report("Running", {"running": {"startedAt": STAMP}})
        await self.waiting.wait()

    async def fail(self) -> None:
        ended = {"exitCode": 1, "reason": "Error", "startedAt": STAMP, "message": self._message}
        await self.report("Failed", {"terminated": ended})

    def rotate(self, value: str = "another-value") -> None:
        self.version += 1
        self.secrets = {"db": {"password": value}}


def template(spec: dict[str, Any]) -> Attempt:
    return attempt(container(template={"spec": spec}), pending=300.0)


JOB_ENV = {"containers": [{"name": "job", "env": FROM_KEY, "terminationMessagePolicy": "FallbackToLogsOnError"}]}
LINE = f"FATAL: password authentication failed for postgres://app:{VALUE}@db/app"


async def run(cluster: Cluster, spec: dict[str, Any]) -> Result:
    """Run a Pod that starts and fails."""
    task = asyncio.create_task(PodExecutor(cluster).run(template(spec)))
    await cluster.created.wait()
    await cluster.begin()
    await cluster.fail()
    return await asyncio.wait_for(task, 30.0)


@pytest.mark.parametrize(
    "spec",
    [
        JOB_ENV,
        {"containers": [{"name": "job", "envFrom": [{"secretRef": {"name": "db"}}]}]},
        {"initContainers": [{"name": "render", "image": "b", "env": FROM_KEY}]},
        {"initContainers": [{"name": "proxy", "image": "b", "restartPolicy": "Always", "env": FROM_KEY}]},
        {"containers": [{"name": "side", "image": "b", "envFrom": [{"secretRef": {"name": "db"}}]}]},
        {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]},
        {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "db"}}]}}]},
    ],
)
async def test_values_are_masked_wherever_a_container_has_them_from(spec: dict[str, Any]) -> None:
    result = await run(Cluster(f"{LINE}\n", f"{LINE}\n"), spec)
    assert result.reason == "exit code 1: FATAL: password authentication failed for postgres://app:***@db/app"
    assert result.output == b"FATAL: password authentication failed for postgres://app:***@db/app\n"


async def test_a_value_is_masked_before_the_reason_is_shortened() -> None:
    long = "x" * 380 + VALUE
    assert "hunter2" not in (await run(Cluster(message=long), JOB_ENV)).reason


async def test_a_value_in_a_command_line_that_can_not_be_started_is_masked() -> None:
    cluster = Cluster()
    task = asyncio.create_task(PodExecutor(cluster).run(template(JOB_ENV)))
    await cluster.created.wait()
    ended = {"exitCode": 128, "reason": "StartError", "message": f'exec: "{VALUE}": not found', "startedAt": STAMP}
    await cluster.report("Failed", {"terminated": ended})
    assert (await task).reason == 'can\'t be started: exec: "***": not found'


async def test_the_message_of_an_init_container_that_can_not_be_started_is_masked() -> None:
    cluster = Cluster()
    spec = {"initContainers": [{"name": "render", "image": "b", "env": FROM_KEY}]}
    task = asyncio.create_task(PodExecutor(cluster).run(template(spec)))
    await cluster.created.wait()
    ended = {"exitCode": 128, "reason": "StartError", "message": f'exec: "{VALUE}"', "startedAt": STAMP}
    init = {"name": "render", "state": {"terminated": ended}}
    await cluster.report("Failed", {"waiting": {"reason": "PodInitializing"}}, initContainerStatuses=[init])
    assert (await task).reason == 'init container render: can\'t be started: exec: "***"'


@pytest.mark.parametrize("changed", ["rotated", "deleted"])
async def test_a_secret_that_changes_after_the_start_is_masked_as_it_was(changed: str) -> None:
    cluster = Cluster(f"{LINE}\n", f"{LINE}\n")
    task = asyncio.create_task(PodExecutor(cluster).run(template(JOB_ENV)))
    await cluster.created.wait()
    await cluster.begin()
    if changed == "rotated":
        cluster.rotate()
    else:
        cluster.secrets.clear()
    await cluster.fail()
    result = await task
    assert result.reason == "exit code 1: FATAL: password authentication failed for postgres://app:***@db/app"
    assert VALUE.encode() not in result.output


@pytest.mark.parametrize(
    "spec", [JOB_ENV, {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]}], ids=["environment", "volume"]
)
async def test_a_value_that_nobody_can_know_is_withheld(spec: dict[str, Any]) -> None:
    """The Secret changes before the start, so the Pod may have a value that was never read here."""
    cluster = Cluster("it is a-value-in-between\n", "a-value-in-between")
    task = asyncio.create_task(PodExecutor(cluster).run(template(spec)))
    await cluster.created.wait()
    cluster.rotate("a-value-in-between")
    cluster.rotate("the-last-value")
    await cluster.begin()
    await cluster.fail()
    result = await task
    assert result.output == b'[output withheld: Secret "db" was changed since the Pod started]\n'
    assert result.reason == 'exit code 1 (message withheld: Secret "db" was changed since the Pod started)'


async def test_a_secret_that_can_not_be_read_withholds() -> None:
    cluster = Cluster(LINE, LINE)
    cluster.readable = False
    result = await run(cluster, JOB_ENV)
    assert result.output == b"[output withheld: Secret \"db\" can't be read, so its values can't be masked]\n"
    assert "hunter2" not in result.reason
    without = await run(Cluster("said\n", "said"), {})
    assert (without.reason, without.output) == ("exit code 1: said", b"said\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"csi": {"driver": "secrets-store.csi.k8s.io"}},
            'the CSI volume "vault" may contain secrets that the operator can\'t know',
        ),
        (
            {"flexVolume": {"driver": "azure/kv"}},
            'the FlexVolume "vault" may contain secrets that the operator can\'t know',
        ),
        (
            {"projected": {"sources": [{"podCertificate": {"signerName": "a/b"}}]}},
            'the operator can\'t know the private key in the volume "vault"',
        ),
    ],
)
async def test_a_volume_whose_secrets_nobody_knows_withholds(source: dict[str, Any], expected: str) -> None:
    pods = PodExecutor(cluster := Cluster("said\n"), PodSettings(security=PodSecurity.PRIVILEGED))
    task = asyncio.create_task(pods.run(template({"volumes": [{"name": "vault", **source}]})))
    await cluster.created.wait()
    await cluster.begin()
    await cluster.fail()
    result = await asyncio.wait_for(task, 30.0)
    assert result.output == f"[output withheld: {expected}]\n".encode()


async def test_a_token_of_the_kubelet_is_masked() -> None:
    result = await run(Cluster(f"Authorization: Bearer {TOKEN}\n", f"token={TOKEN}, no"), {})
    assert result.output == b"Authorization: Bearer ***\n"
    assert result.reason == "exit code 1: token=***, no"


async def test_credentials_for_a_registry_are_masked() -> None:
    cluster = Cluster()
    cluster.secrets["pull"] = {
        ".dockerconfigjson": '{"auths": {"r.io": {"auth": "cm9ib3Q6cGFzcw=="}, "s.io": {"password": "pa55"}}}'
    }
    spec = {"imagePullSecrets": [{"name": "pull"}]}
    task = asyncio.create_task(PodExecutor(cluster).run(template(spec)))
    await cluster.created.wait()
    await cluster.report("Failed", {}, reason="Failed", message="Basic cm9ib3Q6cGFzcw==, pass, pa55 refused")
    assert (await task).reason.endswith("Basic ***, ***, *** refused")


async def test_credentials_for_a_registry_are_masked_while_the_pod_waits() -> None:
    cluster = Cluster()
    cluster.secrets["pull"] = {
        ".dockerconfigjson": '{"auths": {"r.io": {"username": "robot", "password": "pa55-word"}}}'
    }
    pod = {"spec": {"imagePullSecrets": [{"name": "pull"}]}}
    secrets = PodSecrets(cluster, "team-a")
    words = "can't be scheduled: pa55-word"
    assert await secrets.mask_known(pod, words) == words, "no request for words that quote no registry"
    words = "ErrImagePull: Get https://robot:pa55-word@r.io/v2: refused"
    assert await secrets.mask_known(pod, words) == "ErrImagePull: Get https://robot:***@r.io/v2: refused"


async def test_a_pull_secret_that_is_nested_too_deeply_fails_no_run() -> None:
    cluster = Cluster()
    cluster.secrets["pull"] = {".dockerconfigjson": '{"auths":' + "[" * 5000}
    task = asyncio.create_task(PodExecutor(cluster).run(template({"imagePullSecrets": [{"name": "pull"}]})))
    await cluster.created.wait()
    await cluster.report("Failed", {}, reason="Failed", message="refused")
    assert (await task).reason.endswith("refused")


def test_a_termination_message_that_is_nested_too_deeply_is_no_report() -> None:
    assert read_report('{"x":' + "[" * 4000) is None


SHELL = PodSpec(shell=ShellSpec("true", env={"OWN": Value(secret=("team-a/own", "key"))}))
LONG = b"".join(b"%04d postgres://app:%s@db\n" % (number, VALUE.encode()) for number in range(200))


def shortened(at: int) -> bytes:
    """An output that the runner has shortened, without knowing the value, in the middle of it."""
    tail = LONG[-3000 - at :]
    return condense(LONG[: 1024 + at], tail, len(LONG), Secrets()) + b"scheduledjob: exit code 1\n"


@pytest.mark.parametrize("at", range(0, 48, 5))
async def test_a_part_of_a_value_at_a_cut_of_the_runner_is_not_shown(at: int) -> None:
    head, mark, tail = shortened(0).partition(b"\n[... ")
    cut = head[: len(head) - at] + mark + tail.partition(b"...]\n")[0] + b"...]\n" + tail.partition(b"...]\n")[2][at:]
    template = {"spec": {"containers": [{"name": "job", "env": FROM_KEY}]}}
    this = attempt(PodSpec(shell=ShellSpec("true"), template=template), pending=300.0)
    result = await ran(Cluster(cut.decode()), this)
    assert b"bytes left out" in result.output
    assert b"***" in result.output
    for start in range(len(VALUE) - 5):
        assert VALUE[start : start + 6].encode() not in result.output
    cut_at_the_start = LONG[-4090 - at :].decode()
    result = await ran(Cluster(cut_at_the_start), this)
    for start in range(len(VALUE) - 5):
        assert VALUE[start : start + 6].encode() not in result.output


async def test_an_output_is_kept_whole_where_the_runner_knew_every_secret() -> None:
    output = shortened(0).replace(VALUE.encode(), b"***")
    this = attempt(PodSpec(shell=SHELL.shell), pending=300.0)
    assert (await ran(Cluster(output.decode()), this)).output == output[-4096:]


async def ran(cluster: Cluster, this: Attempt) -> Result:
    cluster.secrets["own"] = {"key": "another-secret"}
    task = asyncio.create_task(PodExecutor(cluster, SETTINGS).run(this))
    await cluster.created.wait()
    await cluster.begin()
    await cluster.fail()
    return await asyncio.wait_for(task, 30.0)


async def test_a_part_of_a_token_at_a_cut_of_a_message_is_not_shown() -> None:
    cut = TOKEN[12:] + "\n" + "x" * 1990 + "\nno access\n" + "y" * 50
    spec = {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}
    result = await run(Cluster(message=cut), {**spec, "serviceAccountName": "robot"})
    assert TOKEN[20:40] not in result.reason
    assert result.reason.startswith("exit code 1: xxx")


async def test_a_result_is_masked() -> None:
    report = encode_report(Result(True, result=f'{{"password": "{VALUE}"}}'.encode()))
    template = {"spec": {"containers": [{"name": "job", "env": FROM_KEY}]}}
    cluster = Cluster(message=report.decode())
    this = attempt(PodSpec(custom=CustomSpec("acme"), template=template), pending=300.0)
    result = await ran(cluster, this)
    assert result.result == b'{"password": "***"}'


# ---------------------------------------------------------------- adoption


async def adopt(cluster: Cluster, spec: dict[str, Any]) -> Result:
    """Create a Pod, and let another replica follow it to its end."""
    this = template(spec)
    task = asyncio.create_task(PodExecutor(cluster).run(this))
    await cluster.created.wait()
    await cluster.begin()
    task.cancel()
    await asyncio.wait([task])
    if cluster.version == 0:
        cluster.rotate()
    this.adopted = True
    task = asyncio.create_task(PodExecutor(cluster).run(this))
    await cluster.fail()
    return await asyncio.wait_for(task, 30.0)


async def test_a_replica_that_adopts_a_pod_knows_the_values_by_their_version() -> None:
    cluster = Cluster(LINE)
    result = await adopt(cluster, JOB_ENV)
    assert result.output == b"FATAL: password authentication failed for postgres://app:***@db/app"
    assert cluster.pod is not None
    assert cluster.pod["metadata"]["annotations"][SECRETS] == '{"db":"db/1"}'


async def test_a_replica_that_adopts_a_pod_withholds_what_it_can_not_know() -> None:
    cluster = Cluster(LINE)
    cluster.version = 0  # it changes while no replica follows the Pod
    result = await adopt(cluster, JOB_ENV)
    assert result.output == b'[output withheld: Secret "db" was changed since the Pod started]\n'


# ---------------------------------------------------------------- what a Pod uses


def test_the_secrets_of_all_containers_and_volumes() -> None:
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": "job",
                "env": [
                    {"name": "A", "value": "x"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "db", "key": "q"}}},
                ],
                "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "c"}}],
            },
            {"name": "side", "env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "other", "key": "p"}}}]},
        ],
        "initContainers": [{"name": "init", "image": "b", "envFrom": [{"secretRef": {"name": "first"}}]}],
        "volumes": [
            {"name": "v", "secret": {"secretName": "files"}},
            {"name": "w", "projected": {"sources": [{"secret": {"name": "more"}}, {"configMap": {"name": "c"}}]}},
            {"name": "x", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "node"}}},
            {"name": "e", "emptyDir": {}},
        ],
    }
    pod = with_template(spec)
    pod["spec"]["ephemeralContainers"] = [{"name": "debug", "envFrom": [{"secretRef": {"name": "late"}}]}]
    assert secret_uses(pod) == {
        "db": SecretUse({"p", "q"}),
        "all": SecretUse(None),
        "other": SecretUse({"p"}, live=True),
        "first": SecretUse(None),
        "files": SecretUse(None, live=True),
        "more": SecretUse(None, live=True),
        "node": SecretUse(None, live=True),
        "late": SecretUse(None, live=True),
    }
    pod["metadata"]["uid"] = "u"
    assert secret_uses(project(pod)) == secret_uses(pod)
