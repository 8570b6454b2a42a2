"""docs/kubectl.md: what it shows is what is printed, in order, as a new user would type it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import typer.main

from scheduledjob.cli.plugin.app import app
from tests.cluster.e2e.operators import OperatorProcess, is_so, until
from tests.cluster.plugin.test_completion import Kubectl, run

if TYPE_CHECKING:
    from tests.cluster.harness import ApiClient, Cluster
    from tests.cluster.plugin.support import Plugin

pytestmark = pytest.mark.cluster

DOCS = Path(__file__).resolve().parents[3] / "docs"
_BLOCK = re.compile(
    r'^(?:<!-- (?P<how>[^\n]*) -->\n)?```(?P<kind>yaml|console)(?: title="(?P<title>.*?)")?\n(?P<text>.*?)^```',
    re.M | re.S,
)


class Typed(NamedTuple):
    command: str
    shown: str


def typed(block: str) -> list[Typed]:
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        found.append(Typed(command, shown))
    return found


def alike(text: str) -> list[str]:
    """Lines without what time and chance change."""
    text = re.sub(r"\d{8}t\d{6}z-[0-9a-f]{6}", "TOKEN", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"\b[0-9hdms]*\d(ms|s|m|h|d)\b", "LENGTH", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def matches(shown: str, printed: str) -> bool:
    lines, found = alike(shown), alike(printed)
    return len(lines) == len(found) and all(
        re.fullmatch(re.escape(line).replace(r"\.\.\.", ".*"), one) for line, one in zip(lines, found, strict=True)
    )


async def test_the_page(
    sjobs: Cluster, api: ApiClient, plugin: Plugin, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    kubectl = Kubectl(sjobs.program("kubectl"), plugin, tmp_path)
    (tmp_path / "kubectl").symlink_to(sjobs.program("kubectl"))
    count = 0
    async with OperatorProcess(kubeconfig, namespace, f"--namespaces={namespace}", "--store=memory:"):
        for block in _BLOCK.finditer((DOCS / "kubectl.md").read_text()):
            if block["kind"] == "yaml":
                (tmp_path / block["title"]).write_text(block["text"])
                continue
            for command, shown in typed(block["text"]):
                done = await run(["bash", "-c", f"cd {tmp_path} && {command}"], kubectl.environment)
                assert done.returncode == (2 if "exit code 2" in (block["how"] or "") else 0), done
                assert matches(shown, done.stdout + done.stderr), (command, shown, done)
                count += 1
                if "apply" in command:  # a person takes longer to type than the operator to look
                    await until(api, namespace, "report", is_so("Ready"))
    assert count >= 12


def test_commands_and_options_in_all_pages_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    known = {name: {opt for one in command.params for opt in one.opts} | {"-h"} for name, command in commands.items()}
    for page in sorted(DOCS.glob("*.md")):
        for name, rest in re.findall(r"kubectl[ -]scheduledjob ([a-z]+)([^`\n|]*)", page.read_text()):
            if page.name == "cli-reference.md":
                continue
            assert name in known, (page.name, name)
            without_text = re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)
            for option in re.findall(r"(?<!\S)(--[a-z-]+|-[a-zA-Z])\b", without_text):
                assert option in known[name], (page.name, name, option)
