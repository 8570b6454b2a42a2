"""The CRD on the real API server: documentation, columns, selection, and that nothing is written back."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.manifests.status_model import ActiveRun, Condition, Counters, Handled, RecentRun, Status
from scheduledjob.resource_names import GROUP, RESOURCE
from tests.cluster.crd.install import CRDS, MANIFESTS, install, jobs_in, verdict
from tests.cluster.harness import ApiError
from tests.cluster.harness.client import SCHEDULED_JOBS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
async def _installed(cluster: Cluster) -> None:
    await install(cluster)


def job(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": name},
        "spec": {"triggers": [{"every": "1h"}], "job": {"custom": {"kind": "print"}}} | spec,
    }


def jobs_of(namespace: str) -> str:
    return f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"


async def test_the_crd_can_be_applied_in_both_ways(cluster: Cluster) -> None:
    await cluster.kubectl("apply", "--dry-run=server", "-f", str(CRDS))
    async with cluster.client() as api:
        found = await api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{RESOURCE}")
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("spec.retry", ["At most one of exponential, fixed.", "Default: from 10s", "maxRetries"]),
        ("spec.job", ["Exactly one of shell, curl, container, custom."]),
        ("spec.triggers.timeZone", ["IANA name", "Default: UTC"]),
        ("spec.concurrencyPolicy", ["Forbid", "the slot is skipped", "Default: Forbid"]),
        ("status.recentRuns.output", ["last 1 KiB"]),
    ],
)
async def test_explain_reads_like_documentation(cluster: Cluster, tmp_path: Path, path: str, said: list[str]) -> None:
    # What kubectl remembers of the cluster may be from before the CRD.
    shown = await cluster.kubectl("explain", f"sjob.{path}", "--cache-dir", str(tmp_path))
    text = " ".join(shown.stdout.split())
    for part in said:
        assert part in text


async def test_short_names_and_the_category_lead_to_it(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        await api.post(jobs_of(namespace), job())
    for called in ("sjob", "sj", "scheduledjob", "scheduledjobs"):
        shown = await cluster.kubectl("get", called, "-n", namespace, "-o", "name")
        assert shown.stdout.split() == [f"scheduledjob.{GROUP}/a"]


def valid_specs() -> list[dict[str, Any]]:
    return [found for path in sorted((MANIFESTS / "valid").iterdir()) for found in jobs_in(path, "unused")]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


async def test_nothing_is_written_back(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        for number, each in enumerate(valid_specs()):
            body = job(f"n{number}") | {"spec": each["spec"]}
            stored = await api.post(jobs_of(namespace), body, fieldValidation="Strict")
            assert stored["spec"] == without_nulls(each["spec"])
            assert "status" not in stored


async def test_applying_twice_changes_nothing(cluster: Cluster, namespace: str) -> None:
    manifest = json.dumps(job(shell={}) | {"spec": valid_specs()[0]["spec"]})
    await cluster.apply(manifest, "-n", namespace)
    async with cluster.client() as api:
        first = await api.get(f"{jobs_of(namespace)}/a")
        await cluster.apply(manifest, "-n", namespace)
        second = await api.get(f"{jobs_of(namespace)}/a")
    assert second == first
    assert second["metadata"]["generation"] == 1
    # kubectl diff ends with 1 where there is one.
    await cluster.kubectl("diff", "--server-side", "-f", "-", "-n", namespace, input=manifest)


async def test_the_operator_owns_status_alone(cluster: Cluster, namespace: str) -> None:
    manifest = json.dumps(job())
    await cluster.apply(manifest, "-n", namespace)
    async with cluster.client() as api:
        before = await api.get(f"{jobs_of(namespace)}/a")
        spoilt = {"status": FULL_STATUS.body(), "spec": {"suspend": True}, "metadata": {"labels": {"a": "b"}}}
        after = await api.patch(f"{jobs_of(namespace)}/a/status", spoilt, fieldManager="operator")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == 1
    assert after["status"] == FULL_STATUS.body()
    await cluster.kubectl("diff", "--server-side", "-f", "-", "-n", namespace, input=manifest)


NOW = "2026-12-01T10:00:00.123456Z"


def _condition(kind: str, status: str, message: str = "") -> Condition:
    assert status in ("True", "False", "Unknown")
    return Condition.model_validate(
        {"type": kind, "status": status, "lastTransitionTime": NOW, "reason": "AsItIs", "message": message}
    )


FULL_STATUS = Status(
    observed_generation=1,
    conditions=[
        _condition("Ready", "True", "scheduled"),
        _condition("Stalled", "False"),
        _condition("Suspended", "False"),
        _condition("LastRunSucceeded", "False"),
        _condition("Overdue", "Unknown"),
    ],
    schedule="every 1h",
    next_run="2026-12-01T11:00:00Z",
    next_run_time="2026-12-01T11:00:00Z",
    last_schedule_time=NOW,
    last_success_time="2026-11-01T10:00:00Z",
    last_failure_time=NOW,
    last_outcome="Failed",
    active_count=2,
    active=[ActiveRun(run_id="u-1", slot=NOW, attempt=2, started=NOW, due=NOW, pod="p", token="t")],
    recent_runs=[
        RecentRun(
            run_id="u-0",
            slot=NOW,
            started=NOW,
            finished=NOW,
            attempt=7,
            outcome="Failed",
            reason="exit code 1",
            code=1,
            replica="r",
            pod="p",
            output="boom",
            token="t",
        )
    ],
    counters=Counters(started=9, succeeded=5, failed=3, cancelled=1, skipped_overlap=0, missed=0, excluded=0),
    handled=Handled(run_now=["t"], cancel=["u-1"], resume=["t"]),
    floor=NOW,
    engine="{}",
)


def cells(output: str) -> dict[str, str]:
    """The columns of the one object that kubectl printed; headings may have spaces in them."""
    heading, line = output.splitlines()
    starts = [at for at in range(len(heading)) if heading[at] != " " and (at == 0 or heading[at - 2 : at] == "  ")]
    return {
        heading[start:end].strip(): line[start:end].strip()
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    }


async def test_columns_tell_the_state(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        await api.post(jobs_of(namespace), job(concurrencyPolicy="Allow"))
        await api.patch(f"{jobs_of(namespace)}/a/status", {"status": FULL_STATUS.body()})
    shown = cells((await cluster.kubectl("get", "sjob", "-n", namespace)).stdout)
    assert shown.pop("AGE").endswith("s")
    assert shown == {
        "NAME": "a",
        "SCHEDULE": "every 1h",
        "SUSPENDED": "False",
        "ACTIVE": "2",
        "LAST OUTCOME": "Failed",
        "NEXT RUN": "2026-12-01T11:00:00Z",
    }
    wide = cells((await cluster.kubectl("get", "sjob", "-n", namespace, "-o", "wide")).stdout)
    assert wide.keys() > shown.keys()
    assert (wide["READY"], wide["OVERDUE"], wide["POLICY"]) == ("True", "Unknown", "Allow")
    assert (wide["SUCCEEDED"], wide["FAILED"], wide["MESSAGE"]) == ("5", "3", "scheduled")
    assert wide["LAST SUCCESS"] not in ("", "<invalid>")


async def test_jobs_are_selected_by_field(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        await api.post(jobs_of(namespace), job("a", suspend=True))
        await api.post(jobs_of(namespace), job("b", concurrencyPolicy="Replace"))
        await api.patch(f"{jobs_of(namespace)}/b/status", {"status": {"lastOutcome": "Failed"}})
        for selector, found in (
            ("spec.suspend=true", ["a"]),
            ("spec.concurrencyPolicy=Replace", ["b"]),
            ("status.lastOutcome=Failed", ["b"]),
        ):
            items = await api.list(jobs_of(namespace), fieldSelector=selector)
            assert [each["metadata"]["name"] for each in items] == found, selector


async def test_an_invalid_edit_leaves_the_version_before(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        await api.post(jobs_of(namespace), job(triggers=[{"cron": "0 2 * * *"}]))
        with pytest.raises(ApiError) as refused:
            await api.patch(f"{jobs_of(namespace)}/a", {"spec": {"triggers": [{"cron": "0 25 * * *"}]}})
        assert refused.value.status == 422
        assert "spec.triggers[0].cron" in refused.value.message
        assert "hour: allowed are * and 0 to 23, or H" in refused.value.message
        kept = await api.get(f"{jobs_of(namespace)}/a")
    assert kept["spec"]["triggers"] == [{"cron": "0 2 * * *"}]


async def test_a_password_in_a_url_is_not_repeated(cluster: Cluster) -> None:
    async with cluster.client() as api:
        said = await verdict(api, job(job={"curl": {"url": "https://user:hunter2@example.com"}}), "default")
    assert "spec.job.curl.url" in said
    assert "auth.basic" in said
    assert "hunter2" not in said


def _long_cron(minute: int) -> str:
    before = f"{minute % 60} 0 0 "
    days = ",".join(str(day % 31 + 1) for day in range(1_000))
    return before + days[: 508 - len(before)].rstrip(",") + " * ?"


_HOOK = {
    "curl": {
        "url": "https://example.com/" + "a" * 8_000,
        "headers": {f"X-{number}-" + "h" * 200: "v" * 500 for number in range(64)},
    }
}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            {
                "triggers": [{"cron": _long_cron(number)} for number in range(16)],
                "exclude": [{"cron": _long_cron(number)} for number in range(64)],
            },
            id="expressions",
        ),
        pytest.param(
            {
                "job": {
                    "shell": {
                        "command": "x" * 65_536,
                        "env": [{"name": f"A{number}" + "A" * 240, "value": "v" * 3_000} for number in range(256)],
                    }
                }
            },
            id="environment",
        ),
        pytest.param({"job": {"container": {"image": "a", "args": ["a" * 3_500] * 256}}}, id="arguments"),
        pytest.param({"onFailure": [_HOOK] * 8, "onSuccess": [_HOOK] * 8}, id="hooks"),
        pytest.param({"payload": "é" * 32_768}, id="payload"),
        pytest.param({"retry": {"fixed": {"intervals": ["000000001d01h01m01s"] * 100}}}, id="intervals"),
        pytest.param(
            {"exclude": [{"from": "2026-01-01T00:00:00.123456+01:00", "to": "2026-12-31", "timeZone": "CET"}] * 64},
            id="windows",
        ),
    ],
)
async def test_the_largest_values_are_within_the_budget_of_cel(cluster: Cluster, spec: dict[str, Any]) -> None:
    async with cluster.client() as api:
        assert await verdict(api, copy.deepcopy(job(**spec)), "default") == ""


async def test_a_name_has_at_most_52_characters(cluster: Cluster) -> None:
    async with cluster.client() as api:
        assert await verdict(api, job("a" * 52), "default") == ""
        assert "at most 52 characters" in await verdict(api, job("a" * 53), "default")


async def test_a_status_with_one_wrong_part_is_refused_with_its_name(cluster: Cluster, namespace: str) -> None:
    async with cluster.client() as api:
        await api.post(jobs_of(namespace), job())
        for wrong, field in (
            ({"lastOutcome": "Fine"}, "status.lastOutcome"),
            ({"nextRunTime": "soon"}, "status.nextRunTime"),
            ({"activeCount": -1}, "status.activeCount"),
        ):
            with pytest.raises(ApiError, match=field):
                await api.patch(f"{jobs_of(namespace)}/a/status", {"status": wrong})
