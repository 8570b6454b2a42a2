"""The committed CRD: it is generated from the models, and every field has a description and a limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scheduledjob.manifests import crd
from scheduledjob.manifests.models import ScheduledJob, Spec
from scheduledjob.manifests.rules import VALIDATIONS
from scheduledjob.manifests.schema import structural_schema
from scheduledjob.manifests.status_model import (
    ENGINE_LIMIT,
    HANDLED_TOKENS,
    OUTPUT_LIMIT,
    RECENT_RUNS,
    ActiveRun,
    Condition,
    Handled,
    RecentRun,
    Status,
)
from scheduledjob.resource_names import RESOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parents[2] / "crds" / f"{RESOURCE}.yaml"
Schema = dict[str, Any]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema below the root, with its path."""
    for key, part in schema.get("properties", {}).items():
        yield f"{path}.{key}", part
        yield from nodes(part, f"{path}.{key}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), dict):
            yield path + mark, schema[key]
            yield from nodes(schema[key], path + mark)


VERSION = crd.crd()["spec"]["versions"][0]
ROOT: Schema = VERSION["schema"]["openAPIV3Schema"]
NODES = dict(nodes(ROOT))


def test_the_committed_file_is_not_stale() -> None:
    assert FILE.read_text(encoding="utf-8") == crd.text(), "run: make crds"


def test_the_file_is_what_the_generator_writes() -> None:
    assert yaml.safe_load(crd.text()) == crd.crd()


def test_it_fits_into_the_annotation_of_a_client_side_apply() -> None:
    assert len(json.dumps(crd.crd())) < 0.6 * 256 * 1024


def test_every_field_has_a_description() -> None:
    without = [
        path
        for path, schema in NODES.items()
        if path != ".metadata" and not path.endswith(("[]", "{}")) and "description" not in schema
    ]
    assert without == []
    for path, schema in NODES.items():
        if "description" in schema:
            text = schema["description"]
            assert text[0].isupper() or text.startswith(("`", "onFailure")), path
            assert text.endswith("."), path
            assert "\n" not in text, path


def test_the_descriptions_state_the_alternatives() -> None:
    assert NODES[".spec.job"]["description"].endswith("Exactly one of shell, curl, container, custom.")
    assert NODES[".spec.retry"]["description"].endswith("At most one of exponential, fixed.")


def test_nothing_has_a_default() -> None:
    assert [path for path, schema in NODES.items() if "default" in schema] == []
    assert "default:" not in FILE.read_text(encoding="utf-8").replace("Default:", "")


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("string", {"maxLength", "enum"}),
        ("array", {"maxItems"}),
        ("integer", {"maximum", "format", "anyOf"}),
        ("number", {"maximum"}),
    ],
)
def test_everything_has_a_limit(kind: str, bounds: set[str]) -> None:
    unbounded = [
        path
        for path, schema in NODES.items()
        if schema.get("type") == kind and not bounds & schema.keys() and path not in (".apiVersion", ".kind")
    ]
    assert unbounded == []


def test_every_mapping_has_a_limit() -> None:
    mappings = [
        path
        for path, schema in NODES.items()
        if schema.get("type") == "object" and "properties" not in schema and path != ".metadata"
    ]
    assert ".spec.job.curl.headers" in mappings
    assert [path for path in mappings if "maxProperties" not in NODES[path]] == []


def test_it_is_structural() -> None:
    for path, schema in NODES.items():
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "title", "const", "allOf", "oneOf"} & schema.keys(), path
        if schema.get("type") == "array":
            assert schema["x-kubernetes-list-type"] in ("atomic", "map"), path


def test_every_rule_says_what_to_write() -> None:
    rules = [rule for schema in [ROOT, *NODES.values()] for rule in schema.get(VALIDATIONS, ())]
    assert len(rules) > 100
    for rule in rules:
        assert 10 < len(rule["message"]) < 300
        assert rule["message"].isprintable()
        assert not rule["message"].endswith(".")


def test_the_spec_has_the_fields_of_the_model() -> None:
    fields = {field.alias for field in Spec.model_fields.values()}
    assert NODES[".spec"]["properties"].keys() == fields
    assert structural_schema(ScheduledJob)["required"] == ["apiVersion", "kind", "metadata", "spec"]


def test_columns_lead_to_fields() -> None:
    for column in VERSION["additionalPrinterColumns"]:
        path = column["jsonPath"].split("[?")[0]
        if not path.startswith(".metadata"):
            assert path in NODES, column
    for field in VERSION["selectableFields"]:
        assert NODES[field["jsonPath"]]["type"] in ("string", "boolean", "integer")


NOW = "2026-12-01T10:00:00.123456Z"


def test_a_status_cuts_what_the_api_server_would_refuse() -> None:
    status = Status(
        conditions=[
            Condition(type="Ready", status="True", last_transition_time=NOW, reason="Scheduled", message="m" * 99_999)
        ],
        recent_runs=[
            RecentRun(
                slot=NOW, finished=NOW, attempt=1, outcome="Failed", output="x" * 5_000 + "end", run_id=str(number)
            )
            for number in range(20)
        ],
        active=[ActiveRun(run_id=f"r{number}", slot=NOW, attempt=1) for number in range(500)],
        handled=Handled(run_now=[f"t{number}" for number in range(40)]),
        engine="x" * (ENGINE_LIMIT + 1),
    )
    body = status.body()
    assert len(body["conditions"][0]["message"]) == 32_768
    assert [run["runID"] for run in body["recentRuns"]] == [str(number) for number in range(RECENT_RUNS)]
    assert len(body["recentRuns"][0]["output"]) == OUTPUT_LIMIT
    assert body["recentRuns"][0]["output"].endswith("end")
    assert body["active"][-1]["runID"] == "r499"
    assert len(body["active"]) == 100
    assert body["handled"] == {"runNow": [f"t{number}" for number in range(40 - HANDLED_TOKENS, 40)]}
    assert "engine" not in body


def test_a_status_of_a_newer_version_can_be_read() -> None:
    body = Status(floor=NOW, last_outcome="Succeeded", active_count=0).body()
    assert body == {"floor": NOW, "lastOutcome": "Succeeded", "activeCount": 0}
    assert Status.model_validate(body | {"someday": {"more": 1}}).body() == body
