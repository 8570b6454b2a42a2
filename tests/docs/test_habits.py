"""The commit hooks and the workflows use targets and programs that exist."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.docs.pages import ROOT


def _yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_workflows_run_only_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    ran = []
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = _yaml(str(workflow.relative_to(ROOT)))["jobs"].values()
        ran += [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert ran
    for command in ran:
        made = re.match(r'(?:sudo env "PATH=\$PATH" )?make ([\w-]+)', command)
        assert ".ci/run" in command or (made is not None and made[1] in targets), command


def test_commit_hooks_are_local() -> None:
    repositories = _yaml(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        assert hook["language"] == "system"
