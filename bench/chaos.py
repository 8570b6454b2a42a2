"""``python -m bench.chaos --minutes 60``: three replicas and Postgres, broken again and again, and what became of it.

Every few seconds one fault strikes: replicas are killed, suspended, restarted and cut off; links are slow; the database
is suspended, killed, runs out of disk, or fails over to its standby; a client stands still in a transaction. Meanwhile
schedules of four kinds run, and a client schedules one-shots. In the end every accepted run must have run or be
counted, and no two attempts of a schedule may have been alive at once, unless their replica was suspended: nobody can
stop a Python job in a suspended process. A shell job must not outlive its lease even then.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from bench.chaos_replica import BEATING, LEASE
from bench.chaos_servers import Link, Server
from scheduledjob import Scheduler
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.store import SlugTaken, StoreError
from scheduledjob.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REPLICAS = 3
TICKS, LONGS, BEATS = 60, 20, 12
ONE_SHOTS_A_SECOND = 4.0
SETTLING = 90.0
"""Seconds without faults at the end, in which everything that is due must have run."""


@dataclass
class Replica:
    """One place for a replica; each process in it has a name of its own."""

    number: int
    link: Link
    process: subprocess.Popen[bytes] | None = None
    names: list[str] = field(default_factory=list)
    suspended: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """By the name of the process: from when to when it was suspended (seconds since 1970)."""


class Chaos:
    """The programs, the faults and the log of one run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.log = folder / "log"
        self.output = folder / "output"
        self.rng = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.replicas: list[Replica] = []
        self.primary = Server()
        self.standby: Server | None = None
        self.client_link = Link()
        self.accepted: dict[str, float] = {}
        """One-shots that the client was told are scheduled, and their due times (seconds since 1970)."""
        self.refused = 0

    # ---------------------------------------------------------------- programs

    @property
    def links(self) -> list[Link]:
        return [self.client_link, *(replica.link for replica in self.replicas)]

    def url_of(self, link: Link) -> str:
        return self.primary.dsn.replace(f":{self.primary.port}/", f":{link.port}/")

    def start(self, replica: Replica) -> None:
        name = f"r{replica.number}-{len(replica.names)}"
        replica.names.append(name)
        command = [sys.executable, "-m", "bench.chaos_replica", self.url_of(replica.link), str(self.log), name]
        with self.output.open("ab") as output:
            replica.process = subprocess.Popen(command, stdout=output, stderr=output)

    def end(self, replica: Replica, number: signal.Signals) -> None:
        if replica.process is not None:
            replica.process.send_signal(number)

    async def gone(self, replica: Replica) -> None:
        if replica.process is not None:
            await asyncio.to_thread(replica.process.wait)
            replica.process = None

    async def set_up(self) -> None:
        await asyncio.to_thread(self.primary.__enter__)
        self.standby = await self.new_standby()
        for link in [self.client_link, *(Link() for _ in range(REPLICAS))]:
            link.target = self.primary.port
            await link.open()
            if link is not self.client_link:
                self.replicas.append(Replica(len(self.replicas), link))
        rows: list[dict[str, object]] = [{"slug": f"tick-{n}", "kind": "tick"} for n in range(TICKS)]
        rows += [{"slug": f"long-{n}", "kind": "long"} for n in range(LONGS)]
        rows += [{"slug": f"beat-{n}", "kind": "beating", "payload": BEATING.encode()} for n in range(BEATS)]
        async with Scheduler(self.primary.dsn, execute=False) as client:
            now = datetime.now(UTC)
            await client.schedule_many([row | {"at": now + timedelta(seconds=5)} for row in rows])
        for replica in self.replicas:
            self.start(replica)

    async def new_standby(self) -> Server:
        standby = Server(of=self.primary)
        await asyncio.to_thread(standby.__enter__)
        await self.primary.wait_for_standby()
        return standby

    async def tear_down(self) -> None:
        for replica in self.replicas:
            self.end(replica, signal.SIGCONT)
            self.end(replica, signal.SIGKILL)
            await self.gone(replica)
        for link in self.links:
            await link.close()
        for server in (self.standby, self.primary):
            if server is not None:
                await asyncio.to_thread(server.close)

    # ---------------------------------------------------------------- load

    async def schedule_one_shots(self) -> None:
        """Schedule one-shots until cancelled. One whose answer was lost is scheduled again until it is known."""
        async with Scheduler(self.url_of(self.client_link), execute=False) as client:
            number = 0
            while True:
                await asyncio.sleep(self.rng.expovariate(ONE_SHOTS_A_SECOND))
                number += 1
                slug, due = f"once-{number}", time.time() + self.rng.uniform(0.0, 20.0)
                while True:
                    try:
                        await client.schedule(slug, "once", at=datetime.fromtimestamp(due, UTC))
                    except SlugTaken:
                        pass  # the answer to an earlier request was lost
                    except StoreError:
                        self.refused += 1
                        await asyncio.sleep(0.5)
                        continue
                    self.accepted[slug] = due
                    break

    # ---------------------------------------------------------------- faults

    async def kill(self, replica: Replica) -> None:
        self.end(replica, signal.SIGKILL)
        await self.gone(replica)
        await asyncio.sleep(self.rng.uniform(0.0, 15.0))
        self.start(replica)

    async def restart(self, replica: Replica) -> None:
        self.end(replica, signal.SIGTERM)
        await self.gone(replica)
        self.start(replica)

    async def suspend(self, replica: Replica) -> None:
        began = time.time()
        self.end(replica, signal.SIGSTOP)
        await asyncio.sleep(self.rng.choice([2.0, LEASE, 3 * LEASE]) * self.rng.uniform(0.5, 1.5))
        self.end(replica, signal.SIGCONT)
        replica.suspended[replica.names[-1]].append((began, time.time()))

    async def cut_off(self, replica: Replica) -> None:
        replica.link.speaks.clear()
        await asyncio.sleep(self.rng.uniform(3.0, 25.0))
        replica.link.speaks.set()

    async def break_connections(self, replica: Replica) -> None:
        replica.link.cut()

    async def slow_down(self, replica: Replica) -> None:
        replica.link.rate = self.rng.uniform(10e3, 60e3)
        await asyncio.sleep(self.rng.uniform(10.0, 30.0))
        replica.link.rate = float("inf")

    async def suspend_database(self) -> None:
        with self.primary.pause():
            await asyncio.sleep(self.rng.uniform(1.0, 15.0))

    async def kill_database(self) -> None:
        await asyncio.to_thread(self.primary.kill)
        await asyncio.sleep(self.rng.uniform(0.0, 8.0))
        await asyncio.to_thread(self.primary.start)

    async def fill_disk(self) -> None:
        if not self.primary.mounted:
            return
        await asyncio.to_thread(self.primary.fill_disk)
        await asyncio.sleep(self.rng.uniform(5.0, 15.0))
        self.primary.free_disk()
        with suppress(Exception):  # it has ended by itself if it could not write its log, and is started below
            await self.primary.execute("SELECT 1")
            return
        with suppress(Exception):
            await asyncio.to_thread(self.primary.kill)
        await asyncio.to_thread(self.primary.start)

    async def fail_over(self) -> None:
        """The primary is lost with its disk, and its standby takes over."""
        standby, lost = self.standby, self.primary
        assert standby is not None
        await asyncio.to_thread(lost.kill)
        await asyncio.sleep(self.rng.uniform(1.0, 5.0))
        await standby.promote()
        self.primary, self.standby = standby, None
        for link in self.links:
            link.target = standby.port
            link.cut()
        await asyncio.to_thread(lost.close)
        self.standby = await self.new_standby()

    async def stand_still(self) -> None:
        """A client locks rows, and does nothing for a while."""
        with suppress(OSError, asyncpg.PostgresError, TimeoutError):
            connection = await asyncpg.connect(self.primary.dsn, timeout=5)
            try:
                async with connection.transaction():
                    await connection.fetch("SELECT 1 FROM scheduledjob.schedule ORDER BY random() LIMIT 20 FOR UPDATE")
                    await asyncio.sleep(self.rng.uniform(1.0, LEASE / 2))
            finally:
                connection.terminate()

    async def strike(self, until: float) -> None:
        """Strike with one fault after the other, sometimes two at once, until that second of the loop's clock."""
        of_replica: list[Callable[[Replica], Awaitable[None]]] = [
            self.kill, self.restart, self.suspend, self.cut_off, self.break_connections, self.slow_down,
        ]  # fmt: skip
        of_database: list[Callable[[], Awaitable[None]]] = [
            self.suspend_database, self.kill_database, self.fill_disk, self.fail_over, self.stand_still,
        ]  # fmt: skip
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await asyncio.sleep(self.rng.uniform(1.0, 10.0))
            async with asyncio.TaskGroup() as at_once:
                for replica in self.rng.sample(self.replicas, self.rng.choice([0, 1, 1, 1, 2])):
                    fault = self.rng.choice(of_replica)
                    self.faults[fault.__name__] += 1
                    at_once.create_task(_run(fault(replica)))
                if self.rng.random() < 0.4:
                    outage = self.rng.choice(of_database)
                    self.faults[outage.__name__] += 1
                    at_once.create_task(_run(outage()))


