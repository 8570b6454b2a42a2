"""What is asked of ScheduledJobs by the plugin, and carried out by an operator."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from aiohttp import web

from tests.cluster.e2e.operators import (
    PATIENCE,
    OperatorProcess,
    annotate,
    change,
    curl,
    is_so,
    manifest,
    read,
    recent,
    status_of,
    until,
)
from tests.cluster.harness import SCHEDULED_JOBS
from tests.cluster.kubectl.support import end
from tests.cluster.line import Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster
    from tests.cluster.kubectl.support import Plugin

pytestmark = pytest.mark.cluster

NEVER = 'at: "2099-01-01T00:00:00Z"'


@pytest.fixture
async def operator(kubeconfig: Path, namespace: str) -> AsyncIterator[OperatorProcess]:
    flags = [f"--namespaces={namespace}", "--store=memory:", "--inline-http-allow=127.0.0.1", "--sweep-interval=5s"]
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        yield operator


def failing(_: object) -> web.Response:
    return web.Response(status=500, text="this is why")


def annotations_of(body: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = body["metadata"].get("annotations") or {}
    return found


async def test_trigger_with_and_without_waiting(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("job", NEVER, curl(sink.url), "  retry: {maxRetries: 0}"), "-n", namespace)
    done = await plugin("trigger", "job", "--wait", "--payload", "by hand")
    assert (done.code, done.out) == (0, "")
    assert "Succeeded" in done.err.splitlines()[-1]
    assert sink.calls[0].body == b"by hand"
    # The next one has no payload of its own, and so not the last one's.
    done = await plugin("trigger", "job")
    assert done.code == 0
    assert done.out.startswith("scheduledjob.scheduledjobs.dev/job triggered: ")
    await sink.reached(lambda calls: len(calls) == 2)
    assert sink.calls[1].body == b""
    body = await until(api, namespace, "job", lambda body: len(recent(body)) == 2)
    managers = {one["manager"]: one for one in body["metadata"]["managedFields"]}
    assert "f:scheduledjobs.dev/run-now" in json.dumps(managers["kubectl-scheduledjob"])
    shown = await plugin.on_a_terminal("trigger", "job", "--wait")
    assert shown.code == 0
    assert "\x1b[32mSucceeded" in shown.out
    assert "\r\x1b[K" in shown.out


async def test_a_triggered_run_that_fails(
    sjobs: Cluster, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    sink.answer = failing
    await sjobs.apply(manifest("job", NEVER, curl(sink.url), "  retry: {maxRetries: 0}"), "-n", namespace)
    done = await plugin("trigger", "job", "-w")
    assert done.code == 3
    assert "this is why" in done.out
    assert "Failed" in done.err.splitlines()[-1]
    assert "500" in done.err.splitlines()[-1]
    read = json.loads((await plugin("trigger", "job", "-w", "-o", "json")).out)
    assert read["outcome"] == "Failed"
    assert (await plugin("logs", "job")).out.strip().endswith("this is why")
    slot = (await plugin("history", "job", "--limit", "1")).out.splitlines()[1].split()[0]
    assert "this is why" in (await plugin("logs", "job", "--run", slot)).out  # as the table has it, to the second
    table = (await plugin.on_a_terminal("history", "job")).out
    assert "(manual)" in table
    assert "\x1b[31mFailed" in table


async def test_no_operator_takes_it_in_time(sjobs: Cluster, plugin: Plugin, namespace: str, sink: Sink) -> None:
    await sjobs.apply(manifest("job", NEVER, curl(sink.url)), "-n", namespace)
    done = await plugin("trigger", "job", "--wait", "--timeout", "1.5")
    assert done.code == 4
    assert "waits for an operator; none has seen this ScheduledJob yet" in done.err
    assert "has not ended within 1.5s; it continues" in done.err
    shown = await plugin.on_a_terminal("trigger", "job", "--wait", "--timeout", "1.5")
    assert shown.code == 4


async def test_the_object_goes_while_its_run_is_waited_for(
    sjobs: Cluster, api: ApiClient, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("job", NEVER, curl(sink.url)), "-n", namespace)
    process = await plugin.start("trigger", "job", "--wait")
    try:
        await until(api, namespace, "job", lambda body: "scheduledjobs.dev/run-now" in annotations_of(body))
        await api.delete(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/job")
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
    finally:
        await end(process)
    assert process.returncode == 1
    assert b"error: job was deleted" in err


async def test_suspend_and_resume(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("job", "every: 1h", curl(sink.url)), "-n", namespace)
    assert (await plugin("suspend", "job")).out == "scheduledjob.scheduledjobs.dev/job suspended\n"
    await until(api, namespace, "job", is_so("Suspended", "True", "Suspended"))
    assert "suspended" in (await plugin("list")).out
    assert (await plugin.on_a_terminal("suspend", "job")).plain == (
        "scheduledjob.scheduledjobs.dev/job is already suspended\n"
    )
    # Manual runs work.
    assert (await plugin("trigger", "job", "--wait")).code == 0
    assert (await plugin("resume", "job", "-o", "name")).out == "scheduledjob.scheduledjobs.dev/job\n"
    body = await until(api, namespace, "job", is_so("Suspended", "False"))
    assert "suspend" not in body["spec"]
    assert (await plugin.on_a_terminal("resume", "job")).plain.endswith("is neither suspended nor paused\n")


async def test_resume_after_a_pause(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    sink.answer = failing
    more = "  retry: {maxRetries: 0}\n  pauseAfterFailures: 1"
    await sjobs.apply(manifest("job", "every: 1h", curl(sink.url), more), "-n", namespace)
    assert (await plugin("trigger", "job", "--wait")).code == 3
    await until(api, namespace, "job", is_so("Suspended", "True", "AutoPaused"))
    assert "paused" in (await plugin("list")).out
    assert (await plugin("resume", "job")).out.endswith(" resumed\n")
    body = await until(api, namespace, "job", is_so("Suspended", "False"))
    assert annotations_of(body)["scheduledjobs.dev/resume"] in status_of(body)["handled"]["resume"]
    assert body["metadata"]["generation"] == 1


async def test_cancel(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    more = "  concurrencyPolicy: Allow\n  retry: {maxRetries: 0}"
    await sjobs.apply(manifest("job", NEVER, curl(sink.url), more), "-n", namespace)
    nothing = await plugin("cancel", "job")
    assert (nothing.code, nothing.err) == (1, "error: job has no active run\n")
    await annotate(api, namespace, "job", run_now="one")
    await until(api, namespace, "job", lambda body: status_of(body).get("activeCount") == 1)
    unknown = await plugin("cancel", "job", "two")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "error: job has no active run two (active: one)\n"
    assert "scheduledjobs.dev/cancel" not in annotations_of(await read(api, namespace, "job"))
    waiting = await plugin.start("trigger", "job", "--wait")
    try:
        body = await until(api, namespace, "job", lambda body: status_of(body).get("activeCount") == 2)
        several = await plugin("cancel", "job")
        assert several.code == 2
        assert "job has 2 active runs: name one of them: one, " in several.err
        second = next(run["token"] for run in status_of(body)["active"] if run["token"] != "one")
        done = await plugin("cancel", "job", second)
        assert done.out == f"scheduledjob.scheduledjobs.dev/job asked to cancel run {second}\n"
        async with asyncio.timeout(PATIENCE):
            _, err = await waiting.communicate()
    finally:
        await end(waiting)
    assert waiting.returncode == 3
    assert b"Cancelled" in err
    assert (await plugin.on_a_terminal("cancel", "job")).code == 0
    body = await until(api, namespace, "job", lambda body: len(recent(body)) == 2)
    assert {run["outcome"] for run in recent(body)} == {"Cancelled"}
    ended = await plugin("cancel", "job", "one")
    assert (ended.code, ended.err) == (1, "error: run one of job has ended: Cancelled\n")
    assert (await plugin("cancel", "job", "two")).err == "error: job has no active run two (it has no active runs)\n"


async def test_a_run_that_waits_can_be_cancelled(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    """Status does not show it as active, and nothing else says that it is there."""
    sink.gate.clear()
    more = "  concurrencyPolicy: Queue\n  queueDepth: 2\n  retry: {maxRetries: 0}\n  timeouts: {attempt: 10m}"
    await sjobs.apply(manifest("job", NEVER, curl(sink.url), more), "-n", namespace)
    for token in ("one", "two", "three"):
        await annotate(api, namespace, "job", run_now=token)
        await until(api, namespace, "job", lambda body, token=token: token in str(status_of(body).get("handled")))  # type: ignore[misc]  # a default binds it
    for token in ("two", "three"):
        done = await plugin("cancel", "job", token)
        assert (done.code, done.err) == (
            0,
            f"status does not show {token} as active; the cancellation is requested anyway\n",
        ), status_of(await read(api, namespace, "job"))
        body = await until(api, namespace, "job", lambda body, token=token: token in str(recent(body)))  # type: ignore[misc]  # a default binds it
    assert [(run["token"], run["outcome"]) for run in recent(body)] == [("three", "Cancelled"), ("two", "Cancelled")]


async def test_a_run_that_may_not_begin(
    sjobs: Cluster, api: ApiClient, operator: OperatorProcess, plugin: Plugin, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    await sjobs.apply(manifest("job", NEVER, curl(sink.url)), "-n", namespace)
    await annotate(api, namespace, "job", run_now="one")
    await until(api, namespace, "job", lambda body: status_of(body).get("activeCount") == 1)
    done = await plugin("trigger", "job", "--wait")
    assert done.code == 3
    assert "SkippedOverlap" in done.err
    assert "concurrencyPolicy is Forbid" in done.err


async def test_waiting_outlives_an_outage_of_the_api_server(
    sjobs: Cluster,
    api: ApiClient,
    operator: OperatorProcess,
    plugin: Plugin,
    namespace: str,
    sink: Sink,
    tmp_path: Path,
) -> None:
    sink.gate.clear()
    await sjobs.apply(manifest("job", NEVER, curl(sink.url)), "-n", namespace)
    async with Line(sjobs, tmp_path, plugin.kubeconfig) as line:
        process = await plugin.start("trigger", "job", "--wait", KUBECONFIG=str(line.kubeconfig))
        try:
            await sink.reached(lambda calls: len(calls) == 1)
            line.cut()
            sink.gate.set()
            await until(api, namespace, "job", lambda body: len(recent(body)) == 1)
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE):
                while b"continues, but the API server can't be reached" not in await process.stderr.readline():
                    pass
                while line.refused < 12:  # noqa: ASYNC110  # nothing reports what the plugin tries
                    await asyncio.sleep(0.05)
                line.mend()
                _, err = await process.communicate()
        finally:
            await end(process)
    assert process.returncode == 0
    assert b"Succeeded" in err


async def test_the_store_has_it_all(
    sjobs: Cluster,
    api: ApiClient,
    kubeconfig: Path,
    plugin: Plugin,
    namespace: str,
    sink: Sink,
    postgres_dsn: str,
) -> None:
    """More runs than status has, and what those that succeeded printed."""
    sink.answer = lambda _: web.Response(text="this is\nthe answer")
    flags = [f"--namespaces={namespace}", f"--store={postgres_dsn}", "--inline-http-allow=127.0.0.1"]
    async with OperatorProcess(kubeconfig, namespace, *flags, "--instance=here"):
        more = "  concurrencyPolicy: Allow\n  history: {succeeded: 20}"
        await sjobs.apply(manifest("job", NEVER, curl(sink.url), more), "-n", namespace)
        for number in range(12):
            await annotate(api, namespace, "job", run_now=f"t{number}")
            token = f"t{number}"
            await until(api, namespace, "job", lambda body, token=token: token in str(recent(body)))  # type: ignore[misc]  # a default binds it
    store = ("--store", postgres_dsn, "--instance", "here")
    of_status = json.loads((await plugin("history", "job", "-o", "json")).out)
    kept = json.loads((await plugin("history", "job", *store, "-o", "json")).out)
    assert (len(of_status), len(kept)) == (10, 12)
    for shown, whole in zip(of_status, kept, strict=False):
        assert shown.items() <= whole.items()  # what both show has one name and one value
    assert {run["output"] for run in kept} == {"this is\nthe answer"}
    assert yaml.safe_load((await plugin("history", "job", *store, "-o", "yaml")).out) == kept
    assert (await plugin("history", "job", *store, "-o", "name")).out.split() == [run["runID"] for run in kept]
    shown = await plugin.on_a_terminal("history", "job", *store)
    assert shown.plain.count("Succeeded") == 12
    assert "\x1b[32mSucceeded" in shown.out
    ten = (await plugin("history", "job", "-o", "wide")).out.splitlines()
    wide = (await plugin("history", "job", *store, "-o", "wide", "--limit", "10")).out.splitlines()
    assert wide == ten
    assert wide[0].split() == ["SLOT", "STARTED", "TOOK", "ATTEMPT", "OUTCOME", "CODE", "WHERE", "RUN", "REASON"]

    done = await plugin("logs", "job", *store)
    assert (done.code, done.out) == (0, "this is\nthe answer\n")
    assert f"==> output, as kept in the store, of the run at {kept[0]['slot']}, Succeeded <==" in done.err
    assert (await plugin("logs", "job", *store, "--run", "t3", "--tail", "1")).out == "the answer\n"
    done = await plugin("logs", "job", *store, "--run", "t99")
    assert (done.code, done.out) == (1, "")
    assert done.err == 'error: the store has no such run of job for the instance "here"\n'
    done = await plugin("history", "job", "--store", postgres_dsn)
    assert (done.code, done.out, done.err) == (0, "", 'the store has no runs of job of the instance "local"\n')


async def test_interrupted(sjobs: Cluster, api: ApiClient, plugin: Plugin, namespace: str, sink: Sink) -> None:
    await sjobs.apply(manifest("job", NEVER, curl(sink.url)), "-n", namespace)
    process = await plugin.start("trigger", "job", "--wait")
    try:
        assert process.stderr is not None
        assert b"waits for an operator" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
    finally:
        await end(process)
    assert process.returncode == 130
    assert b"Traceback" not in err
    body = await read(api, namespace, "job")
    await change(api, namespace, "job", {"suspend": True})
    assert "scheduledjobs.dev/run-now" in annotations_of(body)
