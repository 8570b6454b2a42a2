"""`run` on a shared Postgres: several processes with the same manifests, restarts, and programs of the library."""

from __future__ import annotations

import json
import signal
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from scheduledjob import Scheduler
from scheduledjob.cli.scheduledjob.main import execute
from scheduledjob.engine.stored_row import Origin, Row
from scheduledjob.stores import open_store
from tests.cli.support import Running, job

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres


async def rows_of(dsn: str) -> dict[str, Row]:
    store = open_store(dsn, "local")
    await store.connect()
    try:
        return {row.slug: row for row in await store.rows()}
    finally:
        await store.close()


def test_two_processes_share_the_work_and_one_continues_alone(postgres_dsn: str, tmp_path: Path) -> None:
    # A busy machine may be late by a second, and miss a slot then.
    every_slot = "  misfire: {catchUp: All}\n  concurrencyPolicy: Allow\n"
    (tmp_path / "a.yaml").write_text("".join(job(f"job-{number}", more=every_slot) for number in range(8)))
    environment = {"SJOB_STORE": postgres_dsn}
    with (
        Running("run", "-f", tmp_path, environment=environment) as first,
        Running("run", "-f", tmp_path, environment=environment) as second,
    ):
        while len(first.runs) + len(second.runs) < 32:
            first.listen()
            second.listen()
        assert first.end(signal.SIGTERM) == 0
        stopped = datetime.now(UTC)
        alone: Counter[str] = Counter()
        while len(alone) < 8 or min(alone.values()) < 2:
            run = second.wait_for_run(lambda run: datetime.fromisoformat(run["slot"]) > stopped)
            alone[run["name"]] += 1
        assert second.end(signal.SIGTERM) == 0
    runs = first.runs + second.runs
    assert max(Counter((run["name"], run["slot"]) for run in runs).values()) == 1
    for number in range(8):
        slots = sorted(run["slot"] for run in runs if run["name"] == f"job-{number}")
        assert len(slots) >= 3
        assert seconds(slots[-1]) - seconds(slots[0]) == len(slots) - 1, "no slot between them is missing"
    assert "postgres" not in "".join(first.errors + second.errors)


def seconds(slot: str) -> int:
    return int(datetime.fromisoformat(slot).timestamp())


