"""Debian's PgBouncer in transaction mode in front of a test's Postgres, if it is installed.

In that mode each transaction may run on another server connection, which breaks prepared statements, session settings,
advisory locks and LISTEN. Connections are assigned in turn, so that code that depends on its session fails soon. This
module does not import pytest.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tests.support.processes import (
    ServerProcess,
    ServerUnavailableError,
    accepts_connections,
    free_port,
    give,
    private_directory,
    remove,
    unprivileged_account,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW_TO_GET = "install Debian's `pgbouncer`"
_SETTINGS = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
server_round_robin = 1
"""


class PgBouncer:
    """A running PgBouncer."""

    def __init__(self, port: int) -> None:
        self._port = port

    def through(self, dsn: str) -> str:
        """Return the DSN of the same database and user through PgBouncer."""
        parts = urlsplit(dsn)
        credentials, _, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}@127.0.0.1:{self._port}").geturl()


@contextmanager
def pgbouncer_before(dsn: str) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the server of `dsn`, for its user. Raises ServerUnavailableError if none is installed."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise ServerUnavailableError(f"no PgBouncer found: {HOW_TO_GET}")
    server = urlsplit(dsn)
    port = free_port()
    account = unprivileged_account()
    directory = private_directory("scheduledjob-pgbouncer-")
    try:
        users = directory / "users.txt"
        users.write_text(
            f"{_quoted(unquote(server.username or 'postgres'))} {_quoted(unquote(server.password or ''))}\n"
        )
        settings = directory / "pgbouncer.ini"
        host, server_port = server.hostname or "127.0.0.1", server.port or 5432
        settings.write_text(_SETTINGS.format(host=host, server_port=server_port, port=port, users=users))
        give(directory)
        process = ServerProcess([program, settings], account, directory)
        try:
            process.wait_until(lambda: accepts_connections(port))
            yield PgBouncer(port)
        finally:
            process.end()
    finally:
        remove(directory)


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'
