"""``docs/cli-reference.md``, from the commands as typer knows them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperArgument

from scheduledjob.cli.kubectl.plugin import PROGRAM
from scheduledjob.cli.kubectl.plugin import app as plugin_app
from scheduledjob.cli.scheduledjob.main import app

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup

_BEGINNING = """# CLI reference

<!-- Written by `make docs` from operator/scheduledjob/cli. -->

One program under two names. `scheduledjob` works with manifests, expressions and stores, and is what runs in the
operator's image; `kubectl scheduledjob` sees and steers the objects of a cluster, and needs nothing but its API server.

Whatever goes wrong is one line on standard error, and the exit code is not 0.
"""

_EXIT_CODES = """
| Exit code | Means |
|---|---|
| 0 | done |
| 1 | it could not be done |
| 2 | what was typed is wrong, or a manifest is |
| 130 | Ctrl-C (`run` and `operator` end in order by it, with 0) |
"""


def cli_page() -> str:
    """The page."""
    parts = [_BEGINNING, "\n## scheduledjob\n", _EXIT_CODES, *_commands(app, "scheduledjob")]
    parts += [f"\n## {PROGRAM}\n\n{plugin_app.info.help}\n\n{_epilog()}\n", *_commands(plugin_app, PROGRAM)]
    return "".join(parts)


def _epilog() -> str:
    return str(plugin_app.info.epilog)


def _commands(program: typer.Typer, name: str) -> list[str]:
    group: TyperGroup = typer.main.get_group(program)
    return [
        _section(f"{name} {called}", command)  # type: ignore[arg-type]  # typer's own commands are all of this class
        for called, command in group.commands.items()
        if not command.hidden
    ]


def _section(called: str, command: TyperCommand) -> str:
    lines = [f"\n### {called}\n", *(line.strip() for line in (command.help or "").splitlines()), ""]
    if called == "scheduledjob operator":
        # Its command line is made from the model of its settings, and so is their page.
        return "\n".join([*lines, "Its options are the [settings of the operator](operator-settings.md).", ""])
    context = typer.Context(command, info_name=called)
    rows = []
    for parameter in command.get_params(context):
        record = None if parameter.name == "help" else parameter.get_help_record(context)
        if record is not None:
            rows.append(f"| `{_cell(_called(parameter, _plain(record[0])))}` | {_cell(record[1])} |")
    if rows:
        lines += ["| Argument or option | Meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _called(parameter: object, names: str) -> str:
    """As a line of usage has it: an argument in brackets that may be left out, with dots where there may be several."""
    if not isinstance(parameter, TyperArgument):
        return names
    return (names if parameter.required else f"[{names}]") + ("..." if parameter.nargs == -1 else "")


def _plain(names: str) -> str:
    """``--count <int range>`` as people write it: ``--count NUMBER``."""
    for kind, word in (("int range", "NUMBER"), ("float range", "NUMBER"), ("str", "TEXT")):
        names = names.replace(f" <{kind}>", f" {word}" if names.startswith("-") else "")
    return names.replace(" <list[Path]>", "").replace(" <list[str]>", "")


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(cli_page(), encoding="utf-8")
