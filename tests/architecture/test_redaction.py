"""Every result of an executor passes through its ``Redaction`` before the engine gets it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "operator" / "scheduledjob"

WITHOUT = {
    "JobExecutor": "it calls _run_redacted for an attempt with a secret, and has no secrets otherwise",
    "_ByPayload": "it passes the attempt to an executor that is redacted, and says nothing else of a payload",
    "_InvalidSpecExecutor": "its words are the same for all",
}
"""Executors whose ``run`` is not redacted, and why."""
METHODS = {"start", "stop", "run", "extend"}
"""A class with these is an executor."""


def executors() -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    """Return the method ``run`` of each executor, by the name of its class."""
    found: dict[str, ast.AsyncFunctionDef | ast.FunctionDef] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ClassDef) or any(_name(base) == "Protocol" for base in node.bases):
                continue
            methods = {
                item.name: item for item in node.body if isinstance(item, ast.AsyncFunctionDef | ast.FunctionDef)
            }
            if methods.keys() >= METHODS:
                found[node.name] = methods["run"]
    return found


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def test_each_executor_seals_its_results() -> None:
    found = executors()
    assert found.keys() >= {"CurlExecutor", "PodExecutor", "ShellExecutor", *WITHOUT}
    unsealed = {name for name, run in found.items() if "redacted" not in {_name(item) for item in run.decorator_list}}
    assert unsealed == WITHOUT.keys(), "decorate its run with @redacted (jobs/redaction.py)"


def test_only_executors_make_results() -> None:
    """A module that makes results elsewhere would pass by the place where they are sealed."""
    makers = {
        str(file.relative_to(PACKAGE))
        for package in ("jobs", "kube")  # the engine knows no Secrets
        for file in (PACKAGE / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and _name(node.func) == "Result"
    }
    assert makers == {
        "jobs/container/pod_executor.py",
        "jobs/container/pod_life.py",
        "jobs/container/pod_outcome.py",
        "jobs/curl/curl_executor.py",
        "jobs/hooks.py",  # only its own words: what the hook's request returns is sealed by the executor
        "jobs/payload_jobs.py",
        "jobs/python/python_job.py",
        "jobs/redaction.py",
        "jobs/shell/shell_executor.py",
        "kube/cluster_kinds.py",
    }
