"""Every manifest of the corpus before the real API server: it takes what the loader takes, and refuses the rest.

What it lets through although the loader refuses it stands in a list, each with the reason why neither a schema nor
CEL can tell: the operator reports it in status.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.triggers.calendar_days import CalendarTrigger
from scheduledjob.manifests.crd import crd
from scheduledjob.manifests.loader import load
from scheduledjob.manifests.triggers.trigger_model import stored_of_manifest
from tests.cluster.crd.install import MANIFESTS, ROOT, install, jobs_in, verdict

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

NAMESPACE = "default"
VALID = sorted(path.name for path in (MANIFESTS / "valid").iterdir())
INVALID = sorted(path.name for path in (MANIFESTS / "invalid").iterdir() if path.suffix != ".expect")
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))

RULES = set(re.findall(r'"message": "([^"]*)"', json.dumps(crd())))
"""The messages of rules in the CRD."""

_RE2 = "no function of CEL compiles a pattern within a bounded cost"
_NO_KEYS = "fields of an object that any fields may be in are not seen by CEL"
LET_THROUGH = {
    "curl-regex-bomb.yaml": _RE2,
    "curl-regex-lookahead.yaml": _RE2,
    "curl-regex-too-large.yaml": _RE2,
    "curl-regex-unclosed.yaml": _RE2,
    "duplicate-name.yaml": "each document is a request of its own, and the second an update",
    "exclude-mixed-backwards-in-a-zone.yaml": "no function of CEL knows a zone's offset on a day",
    "generate-name.yaml": "the API server makes the name, and validates it afterwards",
    "key-twice.yaml": "JSON can't have a key twice; kubectl refuses it in YAML",
    "namespace-dot.yaml": "the namespace is the request's, where there is none of that name",
    "print-text-number.yaml": _NO_KEYS,
    "print-unknown-parameter.yaml": _NO_KEYS,
    "zone-unknown.yaml": "a list of zones would refuse those that come after it",
}


@pytest.fixture(autouse=True)
async def _installed(cluster: Cluster) -> None:
    await install(cluster)


def ways_to_say(field: str) -> set[str]:
    """How the API server may call the field that the loader means: to CEL a key's fault is its mapping's or list's."""
    above = re.sub(r"(\.[^.\[]+|\[[^\]]*\](\.name)?)$", "", field)
    last = {each.rpartition(".")[2] for each in (field, above)} - {"spec", "metadata"}
    return {way.lower() for way in last | {f"{field}:", f"{field}.", f'"{above}.'}}


@pytest.mark.parametrize("name", INVALID)
async def test_an_invalid_manifest_is_refused_by_name_of_its_field(cluster: Cluster, name: str) -> None:
    path = MANIFESTS / "invalid" / name
    jobs = jobs_in(path, NAMESPACE)
    async with cluster.client() as api:
        said = [await verdict(api, job, NAMESPACE) for job in jobs]
    refusals = [message for message in said if message]
    if not jobs or not refusals:
        unreadable = "not readable as YAML" in str(load([str(path)]).problems) or not jobs
        assert name in LET_THROUGH or unreadable, "let through"
        return
    assert name not in LET_THROUGH, "refused after all: take it from the list"
    problems = load([str(path)]).problems
    for words in {f"{problem.message}: {problem.allowed}" for problem in problems} & RULES:
        assert any(words in message for message in refusals), (words, refusals)
    fields = [problem.field for problem in problems if problem.field]
    ways = {way for field in fields for way in ways_to_say(field)}
    assert any(way in message.lower() for message in refusals for way in ways), (ways, refusals)


def test_the_rules_that_span_fields_have_manifests_that_break_them() -> None:
    said = [problem for name in INVALID for problem in load([str(MANIFESTS / "invalid" / name)]).problems]
    assert len({f"{problem.message}: {problem.allowed}" for problem in said} & RULES) >= 12


def test_most_invalid_manifests_are_sent() -> None:
    sent = [name for name in INVALID if jobs_in(MANIFESTS / "invalid" / name, NAMESPACE) and name not in LET_THROUGH]
    assert len(sent) >= 150
    assert len(VALID) >= 50
    assert set(INVALID) > LET_THROUGH.keys()


@pytest.mark.parametrize("name", VALID)
async def test_a_valid_manifest_is_accepted(cluster: Cluster, name: str) -> None:
    jobs = jobs_in(MANIFESTS / "valid" / name, NAMESPACE)
    assert jobs
    async with cluster.client() as api:
        assert [await verdict(api, job, NAMESPACE) for job in jobs] == [""] * len(jobs)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_every_example_is_applied(cluster: Cluster, namespace: str, name: str) -> None:
    await cluster.apply(ROOT / "examples" / name, "-n", namespace)


async def test_kubectl_takes_on_without_quotes(cluster: Cluster, namespace: str) -> None:
    """It reads YAML 1.1, where ``on`` is a boolean, and sends the key ``true``."""
    text = (MANIFESTS / "valid" / "calendar.yaml").read_text(encoding="utf-8")
    await cluster.apply(text, "-n", namespace)
    shown = await cluster.kubectl("get", "scheduledjob", "calendar", "-n", namespace, "-o", "json")
    triggers = json.loads(shown.stdout)["spec"]["triggers"]
    assert stored_of_manifest(triggers[1]) == CalendarTrigger(
        2, on=("MON", "THU"), at="09:00", time_zone="Europe/Lisbon"
    )
    assert [stored_of_manifest(trigger).short() for trigger in triggers[2:4]] == [
        "every 1w SUN 22:30",
        "every 5214w MON",
    ]
