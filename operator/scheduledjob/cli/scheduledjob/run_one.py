"""``run-one``: the runner, which a Pod of the operator's own image runs for a shell command, a request or a Python job.

``jobs/container`` puts the job and its references into the environment of the Pod; the runner writes the result into
the container's termination message. The executors are the same as for inline jobs, so the job behaves the same and
fails with the same messages. SIGTERM ends the job and all its children. The report contains the reason of every
failure, because the operator reads nothing else.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import uvloop

from scheduledjob.cli.shared.command_errors import CommandError
from scheduledjob.domain.time.instants import to_instant
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.built_in_kind import JobContext, ResultCode
from scheduledjob.jobs.container.runner_order import ORDER, REFERENCE, Order, encode_report, read_order
from scheduledjob.jobs.job_registry import make_executor, result_code_of
from scheduledjob.jobs.python.python_job import JobPluginError
from scheduledjob.jobs.reasons import of_exception, one_line
from scheduledjob.jobs.redaction import Redaction
from scheduledjob.jobs.shell.environment import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENDED = 128 + signal.SIGTERM


def run_ordered(message: Path, *, plugins: bool) -> int:
    """Run the job of the order in the environment, write the report to ``message`` and return the exit code.

    Raises ``CommandError`` if the environment has no order that can be read.
    """
    try:
        order = read_order(os.environ)
    except LookupError:
        raise CommandError(f"{ORDER} is not set: this command is for Pods that the operator makes", 2) from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CommandError(f"{ORDER} can't be read by this version: {error}", 2) from None
    references = _EnvironmentReferences(order)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(_sealed(order, references, plugins=plugins))
    _show(result)
    try:
        message.write_bytes(encode_report(result))
    except OSError as error:
        raise CommandError(f"the report can't be written to {message}: {error.strerror}") from None
    if result.ok:
        return 0
    is_exit_code = result_code_of(order.kind) is ResultCode.EXIT_CODE
    return result.code if is_exit_code and result.code is not None and 0 < result.code < 256 else 1


class _EnvironmentReferences:
    """``References`` whose values the kubelet has put into the environment."""

    def __init__(self, order: Order) -> None:
        self.redaction = Redaction()
        self._values: dict[tuple[str, str, str], bytes] = {}
        for index, reference in enumerate(order.references):
            value = os.environb.get(f"{REFERENCE}{index}".encode())
            if value is not None:
                self._values[reference] = value
                if reference[0] == "Secret":
                    self.redaction.remember(value)
        if order.payload_is_secret:
            self.redaction.remember(_payload(order) or b"")

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        """Return the value. Raises ``LookupError`` for an optional reference that does not exist."""
        value = self._values.get((kind, name, key))
        if value is None:
            raise LookupError(f'{kind} "{name.rpartition("/")[2]}" has no key "{key}", or is not there')
        return value


async def _sealed(order: Order, references: _EnvironmentReferences, *, plugins: bool) -> Result:
    return await references.redaction.seal(await _until_signalled(order, references, plugins=plugins))


async def _until_signalled(order: Order, references: _EnvironmentReferences, *, plugins: bool) -> Result:
    loop = asyncio.get_running_loop()
    job = loop.create_task(_run(order, references, plugins=plugins))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, job.cancel)
    try:
        return await job
    except asyncio.CancelledError:
        return Result(False, "ended by SIGTERM", ENDED)
    except Exception as error:
        return Result(False, of_exception(error))


async def _run(order: Order, references: _EnvironmentReferences, *, plugins: bool) -> Result:
    try:
        # The report contains the output of every job, so the text of print jobs would be there twice.
        context = JobContext(write=lambda line: None, plugins=plugins, cancel_grace=order.grace)
        executor, params = make_executor(order.kind, order.job, context)
    except (JobPluginError, ValueError, LookupError) as error:
        return Result(False, one_line(str(error.args[0])))
    attempt = _attempt(order, os.environ)
    attempt.params, attempt.references = params, references
    await executor.start()
    try:
        return await executor.run(attempt)
    finally:
        await executor.stop()


def _attempt(order: Order, environment: Mapping[str, str]) -> Attempt:
    variables = {
        name: environment.get(f"{PREFIX}{name}", "") for name in ("NAME", "NAMESPACE", "UID", "RUN_ID", "SLOT")
    }
    slot = to_instant(datetime.fromisoformat(variables["SLOT"])) if variables["SLOT"] else 0
    return Attempt(
        run_id=variables["RUN_ID"],
        uid=variables["UID"],
        namespace=variables["NAMESPACE"],
        name=variables["NAME"],
        slot=slot,
        attempt=int(environment.get(f"{PREFIX}ATTEMPT", "1")),
        version=int(environment.get(f"{PREFIX}VERSION", "0")),
        deadline=math.inf,  # only the end of the Pod ends the job
        timeout=order.timeout,
        payload=_payload(order),
        payload_is_secret=order.payload_is_secret,
    )


def _payload(order: Order) -> bytes | None:
    return order.payload if order.payload is not None else os.environb.get(f"{PREFIX}PAYLOAD".encode())


def _show(result: Result) -> None:
    """Print the output and the reason of a failure into the Pod's log."""
    output = sys.stdout.buffer
    output.write(result.output)
    if result.output and not result.output.endswith(b"\n"):
        output.write(b"\n")
    output.flush()
    if not result.ok:
        print(f"scheduledjob: {result.reason}", file=sys.stderr, flush=True)  # noqa: T201  # a command prints
