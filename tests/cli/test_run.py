"""`run` as a process: what it writes, what it refuses, how jobs get their values, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

from tests.cli.support import PATIENCE, PROGRAM, Running, job, names

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = ["name", "namespace", "slot", "started", "finished", "attempt", "outcome", "reason"]
INVALID_FILES = Path(__file__).parent.parent / "manifests" / "invalid"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_run_is_a_line_of_json_until_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("first") + job("second", namespace="team-a"))
    with Running("run", "-f", tmp_path) as running:
        run = running.wait_for_run(lambda run: run["name"] == "first")
        assert list(run) == KEYS
        assert (run["namespace"], run["attempt"], run["outcome"], run["reason"]) == ("default", 1, "Succeeded", "")
        assert run["slot"].endswith("Z")
        slot, started, finished = (datetime.fromisoformat(run[key]) for key in ("slot", "started", "finished"))
        assert slot <= started <= finished
        assert started.tzinfo is not None
        second = running.wait_for_run(lambda run: run["name"] == "second")
        assert second["namespace"] == "team-a"
        assert running.end(number) == 0
        assert len([line for line in running.errors if "this is" not in line]) == 1, "that it ends"


def test_a_job_runs_when_the_one_that_it_follows_has_ended(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        job("last", "following: {name: middle}") + job("middle", "following: {name: first}")
    )
    (tmp_path / "b.yaml").write_text(job("first", "after: 0s"))
    with Running("run", "-f", tmp_path) as running:
        running.wait_for_run(lambda run: run["name"] == "last")
        assert running.end() == 0
    first, middle, last = running.runs
    assert [run["name"] for run in running.runs] == ["first", "middle", "last"]
    assert [middle["slot"], last["slot"]] == [first["finished"], middle["finished"]]


def test_output_of_print_jobs_is_not_mixed_with_the_json(tmp_path: Path) -> None:
    text = 'params: {text: "{\\"name\\": \\"forged\\"}"}'
    (tmp_path / "a.yaml").write_text(job("print", what=f"custom: {{kind: print, {text}}}"))
    with Running("run", "-f", tmp_path) as running:
        running.wait_for_run(lambda run: run["name"] == "print")
        running.wait_for_error("forged")
        assert running.end() == 0
    assert names(running.runs) == {"print"}


def test_the_last_line_of_a_failed_job_is_printed_to_standard_error(tmp_path: Path) -> None:
    shell = "shell: {command: 'echo first; echo boom >&2; echo; exit 3'}"
    (tmp_path / "a.yaml").write_text(job("fails", what=shell, more="  retry: {maxRetries: 0}\n"))
    with Running("run", "-f", tmp_path) as running:
        said = running.wait_for_error("default/fails failed: exit code 3: boom")
        assert running.end() == 0
    assert all(list(run) == KEYS for run in running.runs)
    assert said.split()[0] in {run["slot"] for run in running.runs}


@pytest.mark.parametrize("output", ["yaml", "table"])
def test_other_output_formats(output: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("shows"))
    process = subprocess.Popen(
        [PROGRAM, "run", "-f", tmp_path, "-o", output], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process:
        shown = ""
        for line in process.stdout:
            shown += line
            if shown.count("Succeeded") == 2 and (output == "table" or line.startswith("reason")):
                process.send_signal(signal.SIGINT)
                break
        shown += process.stdout.read()
    assert process.returncode == 0
    if output == "yaml":
        assert all(list(run) == KEYS for run in yaml.safe_load_all(shown))
    else:
        assert shown.split("\n")[0].split() == ["STARTED", "JOB", "OUTCOME", "TOOK", "ATTEMPT", "LATE", "REASON"]
        assert shown.split("\n")[1].split()[1:3] == ["shows", "Succeeded"]


def test_faults_are_reported_as_by_validate_and_other_jobs_run(tmp_path: Path) -> None:
    for name in ("cron-31-february.yaml", "bracket-open.yaml", "no-such-utf8.yaml", "every-fraction.yaml"):
        if (INVALID_FILES / name).exists():
            (tmp_path / name).write_bytes((INVALID_FILES / name).read_bytes())
    (tmp_path / "good.yaml").write_text(job("good"))
    said = subprocess.run(
        [PROGRAM, "validate", "-f", tmp_path], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert said.returncode == 2
    assert len(said.stdout.splitlines()) >= 2
    with Running("run", "-f", tmp_path) as running:
        running.wait_for_run(lambda run: run["name"] == "good")
        assert running.end() == 0
        assert running.errors[: len(said.stdout.splitlines())] == said.stdout.splitlines()


def test_jobs_that_can_not_run_here_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    other = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
    file.write_text(
        job("pod", what="container: {image: busybox}")
        + job("in-a-pod", what="shell: {command: date}", more="  execution: {mode: Pod}\n")
        + job("plugin", what="custom: {kind: report}")
        + other
        + job("good")
    )
    with Running("run", "-f", file) as running:
        running.wait_for_run(lambda run: run["name"] == "good")
        assert running.end() == 0
        said = [line for line in running.errors if line.startswith(str(file))]
    assert len(said) == 4
    assert "Deployment web is ignored" in said[0]
    assert "pod needs a Pod" in said[1]
    assert "in-a-pod needs a Pod" in said[2]
    assert 'there is no job "report"' in said[3]
    assert "--plugins" in said[3]
    assert names(running.runs) == {"good"}


def test_nothing_to_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("pod", what="container: {image: busybox}"))
    with Running("run", "-f", tmp_path) as running:
        assert running.end(None) == 2
        assert "needs a Pod" in running.errors[0]
        assert "nothing to run" in running.errors[1]
        assert len(running.errors) == 2


def test_references_are_resolved_from_the_files(tmp_path: Path) -> None:
    written = tmp_path / "written"
    shell = f"""shell:
      command: echo "$PASSWORD $REGION $(cat)" > {written}; echo "$PASSWORD" >&2; exit 3
      env:
        - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: database, key: password}}}}}}
        - {{name: REGION, valueFrom: {{configMapKeyRef: {{name: settings, key: region}}}}}}"""
    (tmp_path / "a.yaml").write_text(
        job("refers", what=shell, more="  payload: with-payload\n  retry: {maxRetries: 0}\n")
        + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: database}\nstringData: {password: correct-horse}\n"
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {region: eu-west}\n"
    )
    with Running("run", "-f", tmp_path) as running:
        run = running.wait_for_run(lambda run: run["name"] == "refers")
        assert (run["outcome"], run["reason"]) == ("Failed", "exit code 3")
        assert running.end() == 0
    assert written.read_text() == "correct-horse eu-west with-payload\n"
    assert "correct-horse" not in json.dumps(running.runs) + "".join(running.errors)


class _Hooks(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append((self.path, dict(self.headers), json.loads(body)))  # type: ignore[attr-defined]  # set where the server is made
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the test reads the recorded calls."""


