"""Migrations of the schema. Each version has two numbered halves, and each half is applied once, in order.

``NNNN_pre_what.sql`` is the half that version NNNN needs and that older replicas can work with. Each start applies it,
and so does ``scheduledjob migrate``. ``NNNN_post_what.sql`` is the half that older replicas cannot work with. Only
``scheduledjob migrate --finish`` applies it, and refuses while such a replica is alive. A new database gets both halves
at once. A table lists the applied halves. A migration holds a transaction lock, so any number of replicas may start
together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import MINUTE
from scheduledjob.engine.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable

    from scheduledjob.stores.postgres.connections import Connection

_FILE = re.compile(r"(\d{4})_(pre|post)_(\w+)\.sql")

LOCK_LIMIT = 2.0
"""Seconds that a migration waits for a lock. After that it fails, and may be tried again."""

DEAD_AFTER = MINUTE
"""A replica counts as dead this long after it should have polled."""


@dataclass(frozen=True, order=True)
class Half:
    version: int
    post: bool
    """Whether older replicas cannot work with it."""
    name: str
    sql: str

    @property
    def description(self) -> str:
        return self.name.split("_", 2)[2].replace("_", " ")


def halves(folder: Traversable | None = None) -> list[Half]:
    """Return the halves in ``folder``, or the package's own, in the order in which they apply."""
    return sorted(
        Half(int(match[1]), match[2] == "post", file.name.removesuffix(".sql"), file.read_text("utf-8"))
        for file in (folder or files(__package__)).iterdir()
        if (match := _FILE.fullmatch(file.name))
    )


OWN = halves()
SCHEMA_VERSION = OWN[-1].version


async def needed(connection: Connection, wanted: Sequence[Half] = OWN) -> bool:
    """Return whether a pre half is missing. This takes no lock. Raises StoreError if the schema is too new."""
    return any(not half.post for half in _missing(wanted, await _applied(connection)))


async def migrate(connection: Connection, *, finish: bool = False, wanted: Sequence[Half] = OWN) -> list[str]:
    """Apply the pre halves, and with ``finish`` or to a new database the post halves too, in one transaction.

    Returns a description of each half that was applied. Raises StoreError if a post half is needed and a replica of an
    older version is alive. If others hold locks on the tables, asyncpg.LockNotAvailableError says so.
    """
    applied = []
    async with connection.transaction():
        # Without a limit for locks, every other statement would queue behind a migration that waits for a long report.
        await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {LOCK_LIMIT * 1000:.0f}")
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('scheduledjob.migrate', 0))")
        if await connection.fetchval("SELECT to_regnamespace('scheduledjob') IS NULL"):
            await connection.execute("CREATE SCHEMA scheduledjob")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS scheduledjob.migration "
            "(half text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        before = await _applied(connection)
        for half in _missing(wanted, before):
            if half.post and before:  # no older replica can know a database without a schema
                if not finish:
                    continue
                await _refuse_under_older_replicas(connection, half)
            await connection.execute(half.sql)
            await connection.execute("INSERT INTO scheduledjob.migration (half) VALUES ($1)", half.name)
            applied.append(f"version {half.version}, {'second' if half.post else 'first'} half: {half.description}")
    return applied


async def _applied(connection: Connection) -> set[str]:
    if await connection.fetchval("SELECT to_regclass('scheduledjob.migration') IS NULL"):
        return set()
    return {record[0] for record in await connection.fetch("SELECT half FROM scheduledjob.migration")}


def _missing(wanted: Sequence[Half], applied: set[str]) -> list[Half]:
    newest = max(half.version for half in wanted)
    for name in sorted(applied):
        match = _FILE.fullmatch(f"{name}.sql")
        if match and match[2] == "post" and int(match[1]) > newest:
            raise StoreError(
                f"the database was migrated for good to version {int(match[1])} of the schema, and this program "
                f"knows versions up to {newest}: run a newer scheduledjob"
            )
    return [half for half in wanted if half.name not in applied]


async def _refuse_under_older_replicas(connection: Connection, half: Half) -> None:
    older = await connection.fetch(
        """
        SELECT r.id, r.program_version, i.name FROM scheduledjob.replica AS r
        JOIN scheduledjob.installation AS i ON i.id = r.installation
        WHERE r.schema_version < $1 AND r.looks_at + $2 > scheduledjob.clock() ORDER BY i.name, r.id
        """,
        half.version,
        DEAD_AFTER,
    )
    if older:
        who = ", ".join(f"{name!r} (scheduledjob {version}, installation {where!r})" for name, version, where in older)
        raise StoreError(
            f"the second half of version {half.version} of the schema can't be applied while older replicas live: "
            f"{who}; upgrade or stop them, then run scheduledjob migrate --finish again"
        )
