"""The commands and options in the documentation exist. (tests/cluster/docs runs the examples.)"""

from __future__ import annotations

import re

import typer.main

from scheduledjob.cli.kubectl.plugin import app
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"


def test_commands_and_options_in_all_pages_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    known = {
        name: {opt for param in command.params for opt in param.opts} | {"-h"} for name, command in commands.items()
    }
    for page in sorted(DOCS.glob("*.md")):
        for name, rest in re.findall(r"kubectl[ -]scheduledjob ([a-z]+)([^`\n|]*)", page.read_text()):
            if page.name == "cli-reference.md":
                continue
            assert name in known, (page.name, name)
            without_text = re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)
            for option in re.findall(r"(?<!\S)(--[a-z-]+|-[a-zA-Z])\b", without_text):
                assert option in known[name], (page.name, name, option)
