"""The parts of the plugin that need no cluster: ages, tables, options, completion, and harmful text."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

from scheduledjob.cli.kubectl import describing
from scheduledjob.cli.kubectl.completion import complete
from scheduledjob.cli.kubectl.job_logs import harmless
from scheduledjob.cli.kubectl.listing import triggers_in_short
from scheduledjob.cli.kubectl.plugin import app, command_first, execute
from scheduledjob.cli.kubectl.waiting import Progress, ended_run
from scheduledjob.cli.shared.convert.template import pull_policy_of
from scheduledjob.cli.shared.explanation import explanation
from scheduledjob.cli.shared.objects import instant_of
from scheduledjob.cli.shared.planned_schedule import say_what_is_not_listed, schedule_of
from scheduledjob.cli.shared.printing import age, print_table, took
from scheduledjob.domain.time.instants import DAY, HOUR, MINUTE, SECOND

ROOT = Path(__file__).parents[3]


def test_the_programs_have_the_names_that_kubectl_looks_for() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("kubectl-scheduledjob", "kubectl_complete-scheduledjob"):
        module, _, function = scripts[name].partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("length", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119 * SECOND, "119s"),
        (2 * MINUTE, "2m"),
        (119 * MINUTE, "119m"),
        (2 * HOUR, "2h"),
        (3 * DAY, "3d"),
    ],
)
def test_ages(length: int, shown: str) -> None:
    assert age(10 * DAY, 10 * DAY + length) == shown


def test_lengths() -> None:
    assert [took(length) for length in (0, 1_500, 250_000, 1_240_000, 61_900_000)] == [
        "0ms",
        "1ms",
        "250ms",
        "1.2s",
        "1m1s",
    ]


def test_a_table_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "a\x1b[2Jb\nc", "count": None}, {"name": "x", "count": 12}], empty="none")
    assert capsys.readouterr().out == "NAME      COUNT\na [2Jb c\nx         12\n"
    print_table([], empty="none")
    assert capsys.readouterr() == ("", "none\n")


def test_logs_on_a_terminal() -> None:
    assert harmless("a\tb\r\n\x1b[1;31mred\x1b[0m") == "a\tb\r\n\x1b[1;31mred\x1b[0m"
    assert harmless("\x1b]0;title\x07 \x1b[2J\x9b5A\x00\x08") == "\ufffd]0;title\ufffd \ufffd[2J\ufffd5A\ufffd\ufffd"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["-n", "a", "list", "-o", "json"], ["list", "-n", "a", "-o", "json"]),
        (["--namespace=a", "-A", "next", "x"], ["next", "--namespace=a", "-A", "x"]),
        (["list", "-n", "a"], ["list", "-n", "a"]),
        (["-h"], ["-h"]),
        (["-n", "a"], ["-n", "a"]),
        ([], []),
    ],
)
def test_the_command_comes_first(typed: list[str], meant: list[str]) -> None:
    assert command_first(typed) == meant


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]  # a group
def test_each_command_has_help_on_one_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([command, "-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: kubectl scheduledjob {command} [OPTIONS]")
    assert len(lines) < 45


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("localhost:5000/busybox", "Always"),
        ("localhost:5000/busybox:1", "IfNotPresent"),
        ("a/b@sha256:00", "IfNotPresent"),
    ],
)
def test_pull_policies(image: str, policy: str) -> None:
    assert pull_policy_of(image) == policy


def test_completion_without_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("contexts: [{name: one, context: {cluster: a}}, {name: two, context: {cluster: b}}]")
    monkeypatch.setenv("KUBECONFIG", f"{config}:{tmp_path / 'none'}")
    assert complete(["list", "--context", "t"]) == ([("two", "b")], 4)
    assert complete(["history", "--limit", ""]) == ([], 4)
    assert complete(["convert", "-f", "a", ""]) == ([], 0)
    assert [word for word, _ in complete(["sus"])[0]] == ["suspend"]
    assert complete([])[1] == 4
    assert complete(["nothing", ""]) == ([], 4)
    assert complete(["--context", "t"]) == ([("two", "b")], 4)
    assert [word for word, _ in complete(["-o", "json", "sim"])[0]] == ["simulate"]
    assert "--namespace" in [word for word, _ in complete(["--n"])[0]]


def body(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "job", "namespace": "team", "uid": "u", "creationTimestamp": "2026-11-01T08:00:00Z"},
        "spec": {"job": {"custom": {"kind": "print"}}, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "heading", "said"),
    [
        ({"triggers": [{"every": "1h"}]}, "Runs", ["every 1h, counted from the object's creation"]),
        ({"triggers": [{"at": "2026-12-01T10:00:00Z"}]}, "Runs", ["once, at 2026-12-01T10:00:00Z"]),
        ({"triggers": [{"after": "5m"}]}, "Runs", ["once, 5m after the object is created"]),
        (
            {"triggers": [{"following": {"name": "x", "outcome": "Failed"}}]},
            "Runs",
            ["when a run of x fails"],
        ),
        ({"triggers": [{"manual": True}]}, "Runs", ["only by hand, when somebody starts a run"]),
        (
            {"triggers": [{"every": "1h"}, {"manual": True}]},
            "Runs",
            ["every 1h, counted from the object's creation", "by hand, when somebody starts a run"],
        ),
        (
            {"concurrencyPolicy": "Replace"},
            "Overlap",
            "If a run is still active when a slot comes, it is cancelled and the new run takes its place.",
        ),
        (
            {"concurrencyPolicy": "Queue", "queueDepth": 3},
            "Overlap",
            "If 1 run is still active when a slot comes, that slot waits. "
            "At most 3 may wait; further slots are skipped.",
        ),
        (
            {"concurrencyPolicy": "Allow", "maxConcurrent": 2},
            "Overlap",
            "Up to 2 runs may be active at once; further slots are skipped.",
        ),
        (
            {"misfire": {"catchUp": "Skip"}},
            "When late",
            "If slots are missed, only the newest one runs, and only if it is at most 10s late. "
            "The others are recorded as Missed.",
        ),
        (
            {"misfire": {"catchUp": "All"}},
            "When late",
            "If slots are missed, the newest 5 run, oldest first. The others are recorded as Missed.",
        ),
        ({"retry": {"maxRetries": 0}}, "On failure", "A failed run is not retried."),
        ({"retry": {"maxRetries": 0, "fixed": {"intervals": ["5s"]}}}, "On failure", "A failed run is not retried."),
        (
            {"retry": {"maxRetries": 1, "fixed": {"intervals": ["5s"]}}},
            "On failure",
            "A failed attempt is retried once, after 5s.",
        ),
        ({"retry": {"fixed": {"intervals": ["5s", "1m"]}}}, "On failure", "A failed attempt is retried after 5s, 1m."),
        (
            {},
            "On failure",
            "A failed attempt is retried up to 6 times: after 10s, then 2 times as long each time, up to 10m.",
        ),
        (
            {"retry": {"maxRetries": -1, "fixed": {"intervals": ["5s"]}}},
            "On failure",
            "A failed attempt is retried without limit, after 5s.",
        ),
        (
            {"startAt": "2026-12-01T10:00:00Z", "maxRuns": 3},
            "Bounds",
            ["not before 2026-12-01T10:00:00Z", "at most 3 runs"],
        ),
        ({"suspend": True}, "But", "it is suspended: kubectl scheduledjob resume starts its slots again"),
    ],
)
def test_completion_suggests_words(spec: dict[str, Any], heading: str, said: Any) -> None:
    whole = {"triggers": [{"cron": "0 0 * * *"}]} | spec
    assert explanation(schedule_of(body(**whole)))[heading] == said


@pytest.mark.parametrize(
    ("active", "shown"),
    [
        ({"slot": "2020-01-01T00:00:00Z", "started": "2020-01-02T00:00:00Z"}, "40d"),
        ({"slot": "2020-01-02T00:00:00Z", "pod": "a-1"}, "40d"),
        ({"slot": "2020-01-02T00:00:00Z", "due": "2020-02-12T00:00:00Z"}, ""),
    ],
)
def test_how_long_a_run_is_active(active: dict[str, Any], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "now", lambda: instant_of("2020-02-11T00:00:00Z"))
    assert describing.active_for(active) == shown


@pytest.mark.parametrize(
    ("active", "said"),
    [
        ([], "daily: t is accepted and about to start"),
        ([{"runID": "u-t", "attempt": 1, "pod": "daily-1"}], "daily: t is active"),
        ([{"runID": "u-t", "attempt": 2, "started": "2020-01-01T00:00:00Z"}], "daily: t is running, attempt 2"),
    ],
)
def test_the_progress_of_a_run_is_shown(
    active: list[dict[str, Any]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {"active": active, "handled": {"runNow": ["t"]}}
    assert ended_run({"metadata": {"name": "daily"}, "status": status}, "u-t", "t", Progress()) is None
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("triggers", "shown"),
    [
        (
            [{"cron": "0 2 * * *", "timeZone": "Europe/Lisbon"}, {"every": "90s"}],
            "0 2 * * * Europe/Lisbon, every 1m30s",
        ),
        ([{"at": "2026-12-01T10:00:00+01:00"}, {"after": "5m"}], "at 2026-12-01T09:00:00Z, after 5m"),
        ([{"following": {"name": "x"}}, {"manual": True}], "following x, manual"),
        ([{"every": "never"}], "invalid"),
    ],
)
def test_the_triggers_of_an_object_without_a_status(triggers: list[dict[str, Any]], shown: str) -> None:
    assert triggers_in_short(body(triggers=triggers)) == shown


def test_next_says_how_to_start_a_job_that_has_no_slots(capsys: pytest.CaptureFixture[str]) -> None:
    say_what_is_not_listed(schedule_of(body(triggers=[{"manual": True}])))
    say_what_is_not_listed(schedule_of(body(triggers=[{"following": {"name": "x"}}, {"manual": True}])))
    assert capsys.readouterr().err.splitlines() == [
        "job: it has no slots and runs only by hand; in a cluster: kubectl scheduledjob trigger job",
        "job: it also runs when a run of x succeeds, which is not known in advance",
    ]


def test_an_invalid_object_says_why() -> None:
    with pytest.raises(ValueError, match=r"spec\.triggers\[0\]\.cron: "):
        schedule_of(body(triggers=[{"cron": "61 * * * *"}]))


def test_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: scheduledjobs.dev/v1beta1\nkind: ScheduledJob\nmetadata: {name: a}\n")
    assert execute(["validate", "-f", str(tmp_path)]) == 2
    assert "a.yaml:1: spec: is missing" in capsys.readouterr().out
    assert execute(["validate", "-f", str(ROOT / "examples"), "-o", "json"]) == 0


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Usage: kubectl scheduledjob [OPTIONS] COMMAND [ARGS]...\n")
    assert len(out.splitlines()) > 15


def test_names_of_what_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = "{apiVersion: scheduledjobs.dev/v1beta1, kind: ScheduledJob, metadata: {name: %s}, spec: {%s}}"
    right = job % ("right", 'triggers: [{every: 1h}], job: {curl: {url: "https://example.com"}}')
    (tmp_path / "jobs.yaml").write_text(f"{right}\n---\n{job % ('wrong', 'triggers: [{every: 1h}]')}\n")
    assert execute(["validate", "-f", str(tmp_path), "-o", "name"]) == 2
    out, err = capsys.readouterr()
    assert out == "scheduledjob.scheduledjobs.dev/right\n"
    assert "spec.job" in err
