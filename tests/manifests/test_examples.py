"""The examples are what a newcomer runs first: they are valid, and each runs on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduledjob.manifests.definition import needs_pod, to_definition
from scheduledjob.manifests.loader import load
from scheduledjob.manifests.references import ManifestReferences

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_valid_and_runs_inline() -> None:
    loaded = load([str(EXAMPLES)])
    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.passed_over == []
    assert len(loaded.jobs) >= 6
    for found in loaded.jobs.values():
        assert needs_pod(found.job) is None
        assert to_definition(found.job).kind in ("print", "shell")


@pytest.mark.parametrize(
    ("kind", "name", "key"), [("Secret", "database", "password"), ("ConfigMap", "settings", "region")]
)
async def test_the_references_of_the_examples_lead_somewhere(kind: str, name: str, key: str) -> None:
    loaded = load([str(EXAMPLES)])
    assert await ManifestReferences(loaded.secrets, loaded.config_maps).resolve(kind, f"default/{name}", key)