async def test_a_restart_repeats_nothing(postgres_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("once", "after: 1s"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn) as running:
        running.wait_for_run(lambda run: run["name"] == "once")
        assert running.end() == 0
    before = (await rows_of(postgres_dsn))["default/once"]
    (tmp_path / "b.yaml").write_text(job("sentinel"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn) as running:
        for _ in range(3):
            running.wait_for_run(lambda run: run["name"] == "sentinel")
        assert running.end() == 0
        assert not [run for run in running.runs if run["name"] == "once"]
    after = (await rows_of(postgres_dsn))["default/once"]
    assert (after.uid, after.created_at, after.revision) == (before.uid, before.created_at, before.revision)


async def test_prune_ends_only_schedules_that_no_file_has(postgres_dsn: str, tmp_path: Path) -> None:
    async with Scheduler(postgres_dsn, execute=False) as client:
        await client.schedule("of-a-program", "report", delay=3600.0)
    old, new, broken = (tmp_path / name for name in ("old.yaml", "new.yaml", "broken.yaml"))
    old.write_text(job("old"))
    new.write_text(job("new"))
    broken.write_text(job("broken"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn) as running:
        running.wait_for_run(lambda run: run["name"] == "new")
        assert running.end() == 0
    old.unlink()
    broken.write_text(job("broken", "every: -1s"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn) as running:
        running.wait_for_run(lambda run: run["name"] == "new")
        assert running.end() == 0
    assert set(await rows_of(postgres_dsn)) == {"default/old", "default/new", "default/broken", "of-a-program"}
    with Running("run", "-f", tmp_path, "--store", postgres_dsn, "--prune") as running:
        running.wait_for_run(lambda run: run["name"] == "new")
        assert running.end() == 0
    assert set(await rows_of(postgres_dsn)) == {"default/new", "default/broken", "of-a-program"}
    broken.write_text("{")
    new.unlink()
    (tmp_path / "more.yaml").write_text(job("more"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn, "--prune") as running:
        running.wait_for_error("--prune ends nothing")
        running.wait_for_run(lambda run: run["name"] == "more")
        assert running.end() == 0
    assert "default/new" in await rows_of(postgres_dsn)


async def test_schedules_of_the_library_are_not_changed(postgres_dsn: str, tmp_path: Path) -> None:
    async with Scheduler(postgres_dsn, execute=False) as client:
        await client.schedule("default/taken", "report", delay=3600.0)
        await client.schedule("a-command", "shell", payload=b"exit 1", delay=0.0)
    (tmp_path / "a.yaml").write_text(job("taken") + job("mine", what="shell: {command: 'true'}"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn, "--prune") as running:
        said = running.wait_for_error("scheduled by a program")
        assert said.startswith(f"{tmp_path / 'a.yaml'}:2: metadata.name: default/taken")
        for _ in range(2):
            running.wait_for_run(lambda run: run["name"] == "mine")
        assert running.end() == 0
    rows = await rows_of(postgres_dsn)
    assert rows["default/taken"].origin == Origin.LIBRARY.value
    assert rows["a-command"].version == 0, "nobody claimed it"
    assert rows["default/mine"].kind == "manifest.shell"


def test_history_and_migrate(postgres_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["migrate", "--store", postgres_dsn]) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert execute(["migrate", "--store", postgres_dsn, "--finish", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"done": []}
    (tmp_path / "a.yaml").write_text(job("one") + job("two", namespace="team-a"))
    with Running("run", "-f", tmp_path, "--store", postgres_dsn) as running:
        reported = running.wait_for_run(lambda run: run["name"] == "one")
        while "two" not in {run["name"] for run in running.runs}:
            running.wait_for_run(lambda run: run["name"] == "two")
        assert running.end() == 0

    def history(*arguments: str) -> list[dict[str, object]]:
        assert execute(["history", "--store", postgres_dsn, "-o", "json", *arguments]) == 0
        found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
        return found

    (kept,) = [run for run in history("one") if run["slot"] == reported["slot"]]
    assert reported.items() <= kept.items()  # what `run` printed is a part of what the store has
    assert kept.keys() - reported.keys() == {"runID", "replica", "output"}
    assert "default/one" in str(kept["output"])
    assert {run["name"] for run in history()} == {"one", "two"}
    assert {run["name"] for run in history("-n", "team-a")} == {"two"}
    assert {run["namespace"] for run in history("two", "-n", "team-a")} == {"team-a"}
    assert history("two") == []

    def answer(*arguments: str) -> str:
        assert execute(["history", "--store", postgres_dsn, *arguments]) == 0
        return capsys.readouterr().out

    elsewhere = "; there is a job of that name in team-a: add --namespace team-a\n"
    assert answer("two") == "no runs of 'two' in namespace 'default'" + elsewhere
    assert answer("default/two") == "no runs of 'two' in namespace 'default'" + elsewhere
    assert answer("two", "-n", "b") == "no runs of 'two' in namespace 'b'" + elsewhere
    assert answer("none") == "no runs of 'none' in namespace 'default', and no other namespace has a job of that name\n"
    assert answer("-n", "b") == "no runs in namespace 'b'\n"
    assert len(history("--limit", "1")) == 1
    assert history("--instance", "another") == []
    assert execute(["history", "one", "--store", postgres_dsn]) == 0
    assert capsys.readouterr().out.split()[:3] == ["NAMESPACE", "NAME", "SLOT"]


def test_the_password_of_a_store_is_never_printed(postgres_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("one"))
    wrong = "postgresql://somebody:geheimes-wort@127.0.0.1:9/nowhere"
    with Running("run", "-f", tmp_path, "--store", wrong, "--log-level", "debug") as running:
        assert running.end(None) == 1
        assert len(running.errors) == 1
        assert "127.0.0.1" in running.errors[0]
        assert "geheimes-wort" not in running.errors[0]


def test_shutdown_does_not_wait_for_an_unavailable_store(own_postgres: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("one"))
    with Running("run", "-f", tmp_path, "--store", own_postgres.dsn) as running:
        running.wait_for_run(lambda run: run["name"] == "one")
        with own_postgres.pause():
            running.send(signal.SIGTERM)
            running.wait_for_error("shutting down")
            assert running.end(None) == 0
