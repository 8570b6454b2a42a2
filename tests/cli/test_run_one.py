"""``run-one`` as a Pod runs it: a process with the environment of the Pod that the operator builds."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from scheduledjob.engine.executor import Attempt, Result, Value
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_spec import CustomSpec, PodSettings, PodSpec
from scheduledjob.jobs.container.runner_order import read_report
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from tests.cli.support import PATIENCE, PROGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECRETS: Mapping[tuple[str, str], str] = {("db", "password"): "hunter2-hunter2", ("note", "text"): "a note"}
PASSWORD = Value(secret=("ns/db", "password"))


class References:
    """The same values for inline jobs."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        return SECRETS[name.removeprefix("ns/"), key].encode()


def attempt(**changed: Any) -> Attempt:
    default: dict[str, Any] = {
        "run_id": "uid-1",
        "uid": "uid",
        "namespace": "ns",
        "name": "job",
        "slot": 1_796_119_200_000_001,
        "attempt": 2,
        "version": 3,
        "deadline": math.inf,
        "timeout": None,
    }
    return Attempt(**(default | changed))


def environment_of(pod: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that the kubelet would create from the container's variables."""
    found = {"PATH": os.environ["PATH"]}
    for variable in pod["spec"]["containers"][0]["env"]:
        if "value" in variable:
            found[variable["name"]] = variable["value"].replace("$$", "$")
        else:
            reference = variable["valueFrom"].get("secretKeyRef") or variable["valueFrom"]["configMapKeyRef"]
            value = SECRETS.get((reference["name"], reference["key"]))
            if value is not None:
                found[variable["name"]] = value
    return found


class Ran:
    """A process of the runner."""

    def __init__(self, tmp_path: Path, spec: PodSpec, this: Attempt | None = None, *arguments: str) -> None:
        self._message = tmp_path / "message"
        environment = environment_of(build_pod(this or attempt(), spec, PodSettings(image="x")))
        self.process = subprocess.Popen(
            [PROGRAM, "run-one", "--message", str(self._message), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self) -> Ran:
        self.output, self.errors = self.process.communicate(timeout=PATIENCE)
        text = self._message.read_bytes()
        assert len(text) <= 4096
        report = read_report(text.decode())
        assert report is not None
        self.result = Result(
            report.ok,
            report.reason,
            report.code,
            report.output.encode(),
            report.complete,
            report.payload,
            report.result,
        )
        return self


async def inline(executor: ShellExecutor | CurlExecutor, spec: ShellSpec | CurlSpec, **changed: Any) -> Result:
    this = attempt(params=spec, references=References(), **changed)
    this.deadline = time.monotonic() + 1000.0
    await executor.start()
    try:
        return await executor.run(this)
    finally:
        await executor.stop()


@pytest.mark.parametrize(
    "spec",
    [
        ShellSpec("env | grep -e SCHEDULEDJOB_ -e SJOB_ | sort; cat"),
        ShellSpec("echo $P $$ >/dev/null; echo $P; exit 3", env={"P": PASSWORD}),
        ShellSpec("exit 100", complete_exit_codes=frozenset({100})),
        ShellSpec("kill -9 $$"),
        ShellSpec("nosuchcommand"),
        ShellSpec("true", env={"P": Value(secret=("ns/nowhere", "k"), optional=True)}),
        ShellSpec("true", working_dir="/nowhere"),
    ],
)
async def test_a_shell_job_behaves_the_same_in_a_pod(spec: ShellSpec, tmp_path: Path) -> None:
    if any(value.optional for value in spec.env.values()):
        expected = Result(True, code=0)
    else:
        expected = await inline(ShellExecutor(), spec, payload=b"the $(payload)\n")
    ran = await asyncio.to_thread(Ran(tmp_path, PodSpec(shell=spec), attempt(payload=b"the $(payload)\n")).end)
    assert ran.result == expected
    assert ran.output == expected.output
    assert ran.process.returncode == (0 if expected.ok else expected.code or 1)
    assert b"hunter2" not in ran.output + ran.errors


async def test_a_request_behaves_the_same_in_a_pod(tmp_path: Path) -> None:
    heard: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(dict(request.headers) | {"body": await request.text()})
        return web.Response(status=503, text=f"sorry, {request.headers['Authorization']}")

    app = web.Application()
    app.router.add_route("*", "/", answer)
    server = web.AppRunner(app)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    try:
        port = server.addresses[0][1]
        spec = CurlSpec(f"http://127.0.0.1:{port}/", "POST", bearer=PASSWORD, headers={"X-A": Value("$(B)")})
        spec.body = Value("x" * 200_000 + "é$$")
        expected = await inline(CurlExecutor(), spec, timeout=30.0)
        ran = await asyncio.to_thread(Ran(tmp_path, PodSpec(curl=spec), attempt(timeout=30.0)).end)
    finally:
        await server.cleanup()
    assert expected.reason == "HTTP 503, expected 2xx"
    assert ran.result == expected
    assert ran.process.returncode == 1
    assert heard[0] == heard[1]
    assert b"hunter2" not in ran.output + ran.errors


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    ran = Ran(tmp_path, PodSpec(shell=ShellSpec("sleep 1000")), attempt(timeout=0.2)).end()
    assert ran.result.reason == "timed out after 200ms"


def test_sigterm_ends_the_job_with_its_children(tmp_path: Path) -> None:
    fifo, ended = tmp_path / "fifo", tmp_path / "ended"
    os.mkfifo(fifo)
    script = f"trap 'echo x > {ended}; exit' TERM; echo begun > {fifo}; sleep 1000 & wait"
    ran = Ran(tmp_path, PodSpec(shell=ShellSpec(script)))
    fifo.read_text()
    ran.process.send_signal(signal.SIGTERM)
    ran.end()
    assert ended.exists()
    assert (ran.result.reason, ran.result.code) == ("ended by SIGTERM", 143)
    assert ran.process.returncode == 143


def test_a_long_output_is_in_the_log(tmp_path: Path) -> None:
    ran = Ran(tmp_path, PodSpec(shell=ShellSpec("seq 100000"))).end()
    assert ran.result.ok
    assert ran.result.output.endswith(b"\n100000\n")
    assert ran.output.startswith(b"1\n2\n")
    assert len(ran.output) <= 4096


def test_python_jobs(tmp_path: Path) -> None:
    printed = Ran(tmp_path, PodSpec(custom=CustomSpec("print", {"text": "hello"}))).end()
    assert printed.result.ok
    assert printed.output == b"2026-12-01T10:00:00.000001Z ns/job hello\n"
    missing = Ran(tmp_path, PodSpec(custom=CustomSpec("nosuch"))).end()
    assert missing.result.reason.startswith('no job "nosuch" is registered in this image')
    assert missing.process.returncode == 1


def test_a_kind_that_a_pod_has_no_field_for(tmp_path: Path) -> None:
    """The registry reads its spec as it does for built-in kinds, so a new kind runs in Pods, too."""
    spec = {"command": "echo $A; exit 3", "env": {"A": {"value": "a"}}}
    ran = Ran(tmp_path, PodSpec(custom=CustomSpec("shell", spec))).end()
    assert (ran.result.reason, ran.result.output) == ("exit code 3", b"a\n")
    assert ran.process.returncode == 3, "the Pod ends like its command"


def test_a_payload_from_a_secret_is_masked(tmp_path: Path) -> None:
    ran = Ran(tmp_path, PodSpec(shell=ShellSpec("cat"), payload_from=Value(secret=("ns/note", "text")))).end()
    assert ran.output == b"***\n"
    assert ran.result.output == b"***"


def test_an_order_is_needed() -> None:
    done = subprocess.run([PROGRAM, "run-one"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr == "scheduledjob: SJOB_RUN is not set: this command is for Pods that the operator makes\n"
    environment = {**os.environ, "SJOB_RUN": "{"}
    done = subprocess.run(
        [PROGRAM, "run-one"], capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment
    )
    assert done.returncode == 2
    assert "can't be read by this version" in done.stderr
