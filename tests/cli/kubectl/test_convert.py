"""CronJobs of many shapes are converted to valid ScheduledJobs, and all differences are reported.

Each file in ``cronjobs/`` is a CronJob as people write them. Its lines ``#! ...`` are the notes that ``convert`` must
print, besides those that it prints for nearly every CronJob (``COMMON``). There must be no other notes.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.cli.kubectl.plugin import execute
from scheduledjob.cli.shared.convert.compare import differences, in_words, pod_of_scheduledjob
from scheduledjob.cli.shared.convert.convert_command import print_converted
from scheduledjob.cli.shared.convert.cronjob import Converted, convert
from scheduledjob.cli.shared.printing import Form
from scheduledjob.manifests.loader import load_text

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPES = sorted((Path(__file__).parent / "cronjobs").glob("*.yaml"))
COMMON = (
    "without a timeZone, the schedule is in UTC",
    "an attempt fails if its Pod has not started within timeouts.pending",
    "no variables for the namespace's Services",
    "no service account token",
    "seccompProfile is RuntimeDefault",
    "allowPrivilegeEscalation is false",
    "the job gets variables that describe its run",
    "Pods have the labels scheduledjobs.dev/name",
    "concurrencyPolicy Forbid: slots",
    "a local time that daylight saving skips",
    "the Pod has an activeDeadlineSeconds",
)


def cronjob_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def shape(name: str) -> dict[str, Any]:
    return cronjob_of(Path(__file__).parent / "cronjobs" / f"{name}.yaml")


def notes_of(cronjob: dict[str, Any], converted: Converted) -> list[str]:
    return [*converted.notes, *map(in_words, differences(cronjob, converted))]


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 39


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_a_shape_is_converted_with_its_notes(path: Path) -> None:
    cronjob = cronjob_of(path)
    before = json.dumps(cronjob, default=str)
    converted = convert(cronjob)
    assert json.dumps(cronjob, default=str) == before
    wanted = [line.removeprefix("#! ") for line in path.read_text().splitlines() if line.startswith("#! ")]
    notes = notes_of(cronjob, converted)
    for want in wanted:
        assert any(want in note for note in notes), (want, notes)
    unforeseen = [note for note in notes if not any(part in note for part in (*wanted, *COMMON))]
    assert unforeseen == []
    assert load_text(yaml.safe_dump(converted.manifest)).problems == []


def test_fields_of_a_cronjob_are_carried_over() -> None:
    assert convert(shape("deadlines-and-limits")).manifest == {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": "limits"},
        "spec": {
            "triggers": [{"cron": "*/15 * * * *"}],
            "job": {"container": {"image": "example/x:1"}},
            "execution": {
                "pod": {"template": {"spec": {"activeDeadlineSeconds": 300, "terminationGracePeriodSeconds": 5}}}
            },
            "concurrencyPolicy": "Replace",
            "misfire": {"startingDeadline": "3m20s"},
            "retry": {"maxRetries": 4},
            "timeouts": {"total": "10m"},
            "history": {"succeeded": 10, "failed": 0, "ttl": "1d"},
        },
    }


def policy(*rules: dict[str, Any], container: str = "x") -> dict[str, Any]:
    cronjob = shape("indexed")
    job = cronjob["spec"]["jobTemplate"]["spec"]
    job["podFailurePolicy"] = {"rules": list(rules)}
    job["template"]["spec"]["containers"][0]["name"] = container
    return cronjob


def by_code(action: str, *values: int, operator: str = "In", **more: str) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"operator": operator, "values": list(values)} | more}


def test_exit_codes_that_fail_a_job_are_not_retried() -> None:
    assert convert(shape("indexed")).manifest["spec"]["retry"] == {"notOn": {"exitCodes": [42]}}
    # The first rule that matches decides.
    rules = (by_code("Count", 3), by_code("FailJob", 4, 3), by_code("FailJob", 1, 2, operator="NotIn"))
    found = convert(policy(*rules, container="job")).manifest["spec"]["retry"]["notOn"]["exitCodes"]
    assert found == [code for code in range(1, 256) if code not in (1, 2, 3)]
    named = by_code("FailJob", 7, containerName="x")
    assert convert(policy(named)).manifest["spec"]["retry"] == {"notOn": {"exitCodes": [7]}}


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        (by_code("Ignore", 3), "rules[0]: action Ignore: every failure uses up a retry"),
        (by_code("FailIndex", 3), "rules[0]: action FailIndex: there is no index"),
        (by_code("FailJob", 3, containerName="y"), 'rules[0]: the exit code of container "y" decides nothing here'),
        (
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            "rules[0]: action Ignore on Pod conditions: a Pod that was disrupted uses up a retry",
        ),
        (
            {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue"}]},
            "rules[0]: action FailJob on Pod conditions: retry.notOn knows only results of the job",
        ),
    ],
)
def test_rules_without_an_equivalent_are_noted(rule: dict[str, Any], note: str) -> None:
    converted = convert(policy(rule))
    assert "retry" not in converted.manifest["spec"]
    assert any(f"not carried over: spec.jobTemplate.spec.podFailurePolicy.{note}" in line for line in converted.notes)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"action": "FailJob", "onExitCodes": {"operator": "In", "values": ["3"]}}, "values must be a list of whole"),
        ({"action": "FailJob", "onExitCodes": {"operator": "Is", "values": [3]}}, "operator must be In or NotIn"),
    ],
)
def test_a_policy_that_can_not_be_read_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convert(policy(rule))


def test_unset_fields_keep_their_meaning() -> None:
    spec = convert(shape("plain")).manifest["spec"]
    assert spec["concurrencyPolicy"] == "Allow"
    assert spec.keys() == {"triggers", "job", "concurrencyPolicy"}


def test_defaults_of_the_api_server_are_removed() -> None:
    assert convert(shape("as-the-server-gives-it")).manifest == {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": "from-server", "namespace": "team-a"},
        "spec": {
            "triggers": [{"cron": "*/1 * * * *"}],
            "job": {"container": {"image": "busybox:1.28", "command": ["/bin/sh", "-c", "date"]}},
            "concurrencyPolicy": "Allow",
            "history": {"failed": 1},
        },
    }


def test_references_follow_a_container_to_its_new_name() -> None:
    spec = pod_of_scheduledjob(convert(shape("second-is-the-job")))["spec"]
    by_name = {container["name"]: container for container in spec["containers"]}
    assert {name: container["image"] for name, container in by_name.items()} == {
        "job": "example/worker:1",
        "job-2": "example/proxy:1",
    }
    owners = {
        variable["name"]: variable["valueFrom"]["resourceFieldRef"]["containerName"]
        for variable in by_name["job"]["env"]
        if "valueFrom" in variable
    }
    assert owners == {"CPU": "job", "PROXY_MEMORY": "job-2"}


def test_privileged_containers_keep_privilege_escalation() -> None:
    spec = pod_of_scheduledjob(convert(shape("privileged")))["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        assert container["securityContext"]["allowPrivilegeEscalation"] is True


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("schedule", "0 0 * *", "must have five fields, not 4"),
        ("schedule", "0 0 31 2 *", "can never fire"),
        ("schedule", "@fortnightly", "is unknown to CronJobs"),
        ("schedule", "@every soon", "is not a duration"),
        ("schedule", None, "spec.schedule is missing"),
        ("schedule", "@reboot", "is unknown to CronJobs"),
        ("timeZone", "Mars/Olympus", "Mars/Olympus"),
        ("startingDeadlineSeconds", "10", "spec.startingDeadlineSeconds must be a whole number, 0 or more"),
        ("failedJobsHistoryLimit", True, "spec.failedJobsHistoryLimit must be a whole number"),
        ("jobTemplate", {}, "at least one container is needed, each with a name"),
        ("jobTemplate", {"spec": {"template": {"spec": {"containers": [{"name": "x"}]}}}}, "image"),
    ],
)
def test_an_invalid_cronjob_is_refused(field: str, value: object, words: str) -> None:
    cronjob = shape("plain")
    cronjob["spec"][field] = value
    with pytest.raises(ValueError, match=re.escape(words)):
        convert(cronjob)


def test_two_time_zones_are_refused() -> None:
    cronjob = shape("zone-in-schedule")
    cronjob["spec"]["timeZone"] = "Europe/Paris"
    with pytest.raises(ValueError, match="names a time zone, and so does"):
        convert(cronjob)


def places(part: Any) -> list[tuple[str | int, ...]]:
    """Return the paths of all values in a CronJob."""
    below = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [(), *((key, *rest) for key, value in below for rest in places(value))]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@given(st.data(), st.sampled_from(SHAPES), ANYTHING)
def test_any_cronjob_is_converted_or_refused(data: st.DataObject, path: Path, value: Any) -> None:
    """A CronJob with any value in any place is converted, or refused with a message."""
    cronjob = cronjob_of(path)
    way = data.draw(st.sampled_from(places(cronjob)[1:]))
    part: Any = cronjob
    for key in way[:-1]:
        part = part[key]
    part[way[-1]] = value
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = print_converted([cronjob], Form.YAML)
    assert code == (0 if out.getvalue() else 1)
    assert ("can't be converted" in err.getvalue()) == bool(code)
    assert load_text(out.getvalue()).problems == []


# ---------------------------------------------------------------- the command


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str | Path]) -> tuple[int, str, str]:
    code = execute([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_all_shapes_are_converted_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, ["convert", "-f", SHAPES[0].parent])
    assert code == 0
    documents = list(yaml.safe_load_all(out))
    assert len(documents) == len(SHAPES)
    assert f"all {len(SHAPES)}: Pods have the labels scheduledjobs.dev/name" in err
    assert "can't be converted" not in err


def test_an_invalid_cronjob_does_not_affect_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, broken = shape("plain"), shape("on-failure")
    wrong["spec"]["schedule"] = "never"
    wrong["metadata"]["name"] = "wrong"
    broken["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["env"] = [{"value": "nameless"}]
    documents = [shape("resources"), wrong, broken, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": documents}))
    code, out, err = run(capsys, ["convert", "-f", file])
    assert code == 1
    assert [manifest["metadata"]["name"] for manifest in yaml.safe_load_all(out)] == ["resources"]
    assert 'wrong: can\'t be converted: spec.schedule: "never" must have five fields, not 1' in err
    assert "hello: can't be converted: " in err
    assert "has no name" in err


def test_lists_may_contain_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists as kubectl prints them, as the API returns them (items have no kind), and several in a file."""

    def bare(name: str) -> dict[str, Any]:
        cronjob = shape("plain") | {"metadata": {"name": name}}
        return {key: cronjob[key] for key in ("metadata", "spec")}

    named = {"apiVersion": "batch/v1", "kind": "CronJob"}
    answer = {"apiVersion": "batch/v1", "kind": "CronJobList", "items": [bare("a"), named | bare("b")]}
    other = {"apiVersion": "example.com/v1", "kind": "CronJobList", "items": [bare("not-ours")]}
    printed = {"apiVersion": "v1", "kind": "List", "items": [named | bare("c"), answer, {"kind": "Job"}]}
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all([printed, other, named | bare("d")]))
    (tmp_path / "answer.json").write_text(json.dumps(answer | {"items": [bare("e")]}))
    code, out, _ = run(capsys, ["convert", "-f", file, tmp_path / "answer.json"])
    assert code == 0
    assert [manifest["metadata"]["name"] for manifest in yaml.safe_load_all(out)] == ["c", "a", "b", "d", "e"]


def test_standard_input_is_converted_to_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SHAPES[0].read_text()))
    code, out, _ = run(capsys, ["convert", "-f", "-", "-o", "json"])
    assert code == 0
    assert json.loads(out)["kind"] == "ScheduledJob"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "apiVersion: v1\nkind: Secret\n",
            "the files contain no CronJob (apiVersion: batch/v1, kind: CronJob)",
        ),
        ("a: [", "expected"),
        ("apiVersion: batch/v1\nkind: CronJob\nkind: CronJob\n", "given twice"),
    ],
)
def test_files_without_a_cronjob_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    code, out, err = run(capsys, ["convert", "-f", tmp_path / "a.yaml"])
    assert code == 2
    assert out == ""
    assert words in err


@pytest.mark.parametrize("arguments", [["convert"], ["convert", "a", "--all"], ["convert", "-f", "/does/not/exist"]])
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
