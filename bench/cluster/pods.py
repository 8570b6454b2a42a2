"""The lateness of Pods: a thousand in one second, and a single one; the CronJob controller for comparison.

There is no node, so Pods stay pending: the benchmark measures the time from the slot until a Pod is visible in the API.
A Pod counts when its event arrives at a watch in a separate process that does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

from bench.cluster.world import Use, at_rest, beyond_rest, rfc3339, settled, sleep_until, world
from bench.common import Options, Worker, median, spread
from bench.report import Row
from tests.cluster.harness import ApiClient

if TYPE_CHECKING:
    from pathlib import Path

    from bench.common import Line

JOBS = 1000
MINUTE = 60.0
BEFORE = 25.0
"""The minimum number of seconds between the creation of the last object and its first slot."""
CRON_JOBS = 200
CRON_JOB_SECONDS = 55.0
"""How long to wait for the Pods of one minute of the CronJob controller."""
REST = 10.0
"""How long the CPU usage at rest is measured."""
CONTAINER = {"image": "busybox", "command": ["true"]}

_OWNER = re.compile(rb'"ownerReferences":\[\{[^]]*?"name":"([^"]+)"')
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')

Arrival = tuple[str, float]
"""The owner's name, and when the event of the new Pod arrived, in Unix seconds."""


async def pod_watcher(line: Line, kubeconfig: Path, path: str) -> None:
    """Watch Pods, and answer each message with the new Pods since the last one."""
    events: list[tuple[float, bytes]] = []
    async with ApiClient(kubeconfig) as api, asyncio.TaskGroup() as group:
        version = (await api.get(path, limit=1))["metadata"]["resourceVersion"]
        watching = group.create_task(_watch(api, path, version, events))
        line.send()
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                await line.receive()
                found = [(_OWNER.search(event), at) for at, event in events if event.startswith(b'{"type":"ADDED"')]
                events.clear()
                line.send([(owner[1].decode(), at) for owner, at in found if owner is not None])
        watching.cancel()


async def _watch(api: ApiClient, path: str, version: str, events: list[tuple[float, bytes]]) -> None:
    """Watch Pods. If the API server ends the watch because of too many events, continue from the last event."""
    while True:
        event = b""
        async for event in api.watch_lines(path, resourceVersion=version, timeoutSeconds=7200):
            events.append((time.time(), event))
        if (last := _VERSION.search(event)) is not None:
            version = last[1].decode()


async def arrived(watcher: Worker) -> list[Arrival]:
    watcher.tell()
    found: list[Arrival] = await watcher.answer()
    return found


