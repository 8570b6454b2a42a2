"""What the plugin shows of ScheduledJobs, on a terminal and in pipes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scheduledjob import Cron
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from tests.cluster.harness import ApiClient, Cluster
    from tests.cluster.kubectl.support import Plugin

pytestmark = pytest.mark.cluster

MANIFEST = """
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {name: nightly, labels: {team: a}}
spec:
  triggers: [{cron: "0 30 2 * * ?", timeZone: Europe/Lisbon}]
  exclude: [{from: "2026-12-24", to: "2026-12-27", timeZone: Europe/Lisbon}]
  jitter: 30s
  job: {container: {image: busybox}}
  retry: {maxRetries: 2, fixed: {intervals: [10s, 1m]}}
---
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {name: spread, labels: {team: b}}
spec:
  triggers: [{cron: "H H * * *"}]
  job: {curl: {url: "https://example.com/"}}
---
apiVersion: scheduledjobs.dev/v1beta1
kind: ScheduledJob
metadata: {name: stopped, labels: {team: b}}
spec:
  triggers: [{every: 1h, anchor: "2026-01-01T00:00:00Z"}]
  suspend: true
  job: {curl: {url: "https://example.com/"}}
"""


@pytest.fixture
async def uid(sjobs: Cluster, api: ApiClient, namespace: str) -> str:
    """Three ScheduledJobs, the first with a status as an operator leaves it; its uid."""
    await sjobs.apply(MANIFEST, "-n", namespace)
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/nightly"
    uid = (await api.get(path))["metadata"]["uid"]
    ready = {"lastTransitionTime": "2026-11-20T10:00:00Z", "observedGeneration": 1}
    status: dict[str, Any] = {
        "observedGeneration": 1,
        "schedule": "0 30 2 * * ? Europe/Lisbon",
        "nextRun": "2026-11-24T02:30:00Z",
        "lastOutcome": "Failed",
        "activeCount": 1,
        "active": [
            {"runID": f"{uid}-5", "slot": "2026-11-23T02:30:00Z", "attempt": 2, "started": "2026-11-23T02:30:01Z"}
        ],
        "conditions": [{"type": "Ready", "status": "True", "reason": "Scheduled", "message": "ok", **ready}],
        "counters": {"started": 3, "succeeded": 1, "failed": 1},
        "recentRuns": [
            {
                "runID": f"{uid}-4",
                "slot": "2026-11-22T02:30:00Z",
                "started": "2026-11-22T02:30:01Z",
                "finished": "2026-11-22T02:31:02Z",
                "attempt": 3,
                "outcome": "Failed",
                "reason": "exit code 3\x1b[2J",
                "code": 3,
                "replica": "operator-1",
                "output": "first\nsecond\x1b]0;title\x07\nthird\n",
            },
            {
                "runID": f"{uid}-by-hand",
                "token": "by-hand",
                "slot": "2026-11-21T12:00:00Z",
                "started": "2026-11-21T12:00:00.5Z",
                "finished": "2026-11-21T12:00:00.75Z",
                "attempt": 1,
                "outcome": "Succeeded",
            },
        ],
    }
    await api.patch(f"{path}/status", {"status": status})
    return str(uid)


async def test_list(plugin: Plugin, uid: str, namespace: str) -> None:
    done = await plugin("list")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["NAME", "SCHEDULE", "SUSPENDED", "LAST", "NEXT", "AGE"]
    assert lines[1].split()[:-1] == [
        "nightly", "0", "30", "2", "*", "*", "?", "Europe/Lisbon", "Failed", "2026-11-24T02:30:00Z",
    ]  # fmt: skip
    assert lines[2].split()[:-1] == ["spread", "H", "H", "*", "*", "*"]
    assert lines[3].split()[:-1] == ["stopped", "every", "1h", "suspended"]
    everywhere = await plugin("list", "-A", "-l", "team=a", "-o", "wide")
    assert "NAMESPACE" in everywhere.out
    assert any(line.split()[:2] == [namespace, "nightly"] for line in everywhere.out.splitlines())
    assert "container" in everywhere.out
    assert "spread" not in everywhere.out


async def test_list_for_programs(plugin: Plugin, uid: str) -> None:
    read = json.loads((await plugin("list", "-o", "json")).out)
    assert (read["kind"], [each["metadata"]["name"] for each in read["items"]]) == (
        "List", ["nightly", "spread", "stopped"],
    )  # fmt: skip
    assert {each["kind"] for each in read["items"]} == {"ScheduledJob"}
    assert "managedFields" not in json.dumps(read)
    assert yaml.safe_load((await plugin("list", "-o", "yaml")).out) == read
    named = await plugin("list", "-o", "name", "-l", "team=b")
    assert named.out.split() == ["scheduledjob.scheduledjobs.dev/spread", "scheduledjob.scheduledjobs.dev/stopped"]


async def test_colours_are_for_terminals(plugin: Plugin, uid: str) -> None:
    piped = await plugin("list")
    assert "\x1b" not in piped.out
    shown = await plugin.on_a_terminal("list")
    assert "\x1b[31mFailed" in shown.out
    assert [line.split()[:4] for line in shown.plain.splitlines()] == [
        line.split()[:4] for line in piped.out.splitlines()
    ]
    assert "\x1b" not in (await plugin.on_a_terminal("list", NO_COLOR="1")).out
    assert "\x1b" not in (await plugin.on_a_terminal("list", TERM="dumb")).out


async def test_nothing_to_list(plugin: Plugin, namespace: str) -> None:
    done = await plugin("list")
    assert (done.code, done.out) == (0, "")
    assert done.err == f'no ScheduledJobs in namespace "{namespace}" (-A for all)\n'
    assert json.loads((await plugin("list", "-o", "json")).out)["items"] == []
    assert "has ended" not in (await plugin("history")).err
    assert (await plugin("next")).code == 0


async def test_next(plugin: Plugin, uid: str) -> None:
    done = await plugin("next", "nightly", "--from", "2026-12-23T00:00:00Z", "-c", "3", "-o", "json")
    rows = json.loads(done.out)
    assert [row["slot"] for row in rows] == ["2026-12-23T02:30:00Z", "2026-12-27T02:30:00Z", "2026-12-28T02:30:00Z"]
    assert rows[0]["local"] == "Wed 2026-12-23 02:30:00 +0000"
    assert all(row["slot"] <= row["starts"] <= row["slot"].replace(":00Z", ":30Z") for row in rows)
    table = await plugin("next", "nightly", "--from", "2026-12-23T00:00:00Z", "-c", "1")
    assert table.out.splitlines()[0].split() == ["SLOT", "LOCAL", "IN", "STARTS"]
    stopped = await plugin("next", "stopped", "-o", "name", "-c", "1", "--from", "2026-12-23T00:00:00Z")
    assert stopped.out == "2026-12-23T01:00:00Z\n"
    assert "stopped: it is suspended: kubectl scheduledjob resume" in stopped.err


async def test_next_of_all_is_in_order_and_leaves_out_what_is_suspended(plugin: Plugin, uid: str) -> None:
    rows = json.loads((await plugin("next", "-c", "6", "-o", "json")).out)
    assert [row["slot"] for row in rows] == sorted(row["slot"] for row in rows)
    assert {row["name"] for row in rows} == {"nightly", "spread"}


async def test_next_spreads_as_the_operator_does(plugin: Plugin, uid: str, namespace: str) -> None:
    (row,) = json.loads((await plugin("next", "spread", "-c", "1", "--from", "2026-12-01T00:00:00Z", "-o", "json")).out)
    cron = Cron("H H * * *", seed=f"{namespace}/spread")
    slot = cron.next(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    assert slot is not None
    assert datetime.fromisoformat(row["slot"]) == slot


async def test_explain(plugin: Plugin, uid: str) -> None:
    done = await plugin("explain", "nightly")
    assert done.code == 0
    assert "at 02:30 every day, Europe/Lisbon time (0 30 2 * * ?)" in done.out
    assert "from 2026-12-24T00:00:00Z until 2026-12-27T00:00:00Z" in done.out
    assert "If a run is still active when a slot comes, that slot is skipped." in done.out
    assert "A failed attempt is retried up to 2 times, after 10s, 1m." in done.out
    assert "it is suspended" in (await plugin("explain", "stopped", "-o", "yaml")).out
    words = await plugin("explain", "0 9 * * MON-FRI", "--tz", "Europe/Lisbon")
    assert words.out == "at 09:00, Monday to Friday, Europe/Lisbon time\n"


async def test_describe(plugin: Plugin, uid: str, namespace: str) -> None:
    done = await plugin.on_a_terminal("describe", "nightly")
    assert done.code == 0
    shown = done.plain
    for words in (
        "Name:           nightly",
        f"Namespace:      {namespace}",
        "at 02:30 every day, Europe/Lisbon time",
        "Job:            container busybox",
        "Counters:       started 3, succeeded 1, failed 1",
        "Recent runs:",
        "exit code 3 [2J",
        "kubectl scheduledjob logs nightly --run 2026-11-22T02:30:00Z",
        "Events:",
    ):
        assert words in shown
    assert "\x1b[2J" not in done.out
    assert "On failure:     A failed attempt is retried up to 2 times, after 10s, 1m." in shown
    assert "maxRetries" not in shown, "said once, in words"
    body = yaml.safe_load((await plugin("describe", "nightly", "-o", "yaml")).out)
    assert body["metadata"]["uid"] == uid
    assert "none: no operator has seen it yet" in (await plugin("describe", "spread")).out


async def test_history(plugin: Plugin, uid: str) -> None:
    done = await plugin("history", "nightly")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["SLOT", "STARTED", "TOOK", "ATTEMPT", "OUTCOME", "REASON"]
    assert rows[1][:5] == ["2026-11-22T02:30:00Z", "2026-11-22T02:30:01Z", "1m1s", "3", "Failed"]
    assert rows[2][:6] == ["2026-11-21T12:00:00Z", "(manual)", "2026-11-21T12:00:00Z", "250ms", "1", "Succeeded"]
    wide = await plugin("history", "-o", "wide", "--limit", "1")
    assert wide.out.splitlines()[1].split()[:1] == ["nightly"]
    assert " operator-1 " in wide.out
    assert [run["runID"] for run in json.loads((await plugin("history", "nightly", "-o", "json")).out)] == [
        f"{uid}-4", f"{uid}-by-hand",
    ]  # fmt: skip
    assert (await plugin("history", "spread")).err == "no run of spread has ended\n"


async def test_history_of_a_store(plugin: Plugin, uid: str, tmp_path: Any) -> None:
    done = await plugin("history", "nightly", "--store", "memory:")
    assert done.code == 2
    assert "the store in memory ends with its process" in done.err
    done = await plugin("history", "nightly", "--store", "postgresql://someone:pass-word@127.0.0.1:1/x")
    assert done.code == 1
    assert "pass-word" not in done.err
    assert len(done.err.splitlines()) == 1


async def test_logs_from_status(plugin: Plugin, uid: str) -> None:
    done = await plugin("logs", "nightly")
    assert (done.code, done.out) == (0, "first\nsecond\x1b]0;title\x07\nthird\n")
    assert "==> end of the output of the run at 2026-11-22T02:30:00Z, Failed <==" in done.err
    assert (await plugin("logs", "nightly", "--tail", "1", "--run", "2026-11-22T02:30:00Z")).out == "third\n"
    shown = await plugin.on_a_terminal("logs", "nightly")
    assert "\x1b]0;" not in shown.out
    assert "third" in shown.plain
    done = await plugin("logs", "nightly", "--run", "by-hand")
    assert done.code == 1
    assert "status keeps only the output of the newest failed run" in done.err


async def test_simulate_of_the_cluster(plugin: Plugin, uid: str, namespace: str) -> None:
    window = ("--from", "2026-12-01T00:00:00Z", "--to", "2026-12-02T00:00:00Z")
    done = await plugin("simulate", *window)
    assert "3 jobs, 2 starts from 2026-12-01T00:00:00Z to 2026-12-02T00:00:00Z, at most 1 in a minute" in done.out
    assert done.err == "left out, because they are suspended: stopped\n"
    read = json.loads((await plugin("simulate", *window, "-o", "json")).out)
    assert {name for minute in read["minutes"] for name in minute["jobs"]} == {
        f"{namespace}/nightly", f"{namespace}/spread",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("next", "--from", "2026-12-01T00:00:00Z", "-c", "3", "-o", "yaml"),
        ("explain", "nightly"),
        ("explain", "0 9 * * *"),
        ("describe", "nightly"),
        ("history", "-o", "wide"),
        ("validate", "-f", "examples"),
        ("convert", "-f", "tests/cli/kubectl/cronjobs/plain.yaml", "-o", "name"),
        ("simulate", "--from", "2026-12-01T00:00:00Z", "--to", "2026-12-01T06:00:00Z"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("uid")
async def test_a_terminal_shows_what_a_pipe_gets(plugin: Plugin, arguments: tuple[str, ...]) -> None:
    piped = await plugin(*arguments)
    shown = await plugin.on_a_terminal(*arguments)
    assert (piped.code, shown.code) == (0, 0)
    assert "\x1b" not in piped.out
    assert _without_ages(shown.plain) == _without_ages(
        piped.out + piped.err if "Events" not in piped.out else piped.out
    )


def _without_ages(text: str) -> set[str]:
    """The lines, which standard error may stand between, without what the clock changes."""
    changing = ("ago)", "  in: ")
    return {line for line in text.splitlines() if line not in ("", "none") and not any(one in line for one in changing)}
