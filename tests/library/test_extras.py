"""Without extras, everything else works, and whatever needs an extra says in one line what to install."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A Python that can import only the distributions of the base installation.
BASE_ONLY = """
import re, sys
from importlib.metadata import packages_distributions

canonical = lambda name: re.sub("[-_.]+", "-", name).lower()
base = {"scheduledjob", *sys.argv.pop(1).split(",")}
absent = {module for module, owners in packages_distributions().items() if not base & set(map(canonical, owners))}

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder)
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with only the base installed."""
    base = re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return subprocess.run(
        [sys.executable, "-c", BASE_ONLY + program, ",".join(base), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def scheduledjob(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("from scheduledjob.cli.scheduledjob.main import main; main()", *arguments)


def kubectl_scheduledjob(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("from scheduledjob.cli.kubectl.plugin import main; main()", *arguments)


def test_packages_of_an_extra_are_imported_only_where_it_is_needed() -> None:
    program = """
import json, pkgutil
from importlib import import_module
import scheduledjob

missing = {}
for module in pkgutil.walk_packages(scheduledjob.__path__, "scheduledjob.", onerror=lambda name: None):
    try:
        import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name.partition(".")[0]
print(json.dumps(missing))
"""
    done = python(program)
    assert done.returncode == 0, done.stderr
    missing: dict[str, str] = json.loads(done.stdout)
    assert missing, "the test hides nothing"
    homes = {"google": "stores.firestore", "grpc": "stores.firestore", "prometheus_client": "web", "kubernetes": "kube"}
    for module, library in missing.items():
        part = module.removeprefix("scheduledjob.")
        assert part.startswith((homes.get(library, "kube"), "kube")), f"{module} imports {library}"


def test_the_library_with_memory_and_postgres_needs_no_extra() -> None:
    program = """
import scheduledjob
from scheduledjob.stores import open_store

for name in scheduledjob.__all__:
    getattr(scheduledjob, name)
open_store("memory:")
open_store("postgresql://nobody@127.0.0.1:1/nothing")
"""
    done = python(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["validate", "-f", "examples/heartbeat.yaml"],
        ["explain", "@daily"],
        ["next", "@daily"],
        ["operator", "--help"],
    ],
    ids=" ".join,
)
def test_commands_need_no_extra(arguments: list[str]) -> None:
    done = scheduledjob(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "@daily"]], ids=" ".join)
def test_plugin_commands_without_a_cluster_need_no_extra(arguments: list[str]) -> None:
    done = kubectl_scheduledjob(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "--store=firestore://project/collection"],
        ["migrate", "--store=firestore://project/collection"],
        ["run", "--store=firestore://project/collection", "-f", "examples/heartbeat.yaml"],
        ["operator", "--store=firestore://project/collection"],
    ],
    ids=" ".join,
)
def test_a_store_that_needs_an_extra_says_what_to_install(arguments: list[str]) -> None:
    done = scheduledjob(*arguments)
    message = 'scheduledjob: firestore://... needs Google\'s client: pip install "scheduledjob[firestore]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_the_library_says_which_extra_to_install() -> None:
    done = python("from scheduledjob import Scheduler; Scheduler('firestore://project/collection')")
    assert done.stderr.splitlines()[-1].endswith(
        'MissingExtraError: firestore://... needs Google\'s client: pip install "scheduledjob[firestore]"'
    )


def test_the_operator_says_what_to_install() -> None:
    done = scheduledjob("operator")
    message = 'the operator needs kopf, kubernetes and prometheus-client: pip install "scheduledjob[kube]"'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"scheduledjob: {message}\n")


@pytest.mark.parametrize("arguments", [["list"], ["trigger", "report"], ["logs", "report"]], ids=" ".join)
def test_the_plugin_says_what_to_install(arguments: list[str]) -> None:
    done = kubectl_scheduledjob(*arguments)
    message = 'kubectl scheduledjob needs the kubernetes package: pip install "scheduledjob[kube]"'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {message}\n")


def test_completion_stays_silent() -> None:
    done = python("from scheduledjob.cli.kubectl.completion import main; main()", "trigger", "")
    assert (done.returncode, done.stderr) == (0, "")
