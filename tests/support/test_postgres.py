"""The Postgres harness: databases are separate, and a private server has every fault that fault tests need."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support import postgres, processes
from tests.support.postgres import PostgresDatabases, PostgresServer, any_postgres
from tests.support.processes import ServerUnavailableError, unprivileged_account

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).parents[2]


async def _fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_two_databases_are_isolated(postgres_server: PostgresDatabases, postgres_dsn: str) -> None:
    other = postgres_server.new_database()
    await _fetch(postgres_dsn, "CREATE TABLE mine AS SELECT 1 AS x")

    assert await _fetch(postgres_dsn, "SELECT x FROM mine") == 1
    assert await _fetch(other, "SELECT to_regclass('mine')") is None
    postgres_server.drop_database(other)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await _fetch(other, "SELECT 1")


async def test_a_database_is_dropped_under_an_open_connection(postgres_server: PostgresDatabases) -> None:
    dsn = postgres_server.new_database()
    connection = await asyncpg.connect(dsn)
    postgres_server.drop_database(dsn)
    with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
        await connection.fetchval("SELECT 1")
    await connection.close()


async def test_a_server_is_durable_unless_told_otherwise() -> None:
    with PostgresServer(settings={"shared_buffers": "16MB"}) as server:
        settings = [
            await _fetch(server.dsn, f"SELECT current_setting('{name}')")
            for name in ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        ]
    assert settings == ["on", "on", "on", "16MB"]


async def test_committed_rows_survive_a_kill_and_a_restart(own_postgres: PostgresServer) -> None:
    await _fetch(own_postgres.dsn, "CREATE TABLE kept AS SELECT 7 AS x")
    connection = await asyncpg.connect(own_postgres.dsn)
    own_postgres.kill()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await connection.fetchval("SELECT 1")
    await connection.close()

    own_postgres.start()
    assert await _fetch(own_postgres.dsn, "SELECT x FROM kept") == 7
    own_postgres.restart()
    assert await _fetch(own_postgres.dsn, "SELECT x FROM kept") == 7


async def test_a_stopped_server_refuses_connections(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    with pytest.raises(OSError, match="Connect"):
        await asyncpg.connect(own_postgres.dsn)
    with pytest.raises(RuntimeError, match=r"start\(\) first"):
        own_postgres.stop()


async def test_a_paused_server_answers_only_when_it_is_resumed(own_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(own_postgres.dsn)
    postmaster = psutil.Process(own_postgres.pid)
    with own_postgres.pause():
        assert {process.status() for process in (postmaster, *postmaster.children())} == {psutil.STATUS_STOPPED}
        answer = asyncio.create_task(connection.fetchval("SELECT 1"))
    assert await answer == 1
    await connection.close()


def test_a_server_and_its_data_are_removed_when_its_owner_is_killed() -> None:
    script = """
import sys
from tests.support.postgres import PostgresServer
with PostgresServer(durable=False) as server:
    print(server.pid, server.data.parent, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        postmaster = psutil.Process(int(pid))
        assert Path(directory).is_dir()
        owner.kill()
    postmaster.wait(timeout=processes.STOP_SECONDS)
    # The guard ends when it has removed the directory.
    for guard in psutil.process_iter(["cmdline"]):
        if directory in (guard.info["cmdline"] or []):
            psutil.wait_procs([guard], timeout=processes.STOP_SECONDS)
    assert not Path(directory).exists()


async def test_a_server_of_test_postgres_dsn_is_left_clean(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_POSTGRES_DSN", own_postgres.dsn)
    count = "SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%'"
    with any_postgres() as databases:
        dsn = databases.new_database()
        assert await _fetch(dsn, count) == 1
    assert await _fetch(own_postgres.dsn, count) == 0


def test_an_invalid_dsn_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_POSTGRES_DSN", "host=localhost")
    complaint = "must be a URL such as postgresql://.*not 'host=localhost'"
    with pytest.raises(ServerUnavailableError, match=complaint), any_postgres():
        pass


@pytest.fixture
def no_installed_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "DEBIAN", Path("/nonexistent"))
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("no_installed_postgres")
async def test_packaged_binaries_are_used_if_none_are_installed() -> None:
    with PostgresServer(durable=False) as server:
        assert "pginstall" in str(server.binaries)
        assert await _fetch(server.new_database(), "SELECT 1") == 1


@pytest.mark.usefixtures("no_installed_postgres")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_packaged_binaries_in_the_home_of_root_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_can_run", lambda account, folder: folder.is_relative_to(tmp_path))
    found = postgres.find_binaries(unprivileged_account(), tmp_path)
    assert found == tmp_path / "pginstall" / "bin"
    assert found.stat().st_uid == unprivileged_account().user


def test_a_server_that_cannot_start_shows_its_log() -> None:
    server = PostgresServer(durable=False, settings={"shared_buffers": "nonsense"})
    with pytest.raises(ServerUnavailableError, match="shared_buffers"), server:
        pass
    assert not server.data.exists()
