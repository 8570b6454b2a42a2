"""The definition that a manifest is translated to: it has every field, with the documented default if it is unset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
from pydantic import BaseModel

from scheduledjob.domain.schedule.backoff import Exponential, Fixed
from scheduledjob.domain.schedule.definition import (
    CatchUp,
    Concurrency,
    Definition,
    ExcludeCron,
    ExcludeWindow,
    Keep,
    Misfire,
    Timeouts,
)
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND, to_instant
from scheduledjob.domain.triggers.calendar_days import CalendarTrigger
from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.domain.triggers.once import AfterTrigger, AtTrigger
from scheduledjob.domain.triggers.registry import Trigger as StoredTriggers
from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from scheduledjob.manifests.base import PATTERN_MEANINGS
from scheduledjob.manifests.checks import parse_instant
from scheduledjob.manifests.loader import load_text
from scheduledjob.manifests.manifest_references import ManifestReferences
from scheduledjob.manifests.models import ConfigMap, ScheduledJob, Secret
from scheduledjob.manifests.translate import needs_pod, payload_of, to_definition
from scheduledjob.manifests.triggers.trigger_model import Trigger, stored_of_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator


def job_of(spec: dict[str, Any]) -> ScheduledJob:
    document = {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": "a", "namespace": "team-a"},
        "spec": {"triggers": [{"every": "30s"}], "job": {"custom": {"kind": "print"}}} | spec,
    }
    loaded = load_text(json.dumps(document))
    assert [str(problem) for problem in loaded.problems] == []
    return loaded.jobs["team-a", "a"].job


def definition_of(**spec: Any) -> Definition:
    return to_definition(job_of(spec))


def instant(text: str) -> int:
    return to_instant(parse_instant(text))


def test_defaults() -> None:
    assert definition_of() == Definition(kind="print", triggers=(EveryTrigger(30 * SECOND),))
    definition = definition_of()
    assert definition.concurrency is Concurrency.FORBID
    assert (definition.queue_depth, definition.max_concurrent) == (1, None)
    assert definition.misfire == Misfire(CatchUp.LAST, 5, None)
    assert definition.retry == Exponential(10.0, 600.0, 2.0, 6)
    assert definition.timeouts == Timeouts(None, 5 * MINUTE, None)
    assert definition.keep == Keep(3, 5, 7 * DAY)


def test_a_curl_attempt_has_a_minute() -> None:
    curl = {"curl": {"url": "http://example.com/"}}
    assert definition_of(job=curl).timeouts.attempt == MINUTE
    assert definition_of(job=curl, timeouts={"total": "1h"}).timeouts == Timeouts(MINUTE, total=HOUR)
    assert definition_of(job=curl, timeouts={"attempt": "2m"}).timeouts.attempt == 2 * MINUTE


STORED_KINDS = tuple(
    str(kind.__struct_config__.tag) for kind in get_args(StoredTriggers) if kind is not CalendarTrigger
)
"""The tags of the triggers in the store, which are their keys in a manifest, too. A calendar has the key ``every``."""


def test_manifests_and_the_store_have_the_same_kinds_of_triggers() -> None:
    assert Trigger.one_of == STORED_KINDS


@pytest.mark.parametrize(("given", "found"), [("{}", "none"), ("{cron: '@daily', manual: true}", "cron, manual")])
def test_a_message_names_all_kinds_of_triggers(given: str, found: str) -> None:
    (problem,) = load_text(
        "apiVersion: scheduledjobs.dev/v1beta1\nkind: ScheduledJob\nmetadata: {name: a}\n"
        f"spec: {{triggers: [{given}], job: {{custom: {{kind: print}}}}}}\n"
    ).problems
    assert problem.message == f"exactly one of {', '.join(STORED_KINDS)}; found {found}"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"every": "2w"}, EveryTrigger(14 * DAY)),
        ({"every": "2w", "at": "09:00"}, CalendarTrigger(2, at="09:00")),
        ({"every": "3d", "timeZone": "Asia/Tokyo"}, CalendarTrigger(days=3, time_zone="Asia/Tokyo")),
        (
            {"every": "1w", "on": ["THU", "MON"], "anchor": "1970-01-01T00:00:05Z"},
            CalendarTrigger(1, on=("MON", "THU"), anchor=5 * SECOND),
        ),
        ({"every": "1w", "true": ["MON"]}, CalendarTrigger(1, on=("MON",))),
    ],
)
def test_an_interval_is_of_elapsed_time_or_of_the_calendar(given: dict[str, Any], stored: object) -> None:
    assert stored_of_manifest(given) == stored


def test_triggers() -> None:
    definition = definition_of(
        triggers=[
            {"cron": "0 0 * * *"},
            {"cron": "0 0 * * *", "timeZone": "Europe/Lisbon"},
            {"every": "1m", "anchor": "2026-01-01T01:00:00+01:00"},
            {"at": "2026-12-01T10:00:00.000001Z"},
            {"after": "0s"},
            {"following": {"name": "extract"}},
            {"following": {"name": "extract", "outcome": "Failed"}},
            {"manual": True},
        ]
    )
    assert definition.triggers == (
        CronTrigger("0 0 * * *", "UTC"),
        CronTrigger("0 0 * * *", "Europe/Lisbon"),
        EveryTrigger(MINUTE, instant("2026-01-01T00:00:00Z")),
        AtTrigger(instant("2026-12-01T10:00:00Z") + 1),
        AfterTrigger(0),
        FollowingTrigger("extract", "Succeeded"),
        FollowingTrigger("extract", "Failed"),
        ManualTrigger(),
    )


def test_exclude() -> None:
    definition = definition_of(
        exclude=[
            {"from": "2026-07-01", "to": "2026-07-02", "timeZone": "Europe/Lisbon"},
            {"from": "2026-07-01", "to": "2026-07-01T12:00:00+02:00"},
            {"cron": "* * * * SAT", "timeZone": "Europe/Lisbon"},
        ]
    )
    assert definition.exclude == (
        ExcludeWindow(instant("2026-06-30T23:00:00Z"), instant("2026-07-01T23:00:00Z")),
        ExcludeWindow(instant("2026-07-01T00:00:00Z"), instant("2026-07-01T10:00:00Z")),
        ExcludeCron("* * * * SAT", "Europe/Lisbon"),
    )


def test_a_midnight_that_is_skipped_is_the_first_moment_after_it() -> None:
    definition = definition_of(exclude=[{"from": "2018-11-04", "to": "2018-11-05", "timeZone": "America/Sao_Paulo"}])
    assert definition.exclude == (ExcludeWindow(instant("2018-11-04T03:00:00Z"), instant("2018-11-05T02:00:00Z")),)


def test_policies() -> None:
    definition = definition_of(
        startAt="2026-01-01T00:00:00Z",
        endAt="2026-12-31T00:00:00Z",
        maxRuns=10,
        jitter="30s",
        suspend=True,
        concurrencyPolicy="Queue",
        maxConcurrent=2,
        queueDepth=7,
        misfire={"catchUp": "All", "maxCatchUp": 9, "startingDeadline": "10m"},
        timeouts={"attempt": "5m", "pending": "6m", "total": "1h"},
        pauseAfterFailures=4,
        expectSuccessWithin="26h",
        history={"succeeded": 0, "failed": 1, "ttl": "1d"},
    )
    assert definition == Definition(
        kind="print",
        triggers=(EveryTrigger(30 * SECOND),),
        start_at=instant("2026-01-01T00:00:00Z"),
        end_at=instant("2026-12-31T00:00:00Z"),
        max_runs=10,
        jitter=30 * SECOND,
        suspend=True,
        concurrency=Concurrency.QUEUE,
        max_concurrent=2,
        queue_depth=7,
        misfire=Misfire(CatchUp.ALL, 9, 10 * MINUTE),
        timeouts=Timeouts(5 * MINUTE, 6 * MINUTE, HOUR),
        pause_after_failures=4,
        expect_success_within=26 * HOUR,
        keep=Keep(0, 1, DAY),
    )


@pytest.mark.parametrize(
    ("retry", "backoff"),
    [
        ({}, Exponential()),
        ({"maxRetries": 0}, Exponential(max_retries=0)),
        ({"maxRetries": -1, "exponential": {"initial": "5s"}}, Exponential(5.0, max_retries=-1)),
        ({"exponential": {"max": "1h", "multiplier": 3}}, Exponential(10.0, 3600.0, 3.0)),
        ({"fixed": {"intervals": ["10s", "1m"]}}, Fixed([10.0, 60.0])),
        ({"maxRetries": 5, "fixed": {"intervals": ["10s", "1m"]}}, Fixed([10.0, 60.0], 5)),
    ],
)
def test_retry(retry: dict[str, Any], backoff: Exponential | Fixed) -> None:
    assert definition_of(retry=retry).retry == backoff


def test_shell() -> None:
    definition = definition_of(
        job={
            "shell": {
                "command": "true",
                "shell": "/bin/bash",
                "workingDir": "/tmp",
                "env": [
                    {"name": "A", "value": ""},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}},
                ],
            }
        },
        completeOn={"exitCodes": [100, 3, 100]},
    )
    assert definition.kind == "shell"
    assert msgspec.convert(json.loads(json.dumps(definition.job)), ShellSpec) == ShellSpec(
        "true",
        "/bin/bash",
        {"A": Value(""), "B": Value(secret=("team-a/s", "k")), "C": Value(config_map=("team-a/c", "k"), optional=True)},
        "/tmp",
        frozenset({3, 100}),
    )


def test_results_that_are_not_retried_are_those_of_the_kind() -> None:
    retry = {"notOn": {"exitCodes": [3, 2, 3], "httpStatus": [404]}}
    shell = definition_of(job={"shell": {"command": "true"}}, retry=retry)
    assert shell.retry == Exponential(not_on=(2, 3))
    curl = definition_of(job={"curl": {"url": "https://example.com/"}}, retry=retry | {"fixed": {"intervals": ["1s"]}})
    assert curl.retry == Fixed([1.0], not_on=(404,))


def test_a_proxy_and_its_credentials() -> None:
    user = {"secretKeyRef": {"name": "s", "key": "u"}}
    password = {"secretKeyRef": {"name": "s", "key": "p"}}
    curl = {"url": "https://example.com/", "proxy": "http://proxy.example:3128"}
    definition = definition_of(job={"curl": curl | {"proxyAuth": {"username": user, "password": password}}})
    assert msgspec.convert(definition.job, CurlSpec) == CurlSpec(
        "https://example.com/",
        proxy="http://proxy.example:3128",
        proxy_username=Value(secret=("team-a/s", "u")),
        proxy_password=Value(secret=("team-a/s", "p")),
    )


def test_curl() -> None:
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    value = Value(secret=("team-a/s", "k"))
    definition = definition_of(
        job={
            "curl": {
                "url": "https://example.com/",
                "method": "PUT",
                "headers": {"A": "b"},
                "body": "x",
                "expect": {"status": ["204", "3xx"], "bodyRegex": "ok"},
                "followRedirects": False,
                "tls": {
                    "insecureSkipVerify": True,
                    "serverName": "example.org",
                    "ca": {"configMapKeyRef": {"name": "c", "key": "k"}},
                    "clientCertificate": secret,
                    "clientKey": secret,
                },
                "auth": {"basic": {"username": secret, "password": secret}},
            }
        },
        completeOn={"httpStatus": [410]},
    )
    assert definition.kind == "curl"
    assert msgspec.convert(json.loads(json.dumps(definition.job)), CurlSpec) == CurlSpec(
        "https://example.com/",
        "PUT",
        {"A": Value("b")},
        Value("x"),
        ("204", "3xx"),
        "ok",
        follow_redirects=False,
        insecure_skip_verify=True,
        ca=Value(config_map=("team-a/c", "k")),
        client_certificate=value,
        client_key=value,
        server_name="example.org",
        basic_username=value,
        basic_password=value,
        complete_status=frozenset({410}),
    )


def test_unset_values_are_left_out() -> None:
    bearer = {"secretKeyRef": {"name": "s", "key": "k"}}
    job = {"curl": {"url": "http://example.com/", "method": "GET", "followRedirects": True, "auth": {"bearer": bearer}}}
    assert definition_of(job=job).job == {"url": "http://example.com/", "bearer": {"secret": ["team-a/s", "k"]}}
    assert definition_of(job={"shell": {"command": "true"}}).job == {"command": "true"}


def test_hooks_and_payload() -> None:
    hook = {"curl": {"url": "http://example.com/"}}
    definition = definition_of(
        onFailure=[hook], onSuccess=[hook, hook], payloadFrom={"secretKeyRef": {"name": "s", "key": "k"}}
    )
    assert definition.on_failure == ({"url": "http://example.com/"},)
    assert len(definition.on_success) == 2
    assert definition.payload_from == {"secret": ["team-a/s", "k"]}
    assert payload_of(job_of({"payload": "ü"})) == "ü".encode()
    assert payload_of(job_of({})) is None


def test_equal_manifests_have_equal_texts() -> None:
    written = definition_of(job={"shell": {"command": "true", "shell": "/bin/sh", "env": []}}, suspend=False)
    assert written.encode() == definition_of(job={"shell": {"command": "true"}}).encode()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({}, None),
        ({"job": {"container": {"image": "alpine"}}}, "job.container runs as a Pod"),
        ({"execution": {"mode": "Pod"}}, "execution.mode is Pod"),
        ({"execution": {"pod": {"image": "alpine"}}}, None),
        (
            {"job": {"shell": {"command": "true"}}, "execution": {"pod": {"image": "alpine"}}},
            "execution.pod.image runs the command in a Pod",
        ),
        (
            {"job": {"shell": {"command": "true"}}, "execution": {"mode": "Inline", "pod": {"image": "alpine"}}},
            None,
        ),
    ],
)
def test_what_needs_a_pod(spec: dict[str, Any], reason: str | None) -> None:
    assert needs_pod(job_of(spec)) == reason


async def test_references_are_resolved_in_the_namespace_of_the_job() -> None:
    loaded = load_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: team-a}\nstringData: {k: hunter2}\n---\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {k: eu}\n"
    )
    references = ManifestReferences(loaded.secrets, loaded.config_maps)
    assert await references.resolve("Secret", "team-a/s", "k") == b"hunter2"
    assert await references.resolve("ConfigMap", "default/s", "k") == b"eu"
    for kind, name, key, message in (
        ("Secret", "default/s", "k", 'there is no Secret "s" in namespace "default" for key "k"'),
        ("ConfigMap", "team-a/s", "k", 'there is no ConfigMap "s" in namespace "team-a" for key "k"'),
        ("Secret", "team-a/s", "other", 'Secret "s" in namespace "team-a" has no key "other": its keys are k'),
    ):
        with pytest.raises(LookupError) as error:
            await references.resolve(kind, name, key)
        assert str(error.value).startswith(message)
        assert "hunter2" not in str(error.value)
    references.replace({}, {})
    with pytest.raises(LookupError, match="add it to the manifest files"):
        await references.resolve("Secret", "team-a/s", "k")


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for argument in get_args(annotation):
        yield from models(argument)


def test_every_field_has_a_description_and_none_a_default() -> None:
    for model in set(models(ScheduledJob)):
        for name, field in model.model_fields.items():
            assert field.description, (model, name)
            assert field.description.endswith("."), (model, name)
            assert field.is_required() or field.default is None, (model, name)
    schema = json.dumps(ScheduledJob.model_json_schema(by_alias=True))
    assert '"default": null' in schema
    assert schema.count('"default": ') == schema.count('"default": null')


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        # Keys that must match a pattern.
        yield from (pattern for pattern in schema.get("patternProperties", {}))
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _patterns(inner)


def test_every_pattern_has_a_description() -> None:
    everything: tuple[type[BaseModel], ...] = (*set(models(ScheduledJob)), Secret, ConfigMap)
    patterns = {pattern for model in everything for pattern in _patterns(model.model_json_schema())}
    assert patterns <= set(PATTERN_MEANINGS)
