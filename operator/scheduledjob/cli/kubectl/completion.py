"""``kubectl_complete-scheduledjob``: called by kubectl when Tab is pressed, in bash, zsh, fish or PowerShell.

kubectl's own completion runs a program of this name with the words typed so far; the last word is unfinished. It
expects one suggestion per line, with a description after a tab, and a last line ``:n`` that says what else the shell
may offer: 4 means nothing, 0 means files. Errors are never printed, because they would land in the prompt.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FILES, NOTHING = 0, 4
PATIENCE = 3.0
"""Seconds to wait for the API server: a prompt that hangs is worse than one without suggestions."""
_OF_FILES = frozenset({"--file", "--kubeconfig"})
_OF_NAMES = frozenset({"name", "names"})
_CLUSTER_OF = {"--namespace": "namespace", "--context": "context", "--kubeconfig": "kubeconfig"}

Suggestion = tuple[str, str]


def main() -> None:
    """Print the suggestions for the last word."""
    suggestions: Sequence[Suggestion] = ()
    directive = NOTHING
    with suppress(Exception):
        suggestions, directive = complete(sys.argv[1:])
    for word, description in suggestions:
        print(f"{word}\t{description}" if description else word)  # noqa: T201  # kubectl reads standard output
    print(f":{directive}")  # noqa: T201  # as above


def complete(words: Sequence[str]) -> tuple[list[Suggestion], int]:
    """Return suggestions for the last word, and the directive that says what else the shell may offer."""
    import typer.main

    from .plugin import app, command_first

    *before, unfinished = words or [""]
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    name, *rest = command_first([*before, ""])
    if name in commands:
        return _in_command(commands[name], name, rest[:-1], unfinished)
    if name.startswith("-") or (not name and unfinished.startswith("-")):
        return _in_command(commands["list"], "list", before, unfinished)  # an option before the command
    if name:
        return [], NOTHING
    return _fitting(((command, _sentence(commands[command].help)) for command in commands), unfinished), NOTHING


def _in_command(command: Any, name: str, before: Sequence[str], unfinished: str) -> tuple[list[Suggestion], int]:
    options = {opt: param for param in command.params if param.param_type_name == "option" for opt in param.opts}
    given, positional, waiting = _read(options, before)
    if waiting is not None:
        return _values(waiting, given, unfinished)
    if unfinished.startswith("--") and "=" in unfinished:
        opt, _, part = unfinished.partition("=")
        found, directive = _values(options[opt], given, part) if opt in options else ([], NOTHING)
        return [(f"{opt}={word}", text) for word, text in found], directive
    if unfinished.startswith("-"):
        return _fitting(((opt, option.help or "") for opt, option in options.items()), unfinished), NOTHING
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    argument = next(
        (param for place, param in enumerate(arguments) if place >= len(positional) or param.nargs == -1), None
    )
    if argument is None:
        return [], NOTHING
    if argument.name == "more" or (name == "convert" and "--file" in given):
        return [], FILES
    if argument.name == "run":
        return _fitting(_runs(given, positional[0]), unfinished), NOTHING
    if argument.name in _OF_NAMES:
        known = [suggestion for suggestion in _objects(given, name) if suggestion[0] not in positional]
        return _fitting(known, unfinished), NOTHING
    return [], NOTHING


def _read(options: dict[str, Any], words: Sequence[str]) -> tuple[dict[str, str], list[str], Any]:
    """Return the given options by long name, the arguments, and the option that still needs its value."""
    given: dict[str, str] = {}
    positional: list[str] = []
    waiting = None
    for word in words:
        opt, equals, value = word.partition("=")
        if waiting is not None:
            given[waiting.opts[0]], waiting = word, None
        elif opt in options and not options[opt].is_flag:
            if equals:
                given[options[opt].opts[0]] = value
            else:
                waiting = options[opt]
        elif opt in options:
            given[options[opt].opts[0]] = ""
        elif not word.startswith("-"):
            positional.append(word)
    return given, positional, waiting


def _values(option: Any, given: dict[str, str], unfinished: str) -> tuple[list[Suggestion], int]:
    from scheduledjob.cli.shared.printing import Form

    opt = option.opts[0]
    if opt in _OF_FILES:
        return [], FILES
    if opt == "--output":
        return _fitting(((form.value, "") for form in Form), unfinished), NOTHING
    if opt == "--namespace":
        return _fitting(_namespaces(given), unfinished), NOTHING
    if opt == "--context":
        return _fitting(_contexts(given), unfinished), NOTHING
    if opt == "--tz":
        from scheduledjob.domain.time.zone_data import zone_names

        return _fitting(((zone, "") for zone in sorted(zone_names())), unfinished), NOTHING
    return [], NOTHING


def _fitting(suggestions: Iterable[Suggestion], unfinished: str) -> list[Suggestion]:
    return [suggestion for suggestion in suggestions if suggestion[0].startswith(unfinished)]


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


# ---------------------------------------------------------------- what the cluster has


def _ask(given: dict[str, str], path: str) -> Any:
    """Return one answer of the API server; ``{namespace}`` in the path is replaced by the selected namespace."""
    from .cluster_access import Cluster, Where

    async def ask(cluster: Cluster) -> Any:
        whole = path.replace("{namespace}", cluster.namespace)
        return await cluster.api.request("GET", whole, params={"limit": 500}, seconds=PATIENCE, attempts=1)

    meant = {_CLUSTER_OF[opt]: value for opt, value in given.items() if opt in _CLUSTER_OF}
    return Where(meant.get("namespace"), context=meant.get("context"), kubeconfig=meant.get("kubeconfig")).run(ask)


def _objects(given: dict[str, str], command: str) -> list[Suggestion]:
    if command == "convert":
        found = _ask(given, "/apis/batch/v1/namespaces/{namespace}/cronjobs")["items"]
        return [(body["metadata"]["name"], body["spec"]["schedule"]) for body in found]
    found = _ask(given, "/apis/scheduledjobs.dev/v1beta1/namespaces/{namespace}/scheduledjobs")["items"]
    return [(body["metadata"]["name"], (body.get("status") or {}).get("schedule", "")) for body in found]


def _runs(given: dict[str, str], name: str) -> list[Suggestion]:
    body = _ask(given, f"/apis/scheduledjobs.dev/v1beta1/namespaces/{{namespace}}/scheduledjobs/{name}")
    uid = body["metadata"]["uid"]
    active = (body.get("status") or {}).get("active") or ()
    return [(run["runID"].removeprefix(f"{uid}-"), f"slot {run['slot']}") for run in active]


def _namespaces(given: dict[str, str]) -> list[Suggestion]:
    return [(body["metadata"]["name"], "") for body in _ask(given, "/api/v1/namespaces")["items"]]


def _contexts(given: dict[str, str]) -> list[Suggestion]:
    import os
    from pathlib import Path

    import yaml

    paths = given.get("--kubeconfig") or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    names: list[Suggestion] = []
    for path in paths.split(os.pathsep):
        with suppress(OSError):
            read = yaml.safe_load(Path(path).read_text()) or {}
            names += [(entry["name"], entry["context"].get("cluster", "")) for entry in read.get("contexts") or ()]
    return names


if __name__ == "__main__":
    main()