async def _run(fault: Awaitable[None]) -> None:
    await fault


# ---------------------------------------------------------------- what became of it


@dataclass
class Life:
    """One attempt, from its first line in the log to its last."""

    slug: str
    slot: str
    attempt: int
    replica: str
    first: float
    last: float
    ended: bool = False


def lives_of(log: Path) -> tuple[list[Life], Counter[str], list[float]]:
    """Return the attempts, how often each other line was written, and how late the attempts started (seconds)."""
    lives: dict[tuple[str, str, int, str], Life] = {}
    others: Counter[str] = Counter()
    late: list[float] = []
    for line in log.read_text().splitlines():
        what, replica, slug, slot, attempt, at = line.split()
        if what == "late":
            late.append(int(slot) / SECOND)
        elif what in {"start", "beat", "end"}:
            key, now = (slug, slot, int(attempt), replica), int(at) / SECOND
            life = lives.setdefault(key, Life(slug, slot, int(attempt), replica, now, now))
            life.last = max(life.last, now)
            life.ended |= what == "end"
        else:
            others[what] += 1
    return list(lives.values()), others, late


def overlaps(lives: list[Life], suspended: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Return each pair of attempts of one schedule that were alive at once, beyond the promise."""
    found = []
    by_slug: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        by_slug[life.slug].append(life)
    for slug, mine in by_slug.items():
        mine.sort(key=lambda life: life.first)
        for earlier, later in itertools.pairwise(mine):
            if later.first >= earlier.last:
                continue
            excused = not slug.startswith("beat") and any(
                begun < earlier.last and later.first < ended + 2 * LEASE for begun, ended in suspended[earlier.replica]
            )
            if not excused:
                found.append(f"{slug}: {earlier} and {later}")
    return found


async def uncounted(dsn: str) -> list[str]:
    """Return the recurring schedules whose slots are not all counted."""
    store = open_store(dsn)
    await store.connect()
    wrong = []
    try:
        for row in await store.rows(limit=1000):
            if row.kind not in {"tick", "long", "beating"}:
                continue
            state = State.decode(row.state)
            interval = {"tick": 1, "long": 10, "beating": 15}[row.kind] * SECOND
            first = row.created_at  # the first slot was named, the others are multiples of the interval since creation
            slots = (state.decided_until - first) // interval
            counted = state.succeeded + state.failed + state.cancelled + state.skipped + state.missed
            counted += len(state.runs) + len(state.waiting)
            if not slots - 6 <= counted <= slots + 2:  # the first slots lie before the one that was named
                wrong.append(f"{row.slug}: {counted} of {slots} slots are accounted for")
    finally:
        await store.close()
    return wrong


async def run(minutes: float, seed: int, folder: Path) -> int:
    chaos = Chaos(folder, seed)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(chaos.tear_down)
        await chaos.set_up()
        load = asyncio.create_task(chaos.schedule_one_shots())
        try:
            await chaos.strike(loop.time() + minutes * 60)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        await asyncio.sleep(SETTLING)
        not_counted = await uncounted(chaos.primary.dsn)
        lives, others, late = lives_of(chaos.log)
    suspended = {name: times for replica in chaos.replicas for name, times in replica.suspended.items()}
    started = {life.slug for life in lives}
    lost = sorted(slug for slug in chaos.accepted if slug not in started)
    at_once = overlaps(lives, defaultdict(list, suspended))
    early = [f"{life}" for life in lives if life.slot != "-" and _slot_of(life) > life.first + 0.002]
    late.sort()
    print(f"{minutes:g} minutes, seed {seed}: {len(lives)} attempts, {len(chaos.accepted)} one-shots accepted")
    print("faults:", ", ".join(f"{name} {count}" for name, count in sorted(chaos.faults.items())))
    print(
        f"rows lost to another replica: {others['fenced']}; requests of the client without an answer: {chaos.refused}"
    )
    if late:
        print(f"lateness: p50 {late[len(late) // 2] * 1e3:.1f} ms, p99 {late[len(late) * 99 // 100]:.1f} s")
    wrong = 0
    for what, found in (
        ("lost", lost),
        ("overlapping beyond the promise", at_once),
        ("early", early),
        ("not counted", not_counted),
    ):
        print(f"{what}: {len(found)}", *found[:10], sep="\n  " if found else "")
        wrong += len(found)
    return 1 if wrong else 0


def _slot_of(life: Life) -> float:
    try:
        return float(life.slot)
    except ValueError:  # RFC 3339, as shell jobs have it
        return datetime.fromisoformat(life.slot).timestamp()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--keep", type=Path, help="a folder for the logs; by default they are removed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scheduledjob-chaos-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(run(given.minutes, given.seed, folder))


if __name__ == "__main__":
    sys.exit(main())
