"""The `operator` command until it connects to the cluster: its options, its errors and its first log lines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import structlog

from scheduledjob.cli.scheduledjob.main import execute
from scheduledjob.kube.settings.operator_settings import OperatorSettings, every_setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

URL = "postgresql://me:hunter2@db/jobs"


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before
    structlog.reset_defaults()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


class Cluster:
    """Stands in for the cluster's package, and remembers the settings that it received."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[OperatorSettings] = []
        self.work: Callable[[], int] = lambda: 0
        module = ModuleType("scheduledjob.kube.operator")
        module.run_operator = self.run  # type: ignore[attr-defined]  # made here
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def run(self, settings: OperatorSettings) -> int:
        self.received.append(settings)
        return self.work()


def test_flags_of_every_form_reach_the_settings(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("plugins: true\nstatusBudget: 7\n", encoding="utf-8")
    code = execute(
        [
            "operator",
            f"--config={tmp_path}/settings",
            "--namespaces=team-a,team-b",
            *("--namespaces", "team-c"),
            "--no-plugins",
            "--accept-unconfined-shell",
            *("--lease", "30s"),
        ]
    )
    assert code == 0
    expected = OperatorSettings(
        namespaces=("team-a", "team-b", "team-c"), accept_unconfined_shell=True, lease=30.0, status_budget=7
    )
    assert cluster.received == [expected]


def test_the_exit_code_is_that_of_the_operator(cluster: Cluster) -> None:
    cluster.work = lambda: 3
    assert execute(["operator"]) == 3


def test_invalid_settings_are_reported_in_one_line(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SJOB_GRACE", "8")
    assert execute(["operator", "--lease", "1s"]) == 2
    assert capsys.readouterr().err == (
        "scheduledjob: SJOB_GRACE: '8' has no unit: write 8s for seconds, 8m for minutes; "
        '--lease: "1s" is too short: write 3s to 10m\n'
    )
    assert cluster.received == []


def test_an_unknown_flag_is_refused_with_a_suggestion(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["operator", "--pod-capasity", "3"]) == 2
    assert "--pod-capacity" in capsys.readouterr().err


def test_the_log_begins_with_the_settings_without_the_password(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SJOB_STORE", URL)

    def work() -> int:
        structlog.get_logger("engine").warning("can't reach", time="mine", url=URL, parts=["hunter2", {"a": "hunter2"}])
        logging.getLogger("kopf").error("refused by %s", URL)
        logging.getLogger("kopf").info("not of interest")
        raise OSError(f"no way to {URL}")

    cluster.work = work
    assert execute(["operator"]) == 1
    text = capsys.readouterr().err
    assert "hunter2" not in text
    settings, remark, ours, theirs, end = [json.loads(line) for line in text.splitlines()]
    assert settings["event"] == "settings"
    assert settings["store"] == "postgresql://db/jobs"
    assert set(settings) >= {setting.name for setting in every_setting()}
    assert "--pod-image" in remark["event"]
    assert (ours["logger"], ours["level"], ours["parts"]) == ("engine", "warning", ["***", {"a": "***"}])
    assert (theirs["logger"], theirs["level"]) == ("kopf", "error")
    assert theirs["event"] == "refused by postgresql://me:***@db/jobs"
    assert "OSError: no way to" in end["exception"]
    assert list(ours)[:4] == ["time", "level", "logger", "event"]
    assert all(line["time"].endswith("Z") for line in (settings, ours, theirs))


def test_the_log_for_people(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.work = lambda: structlog.get_logger().info("here I am", room=3) or 0
    assert execute(["operator", "--log-format=console", "--pod-image=a:1", "--store=postgresql://db/jobs"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith(" info: here I am room=3")
    cluster.work = lambda: structlog.get_logger().info("here I am", room=3) or 0
    assert execute(["operator", "--log-level=error"]) == 0
    assert capsys.readouterr().err == ""


def test_help_says_what_each_setting_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["operator", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for setting in every_setting():
        assert f" {setting.flag} " in words
        assert " ".join(setting.description.split()) in words


@pytest.mark.parametrize("command", ["next @daily", "operator --help"])
def test_modules_for_clusters_are_loaded_by_the_operator_only(command: str) -> None:
    heavy = (
        "{'kopf', 'kubernetes', 'aiohttp', 'prometheus_client', 'structlog', 'yaml', 'scheduledjob.kube.client.api'}"
    )
    program = (
        "import sys; from scheduledjob.cli.scheduledjob.main import execute; "
        f"execute({command.split()!r}); print('loaded:', *({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_library_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "scheduledjob.kube.operator":
                raise ModuleNotFoundError("No module named 'kopf'", name="kopf")

    monkeypatch.delitem(sys.modules, "scheduledjob.kube.operator", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Without, *sys.meta_path])
    assert execute(["operator", "--log-level=error"]) == 1
    message = 'the operator needs kopf, kubernetes and prometheus-client: pip install "scheduledjob[kube]"'
    assert capsys.readouterr().err == f"scheduledjob: {message}\n"
