"""The plugin under kubectl: found by its name, and completed by it, as a shell asks for that."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cluster.e2e.operators import PATIENCE, manifest
from tests.cluster.kubectl.support import end

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import Cluster
    from tests.cluster.kubectl.support import Plugin

pytestmark = pytest.mark.cluster

PROGRAMS = {"kubectl-scheduledjob": "plugin", "kubectl_complete-scheduledjob": "completion"}


async def run(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        await end(process)
    return subprocess.CompletedProcess(words, process.returncode or 0, out.decode(), err.decode())


class Kubectl:
    def __init__(self, program: Path, plugin: Plugin, folder: Path) -> None:
        for name, module in PROGRAMS.items():
            script = folder / name
            script.write_text(f"#!{sys.executable}\nfrom scheduledjob.cli.kubectl.{module} import main\nmain()\n")
            script.chmod(0o755)
        self.program = program
        self.environment = plugin.environment | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}

    async def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await run([str(self.program), *arguments], self.environment)

    async def complete(self, *words: str) -> tuple[list[str], str]:
        """The words that are suggested, and the directive."""
        done = await self("__complete", "scheduledjob", *words)
        *lines, directive = done.stdout.splitlines()
        return [line.partition("\t")[0] for line in lines], directive


@pytest.fixture
async def kubectl(sjobs: Cluster, plugin: Plugin, namespace: str, tmp_path: Path) -> Kubectl:
    for name in ("nightly", "hourly"):
        await sjobs.apply(manifest(name, "every: 1h", "{custom: {kind: print}}"), "-n", namespace)
    return Kubectl(sjobs.program("kubectl"), plugin, tmp_path)


async def test_it_is_a_plugin(kubectl: Kubectl) -> None:
    done = await kubectl("scheduledjob", "list", "-o", "name")
    assert done.stdout == "scheduledjob.scheduledjobs.dev/hourly\nscheduledjob.scheduledjobs.dev/nightly\n"
    done = await kubectl("scheduledjob", "describe", "none")
    assert done.returncode == 1
    assert 'there is no ScheduledJob "none"' in done.stderr
    assert "scheduledjob" in (await kubectl("plugin", "list")).stdout


async def test_completion(kubectl: Kubectl, namespace: str) -> None:
    assert await kubectl.complete("des") == (["describe"], ":4")
    commands, _ = await kubectl.complete("")
    assert commands == [
        "list", "next", "describe", "explain", "trigger", "suspend", "resume", "cancel", "history", "logs", "validate",
        "convert", "simulate",
    ]  # fmt: skip
    assert await kubectl.complete("describe", "") == (["hourly", "nightly"], ":4")
    assert await kubectl.complete("describe", "ni") == (["nightly"], ":4")
    assert await kubectl.complete("describe", "nightly", "") == ([], ":4")
    assert await kubectl.complete("suspend", "nightly", "") == (["hourly"], ":4")
    assert await kubectl.complete("list", "-o", "") == (["table", "wide", "json", "yaml", "name"], ":4")
    assert await kubectl.complete("list", "--output=y") == (["--output=yaml"], ":4")
    assert await kubectl.complete("list", "-n", namespace[:-2]) == ([namespace], ":4")
    assert await kubectl.complete("describe", "-n", "default", "") == ([], ":4")
    assert await kubectl.complete("-n", namespace, "describe", "h") == (["hourly"], ":4")
    assert await kubectl.complete("simulate", "-f", "") == ([], ":0")
    assert await kubectl.complete("validate", "-f", "a", "") == ([], ":0")
    assert await kubectl.complete("explain", "--tz", "Europe/Lis") == (["Europe/Lisbon"], ":4")
    flags, _ = await kubectl.complete("trigger", "--")
    assert {"--wait", "--payload", "--timeout", "--namespace"} <= set(flags)
    contexts, _ = await kubectl.complete("list", "--context", "")
    assert len(contexts) == 1


async def test_completion_says_nothing_of_what_goes_wrong(kubectl: Kubectl) -> None:
    done = await kubectl("__complete", "scheduledjob", "describe", "--kubeconfig", "/does/not/exist", "")
    assert done.stdout == ":4\n"
    assert "Traceback" not in done.stderr


async def test_a_shell_asks_for_it(kubectl: Kubectl, tmp_path: Path) -> None:
    """bash, by the script that kubectl itself gives it."""
    script = tmp_path / "completion.bash"
    script.write_text((await kubectl("completion", "bash")).stdout)
    asks = f"""
        _get_comp_words_by_ref() {{ :; }}
        _init_completion() {{ words=("${{COMP_WORDS[@]}}"); cword=$COMP_CWORD; cur=${{words[cword]}}; prev=; }}
        __ltrim_colon_completions() {{ :; }}
        kubectl() {{ "{kubectl.program}" "$@"; }}
        source {script}
        COMP_WORDS=(kubectl scheduledjob describe n) COMP_CWORD=3 COMP_LINE="kubectl scheduledjob describe n"
        COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9
        __start_kubectl 2>/dev/null
        echo "${{COMPREPLY[@]}}"
    """
    done = await run(["bash", "--norc", "-c", asks], kubectl.environment)
    assert done.stdout.split()[0] == "nightly"