@pytest.fixture
def hooks() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Hooks) as server:
        server.calls = []  # type: ignore[attr-defined]  # read by the handler and the tests
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_hooks_receive_the_run(hooks: HTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{hooks.server_port}"
    more = f"""  retry: {{maxRetries: 0}}
  onFailure: [{{curl: {{url: "{url}/failure", method: POST}}}}]
  onSuccess: [{{curl: {{url: "{url}/success", method: POST}}}}]
"""
    (tmp_path / "a.yaml").write_text(
        job("fails", what="shell: {command: exit 4}", more=more)
        + job("works", what="shell: {command: 'true'}", more=more)
    )
    with Running("run", "-f", tmp_path) as running:
        failed = running.wait_for_run(lambda run: run["name"] == "fails")
        while "works" not in names(running.runs):
            running.wait_for_run(lambda run: True)
        assert running.end() == 0
    calls = {path: (headers, body) for path, headers, body in reversed(hooks.calls)}  # type: ignore[attr-defined]  # see the fixture
    headers, body = calls["/failure"]
    assert body == failed
    assert headers["X-ScheduledJob-Name"] == "fails"
    assert headers["Idempotency-Key"].endswith("-failed")
    assert calls["/success"][1]["outcome"] == "Succeeded"


def test_a_job_that_does_not_stop_is_killed_with_the_program(tmp_path: Path) -> None:
    with _sleeping(tmp_path) as (running, process):
        assert running.end(signal.SIGTERM) == 0
        assert not process.is_running()


def test_a_second_sigterm_does_not_cut_jobs_short(tmp_path: Path) -> None:
    """Process managers and shells send it twice, to the process group and to the process."""
    begun, finish = tmp_path / "begun", tmp_path / "finish"
    os.mkfifo(begun)
    os.mkfifo(finish)
    (tmp_path / "a.yaml").write_text(
        job("waits", what=f"shell: {{command: 'echo begun > {begun}; read line < {finish}'}}")
    )
    with Running("run", "-f", tmp_path / "a.yaml") as running:
        assert begun.read_text() == "begun\n"
        running.send(signal.SIGTERM)
        running.wait_for_error("press Ctrl-C again to exit at once")
        running.send(signal.SIGTERM)
        finish.write_text("go on\n")
        assert running.wait_for_run(lambda run: True)["outcome"] == "Succeeded"
        assert running.end(None) == 0


def test_a_second_ctrl_c_exits_at_once(tmp_path: Path) -> None:
    with _sleeping(tmp_path) as (running, process):
        running.send(signal.SIGINT)
        running.wait_for_error("press Ctrl-C again to exit at once")
        assert running.end(signal.SIGINT) == 130
        assert psutil.wait_procs([process], timeout=PATIENCE)[1] == []


@contextmanager
def _sleeping(directory: Path) -> Iterator[tuple[Running, psutil.Process]]:
    """The program with a job that ignores SIGTERM, and the process of that job."""
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    command = f"trap '' TERM; echo $$ > {pipe}; while :; do sleep 1000; done"
    (directory / "a.yaml").write_text(job("sleeps", what=f'shell: {{command: "{command}"}}'))
    with Running("run", "-f", directory) as running:
        yield running, psutil.Process(int(pipe.read_text()))


def test_the_program_ends_when_its_reader_goes_away(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("one") + job("two"))
    process = subprocess.Popen([PROGRAM, "run", "-f", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_invalid_manifests_do_not_affect_valid_jobs(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(job("good-one", namespace="apart"))
    with Running("run", "-f", INVALID_FILES, "-f", tmp_path) as running:
        for _ in range(2):
            running.wait_for_run(lambda run: run["name"] == "good-one")
        assert running.end() == 0
        said = {line.removeprefix(f"{INVALID_FILES}/").split(":")[0] for line in running.errors}
    missing = {path.name for path in INVALID_FILES.iterdir() if path.suffix in {".yaml", ".yml", ".json"}} - said
    assert missing == set()


def plugin(directory: Path, target: str) -> dict[str, str]:
    """An installed distribution that announces the job `report`."""
    (directory / "reports.py").write_text(
        "async def report(task):\n"
        "    print(task.params['region'], flush=True, file=__import__('sys').stderr)\n"
        "    return None\n"
    )
    (information := directory / "reports-1.0.dist-info").mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: reports\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[scheduledjob.jobs]\nreport = {target}\n")
    return {"PYTHONPATH": str(directory)}


def test_jobs_of_installed_packages_run_with_plugins(tmp_path: Path) -> None:
    environment = plugin(tmp_path, "reports:report")
    file = tmp_path / "a.yaml"
    file.write_text(job("monthly", what="custom: {kind: report, params: {region: eu}}") + job("other"))
    with Running("run", "-f", file, "--plugins", environment=environment) as running:
        running.wait_for_run(lambda run: run["name"] == "monthly")
        for _ in range(3):
            running.wait_for_run(lambda run: run["name"] == "other")
        assert running.end() == 0
        assert "eu" in running.errors
        assert len([run for run in running.runs if run["name"] == "monthly"]) == 1, "None: done for good"
    with Running("run", "-f", file, environment=environment) as running:
        running.wait_for_error('there is no job "report"')


def test_a_broken_plugin_is_an_error_in_one_line(tmp_path: Path) -> None:
    environment = plugin(tmp_path, "reports:nothing")
    (tmp_path / "a.yaml").write_text(job("one"))
    with Running("run", "-f", tmp_path / "a.yaml", "--plugins", environment=environment) as running:
        assert running.end(None) == 1
        assert len(running.errors) == 1
        assert 'entry point "report" (reports:nothing) of reports 1.0' in running.errors[0]


def test_a_signal_ends_a_start_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("one"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/nowhere"
        with Running("run", "-f", tmp_path, "--store", url) as running:
            connection, _ = silent.accept()
            with connection:
                assert running.end(signal.SIGTERM) == 0