def minute_after(moment: float) -> float:
    return (moment // MINUTE + 1) * MINUTE


async def burst(options: Options) -> list[Row]:
    """A thousand container jobs that are due in the same second of three consecutive minutes."""
    minutes = 1 if options.quick else 3
    async with world() as some, some.operator() as process:
        names = [f"job-{n}" for n in range(JOBS)]
        first = minute_after(time.time() + BEFORE + (0.03 if options.quick else 0.08) * JOBS)  # 20 statuses a second
        spec = {
            "triggers": [{"cron": "0 * * * * ?"}],
            "startAt": rfc3339(first),
            "endAt": rfc3339(first + (minutes - 1) * MINUTE + 1),
            "concurrencyPolicy": "Allow",
            "job": {"container": CONTAINER},
        }
        await some.create(dict.fromkeys(names, spec))
        if not options.quick:
            await settled(process, JOBS)
        async with Worker(pod_watcher, some.cluster.kubeconfig, some.pods) as watcher:
            await watcher.answer()
            found = []
            if first < time.time() + REST + 3:
                raise RuntimeError(
                    f"the objects were ready {first - time.time():.0f} s before their first slot: too late"
                )
            await sleep_until(first - REST - 2)
            rest = await at_rest(some, process, REST)
            use, began = Use(some, process), time.time()
            for minute in range(minutes):
                slot = first + minute * MINUTE
                await sleep_until(slot + (20 if options.quick else 50))
                found.append([at - slot for owner, at in await arrived(watcher) if owner in set(names)])
            used = beyond_rest(use.used(), rest, time.time() - began)
    return [_judged(found, used, rest, minutes)]


def _judged(found: list[list[float]], used: dict[str, float], rest: dict[str, float], minutes: int) -> Row:
    count = sum(len(minute) for minute in found)
    late = [spread(minute) for minute in found if minute]
    p50, last = (max((minute[name] for minute in late), default=0.0) for name in ("p50", "max"))
    middle = {name: median([minute[name] for minute in late] or [0.0]) for name in ("p50", "max")}
    cpu = {name: round(1000 * seconds / max(count, 1), 2) for name, seconds in used.items()}
    return Row(
        f"{JOBS:,} ScheduledJobs, a Pod each, due in the same second, {minutes} times",
        "all Pods; p50 < 2 s, last < 4 s",
        f"{count:,} Pods; median p50 {middle['p50']:.2f}, last {middle['max']:.2f} s (worst {p50:.2f}, {last:.2f}); "
        f"CPU for each Pod {sum(cpu.values()):.1f} ms",
        count == minutes * JOBS and all(min(minute, default=0.0) >= 0 for minute in found) and p50 < 2 and last < 4,
        details={"seconds after the slot": late, "CPU ms for each Pod": cpu, "cores at rest": _rounded(rest)},
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


async def one(options: Options) -> list[Row]:
    """A single ScheduledJob with a Pod every three seconds, on an idle operator."""
    slots = 4 if options.quick else 20
    async with world() as some, some.operator() as process:
        async with Worker(pod_watcher, some.cluster.kubeconfig, some.pods) as watcher:
            await watcher.answer()
            first = float(int(time.time())) + 6
            spec = {
                "triggers": [{"every": "3s", "anchor": rfc3339(first)}],
                "endAt": rfc3339(first + 3 * slots - 2),
                "concurrencyPolicy": "Allow",
                "job": {"container": CONTAINER},
            }
            await some.create({"alone": spec})
            await sleep_until(first + 3 * slots)
            late = [(at - first) % 3 for _, at in await arrived(watcher) if at >= first]
        assert process.pid
    return [
        Row(
            "one ScheduledJob: its Pod seen after its slot",
            "median < 0.1 s",
            f"median {median(late):.3f}, max {max(late):.3f} s in {len(late)} slots",
            len(late) >= slots and median(late) < 0.1,
            details={"late s": [round(seconds, 4) for seconds in late]},
        )
    ]


async def cron_jobs(options: Options) -> list[Row]:
    """200 CronJobs in the CronJob controller with default flags, for comparison."""
    async with world() as some:
        path = f"/apis/batch/v1/namespaces/{some.namespace}/cronjobs"
        template = {
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "job", **CONTAINER}]}}}
        }
        spec = {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "jobTemplate": template}
        slot = minute_after(time.time() + BEFORE)
        async with Worker(pod_watcher, some.cluster.kubeconfig, some.pods) as watcher:
            await watcher.answer()
            await sleep_until(slot - 20)
            await some.create_all(path, (_cron_job(f"cron-{n}", spec) for n in range(CRON_JOBS)))
            await sleep_until(slot - REST - 2)
            rest = await at_rest(some, None, REST)
            use, began = Use(some), time.time()
            await sleep_until(slot + CRON_JOB_SECONDS)
            late = [at - slot for _, at in await arrived(watcher) if at >= slot]
            used = beyond_rest(use.used(), rest, time.time() - began)
    cpu = {name: round(1000 * each / max(len(late), 1), 2) for name, each in used.items() if name != "postgres"}
    figures = spread(late or [0.0])
    return [
        Row(
            f"for comparison: {CRON_JOBS} CronJobs due in the same minute, default flags",
            "-",
            f"{len(late)} Pods; p50 {figures['p50']:.1f}, last {figures['max']:.1f} s; "
            f"CPU for each Pod {sum(cpu.values()):.1f} ms",
            None,
            details={"seconds after the slot": figures, "CPU ms for each Pod": cpu, "cores at rest": _rounded(rest)},
        )
    ]


def _cron_job(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}
