"""The commands that print an answer and exit, called as the program calls them. Each error is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scheduledjob.cli.scheduledjob.main import execute
from tests.cli.support import PROGRAM, job
from tests.manifests.test_corpus import INVALID, expectations, matches

INVALID_FILES = Path(__file__).parent.parent / "manifests" / "invalid"
VALID_FILES = INVALID_FILES.with_name("valid")
CRONJOBS = Path(__file__).parent / "kubectl" / "cronjobs" / "as-the-server-gives-it.yaml"


def test_next_follows_the_clocks(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["next", "0 30 2 * * ?", "--tz", "America/Los_Angeles", "--from", "2026-03-07T23:00:00-08:00"]
    assert execute([*arguments, "--count", "2", "-o", "json"]) == 0
    assert [row["slot"] for row in json.loads(capsys.readouterr().out)] == [
        "2026-03-08T10:00:00Z",
        "2026-03-09T09:30:00Z",
    ]


def test_next_begins_at_the_given_instant(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["next", "0 10 * * *", "--from", "2026-12-01T10:00:00Z", "--count", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("2026-12-01T10:00:00Z")


def test_next_counts_an_interval_from_the_given_instant(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["next", "@every 90s", "--from", "2026-12-01T10:00:00Z", "--count", "2", "-o", "yaml"]) == 0
    assert [row["slot"] for row in yaml.safe_load(capsys.readouterr().out)] == [
        "2026-12-01T10:01:30Z",
        "2026-12-01T10:03:00Z",
    ]


def test_next_says_when_there_is_no_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["next", "0 0 0 1 1 ? 2030", "--from", "2030-01-02T00:00:00Z"]) == 0
    assert "never fires again" in capsys.readouterr().out


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "0 30 2 ? * MON-FRI", "--tz", "Europe/Lisbon"]) == 0
    assert capsys.readouterr().out == "at 02:30, Monday to Friday, Europe/Lisbon time\n"
    assert execute(["explain", "0 30 2 ? * MON-FRI", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["explanation"] == "at 02:30, Monday to Friday, UTC"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["next", "61 * * * *"], "61 is out of range"),
        (["next", "0 0 31 2 *"], "can never fire"),
        (["next", "* * * * *", "--tz", "Europe/Lissabon"], "Europe/Lissabon"),
        (["next", "* * * * *", "--from", "2026-12-01T10:00:00"], "no offset from UTC"),
        (["next", "* * * * *", "--from", "tomorrow"], "not a point in time"),
        (["next", "* * * * *", "--count", "0"], "--count"),
        (["next"], "give an expression"),
        (["next", "0", "12", "*", "*", "*"], "quote it, as in '0 12 * * *'"),
        (["next", "-f", str(VALID_FILES), "--tz", "Europe/Lisbon"], "--tz applies to an expression only"),
        (["next", "-f", str(VALID_FILES), "--seed", "a/b"], "--seed applies to an expression only"),
        (["explain"], "give an expression"),
        (["explain", ""], "0 fields"),
        (["simulate"], "name files or directories, as in `scheduledjob simulate jobs/`, or - for standard input"),
        (["convert"], "name files or directories"),
        (["trigger", "nightly"], "For a cluster, use `kubectl scheduledjob trigger`"),
        (["nxt"], "nxt"),
        (["run"], "--file"),
        (["run", "-f", "there/is/nothing", "--store", "mysql://x"], "'mysql' names no store"),
        (["run", "-f", "x", "--capacity", "0"], "--capacity"),
        (["history"], "--store"),
        (["history", "--store", "memory:"], "ends with its process"),
        (["migrate"], "--store"),
        (["migrate", "--store", "nothing"], "no scheme"),
        (["validate"], "--file"),
        (["validate", "-f", "x", "-o", "xml"], "xml"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SJOB_STORE", raising=False)
    assert execute(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scheduledjob: ")
    assert err.count("\n") == 1
    assert said in err


def test_an_unavailable_store_is_named_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://somebody:geh%65im@127.0.0.1:9/nowhere"
    assert execute(["history", "--store", url]) == 1
    err = capsys.readouterr().err
    assert "127.0.0.1" in err
    assert err.count("\n") == 1
    assert "geheim" not in err
    assert "geh%65im" not in err


def test_migrate_has_nothing_to_do_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["migrate", "--store", "memory:"]) == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", INVALID)
def test_validate_reports_each_fault_of_the_corpus(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(INVALID_FILES)
    assert execute(["validate", "-f", name]) == 2
    out, err = capsys.readouterr()
    expected = expectations(Path(name))
    assert len(out.splitlines()) == len(expected)
    for line, expectation in zip(out.splitlines(), expected, strict=True):
        assert matches(line.removeprefix(f"{name}:").replace(": ", " ", 1), expectation)
    assert err.startswith(f"{len(expected)} fault")
    assert err.count("\n") == 1


@pytest.mark.parametrize("file", sorted(VALID_FILES.iterdir()), ids=lambda file: file.name)
def test_validate_reports_no_faults_of_valid_manifests(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["validate", "-f", str(file)]) == 0
    assert capsys.readouterr().out.startswith("no faults; ")


def test_validate_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["validate", "-f", str(INVALID_FILES / "cron-minute-61.yaml"), "-o", "json"]) == 2
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault["line"] > 0
    assert fault["field"] == "spec.triggers[0].cron"


def test_validate_takes_several_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["validate", "-f", *(str(VALID_FILES / name) for name in ("curl.yaml", "shell.yaml"))]) == 0
    assert "2 files" in capsys.readouterr().out


def piped(*arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["validate", "-"], ["validate", "-f", "-"], ["validate", "--file", "-"]])
def test_validate_reads_standard_input(arguments: list[str]) -> None:
    assert piped(*arguments, text=job("one") + job("two")).stdout == "no faults; 2 valid jobs in 1 file\n"
    wrong = piped(*arguments, text=job("one", "every: never"))
    assert wrong.returncode == 2
    assert "spec.triggers[0].every" in wrong.stdout


def test_validate_takes_files_without_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(job("a"))
    assert execute(["validate", str(tmp_path), str(VALID_FILES / "curl.yaml")]) == 0
    assert "2 files" in capsys.readouterr().out


NEVER = (
    job("past", 'at: "2020-01-01T00:00:00Z"')
    + job("ended", 'cron: "0 12 * * *"', more='  endAt: "2020-01-01T00:00:00Z"\n')
    + job("year", 'cron: "0 0 12 ? * * 2020"')
    + job("excluded", 'cron: "0 12 * * *"', more='  exclude: [{cron: "* 12 * * *"}]\n')
    + job("by-hand", "manual: true")
    + job("later", 'at: "2120-01-01T00:00:00Z"')
    + job("after-a", "following: {name: past}")
    + job("after-b", "following: {name: after-a}")
    + job("after-c", "following: {name: elsewhere}")
    + job("after-d", "following: {name: later}", more='  endAt: "2020-01-01T00:00:00Z"\n')
    + job("too-early", 'at: "2120-01-01T00:00:00Z"', more='  startAt: "2121-01-01T00:00:00Z"\n')
)


def test_validate_warns_of_jobs_that_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(NEVER)
    assert execute(["validate", "-f", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == "no faults; 11 valid jobs in 1 file\n"
    assert [line.partition("warning: ")[2] for line in err.splitlines()] == [
        "past never runs: all its slots are past",
        "ended never runs: endAt is past (2020-01-01T00:00:00Z)",
        "year never runs: all its slots are past",
        "excluded never runs: exclude leaves out every slot",
        "after-d never runs: endAt is past (2020-01-01T00:00:00Z)",
        "too-early never runs: no slot is between startAt and endAt",
        "after-a never runs: it follows only jobs that never run (past)",
        "after-b never runs: it follows only jobs that never run (after-a)",
    ]
    assert execute(["validate", "-f", str(tmp_path), "-o", "json"]) == 0
    assert [found["name"] for found in json.loads(capsys.readouterr().out)["warnings"]] == [
        "past",
        "ended",
        "year",
        "excluded",
        "after-d",
        "too-early",
        "after-a",
        "after-b",
    ]


def test_validate_warns_of_results_that_a_kind_never_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curl = "curl: {url: http://host/}"
    codes, statuses = "{exitCodes: [2]}", "{httpStatus: [404]}"
    both = "{exitCodes: [2], httpStatus: [404]}"
    jobs = [
        ("a", curl, codes, codes), ("b", curl, statuses, statuses), ("c", curl, both, both),
        ("d", "", statuses, statuses), ("e", "", codes, codes), ("f", "", both, both),
    ]  # fmt: skip
    for name, kind, not_on, complete_on in jobs:
        more = f"  retry: {{notOn: {not_on}}}\n  completeOn: {complete_on}\n"
        (tmp_path / f"{name}.yaml").write_text(job(name, "every: 5h", kind, more=more))
    assert execute(["validate", "-f", str(tmp_path)]) == 0
    assert [line.partition("warning: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "a has retry.notOn.exitCodes, which has no effect: a curl job has httpStatus",
        "a has completeOn.exitCodes, which has no effect: a curl job has httpStatus",
        "d has retry.notOn.httpStatus, which has no effect: only a curl job has one",
        "d has completeOn.httpStatus, which has no effect: only a curl job has one",
    ]


JOBS = (
    job("noon", 'cron: "0 12 * * *"')
    + job("soon", "every: 5h", namespace="team-a", more="  maxRuns: 2\n")
    + job("never", 'cron: "0 * * * *"', more="  suspend: true\n")
)


def test_next_of_manifests_lists_all_their_slots_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    assert execute(["next", "-f", str(tmp_path), "--from", "2026-12-01T12:00:00Z", "-c", "4", "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert [(row["namespace"], row["name"], row["slot"]) for row in json.loads(out)] == [
        ("default", "noon", "2026-12-01T12:00:00Z"),
        ("team-a", "soon", "2026-12-01T17:00:00Z"),
        ("team-a", "soon", "2026-12-01T22:00:00Z"),
        ("default", "noon", "2026-12-02T12:00:00Z"),
    ]
    assert err == "never: left out, because it is suspended\n"


def test_next_and_explain_read_standard_input_and_report_faults() -> None:
    text = job("noon", 'cron: "0 12 * * *"') + job("wrong", 'cron: "61 * * * *"')
    listed = piped("next", "-f", "-", "--from", "2026-12-01T00:00:00Z", "-c", "1", text=text)
    assert listed.returncode == 2
    assert listed.stdout.splitlines()[1].startswith("noon  2026-12-01T12:00:00Z")
    assert "61 is out of range" in listed.stderr
    explained = piped("explain", "-f", "-", text=text)
    assert explained.returncode == 2
    assert explained.stdout.startswith("noon\n  Runs:         at 12:00 every day, UTC (0 12 * * *)\n")
    assert "61 is out of range" in explained.stderr


def test_explain_of_manifests_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    assert execute(["explain", "-f", str(tmp_path), "-o", "json"]) == 0
    noon, soon, never = json.loads(capsys.readouterr().out)
    assert (noon["name"], noon["Runs"]) == ("noon", ["at 12:00 every day, UTC (0 12 * * *)"])
    assert (soon["namespace"], soon["Bounds"]) == ("team-a", ["at most 2 runs"])
    assert never["But"] == "suspended"


def test_next_of_files_without_a_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert execute(["next", "-f", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "scheduledjob: the files contain no ScheduledJob\n"


def test_simulate_and_convert_need_no_cluster_for_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    day = ["--from", "2026-12-01T00:00:00Z", "--to", "2026-12-02T00:00:00Z"]
    assert execute(["simulate", str(tmp_path), *day, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["starts"] == 3
    assert execute(["convert", "-f", str(CRONJOBS)]) == 0
    assert capsys.readouterr().out.startswith("---\napiVersion: scheduledjobs.dev/v1beta1\n")


def test_next_of_an_expression_loads_no_heavy_modules() -> None:
    script = (
        "import sys; from scheduledjob.cli.scheduledjob.main import execute; execute(['next', '* * * * *']);"
        "heavy = {'structlog', 'aiohttp', 'asyncpg', 'rich', 'uvloop', 'yaml', 'google'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["run", "next", "explain", "validate", "simulate", "convert", "migrate", "history"])
def test_the_help_has_no_raw_notation_of_typer(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[[" not in shown
    assert "range" not in shown


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Usage: scheduledjob [OPTIONS] COMMAND [ARGS]...\n")
