"""Runs shell jobs: makes a request to the helper process of an attempt, and a result of the helper's answer.

The processes are children of the helper (see ``spawner``), so that they end with their lease even if this replica is
killed or stopped. A timeout sends TERM to the job's process group, then KILL after a grace period; a cancel does the
same with a shorter grace period; a lease that is about to end kills at once. In each case, and when the job just exits,
``run`` returns when no process of the job is alive: background processes are killed with it.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduledjob.engine.executor import Result
from scheduledjob.jobs import reasons
from scheduledjob.jobs.output import bytes_to_keep, condensed
from scheduledjob.jobs.redaction import Redaction, redacted
from scheduledjob.jobs.shell.shell_spec import ShellLimits, ShellSpec
from scheduledjob.jobs.shell.spawner.messages import Settings, Start
from scheduledjob.jobs.shell.spawner.processes import new_cells
from scheduledjob.jobs.values import Secrets, resolve

from . import environment
from .helper import Helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.executor import Attempt
    from scheduledjob.jobs.shell.spawner.messages import Ended

    from .confinement import Confinement

CONFINED_LIMITS = ShellLimits(processes=4096, file_bytes=1 << 30)
"""The default for confined jobs: keeps a job that goes wrong from bringing down the replica."""


@dataclass(slots=True)
class ShellExecutor:
    """The ``Executor`` of shell jobs. The params of its attempts are ``ShellSpec``."""

    limits: ShellLimits | None = None
    """None: ``CONFINED_LIMITS`` for confined jobs, ``ShellLimits()`` for others."""
    timeout_grace: float = 5.0
    """Seconds between TERM and KILL for a job that timed out."""
    cancel_grace: float = 1.0
    """Seconds between TERM and KILL for a job that is cancelled."""
    margin: float = 1.0
    """A job is killed this many seconds before its lease deadline; at most a quarter of what is left of the lease."""
    confined: Confinement | None = None
    """None: jobs may do what this process may. If jobs can't be confined on this machine, each attempt fails with
    ``Confinement.refusal`` as its reason."""
    _helper: Helper | None = field(default=None, init=False)
    _attempts: dict[str, Attempt] = field(default_factory=dict, init=False)
    """The running attempts by run id: ``extend`` moves their deadlines before the helper knows them."""
    _launching: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1), init=False)
    _inherited: dict[bytes, bytes] = field(init=False)
    _refusal: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.confined is None:
            self._inherited = environment.inherited()
        else:
            self._inherited = environment.confined()
            self._refusal = self.confined.refusal()

    async def start(self) -> None:
        """Start the helper process, unless jobs can't be confined. Raises ``HelperError`` if it does not start."""
        if not self._refusal:
            await self._living_helper()

    @redacted
    async def run(self, attempt: Attempt, redaction: Redaction) -> Result:
        """Run an attempt and wait for the end of its last process; see the ``Executor`` protocol."""
        self._attempts[attempt.run_id] = attempt
        try:
            return await self._run(attempt, redaction.secrets)
        finally:
            if self._attempts.get(attempt.run_id) is attempt:
                del self._attempts[attempt.run_id]

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Tell the helper that these leases were renewed; called from the lease thread."""
        for run_id in run_ids:
            attempt = self._attempts.get(run_id)
            if attempt is not None:
                attempt.deadline = max(attempt.deadline, deadline)
        helper = self._helper
        if helper is not None:
            helper.extend(run_ids, deadline)

    async def stop(self) -> None:
        """End the helper process."""
        if self._helper is not None:
            helper, self._helper = self._helper, None
            await helper.close()

    async def _run(self, attempt: Attempt, secrets: Secrets) -> Result:
        if self._refusal:
            return Result(ok=False, reason=self._refusal)
        try:
            start = await self._request(attempt, secrets)
        except LookupError as error:
            return Result(ok=False, reason=str(error.args[0] if error.args else error))
        except ValueError as error:
            return Result(ok=False, reason=str(error))
        helper = await self._living_helper()
        ended = await helper.run(attempt, start)
        if ended is None:
            reason = "the helper process that ran this job has died; the job was killed"
            return Result(ok=False, reason=reason, lost=True)
        return await _result(attempt, ended, secrets)

    async def _living_helper(self) -> Helper:
        if self._helper is not None and not self._helper.dead:
            return self._helper
        async with self._launching:
            if self._helper is not None:
                if not self._helper.dead:
                    return self._helper
                await self._helper.close()
            limits = self.limits or (ShellLimits() if self.confined is None else CONFINED_LIMITS)
            settings = Settings(limits.by_resource(), self.timeout_grace, self.cancel_grace, self.margin)
            if self.confined is not None:
                scratches, readable, with_landlock = self.confined.for_helper()
                settings = settings._replace(
                    scratches=scratches, readable=readable, landlock=with_landlock, cells=new_cells()
                )
            self._helper = await Helper.launch(settings)
            return self._helper

    async def _request(self, attempt: Attempt, secrets: Secrets) -> Start:
        spec = attempt.params
        assert isinstance(spec, ShellSpec)
        variables: dict[str, str] = {}
        for name, value in spec.env.items():
            text = await resolve(value, attempt.references, secrets)
            if text is not None:
                variables[name] = text
        shell = environment.as_string("shell", spec.shell)
        if not shell.startswith(b"/"):
            raise ValueError(f"shell: {spec.shell!r} is not an absolute path; write it like /bin/sh")
        directory = None if spec.working_dir is None else environment.as_string("workingDir", spec.working_dir)
        head, tail = bytes_to_keep(secrets)
        return Start(
            number=next(self._numbers),
            command=[shell, b"-c", environment.as_string("command", spec.command)],
            environment={
                **self._inherited,
                b"SHELL": shell,
                **environment.given(variables),
                **environment.of_attempt(attempt),
            },
            directory=directory,
            stdin=attempt.payload or b"",
            deadline=attempt.deadline,
            timeout=attempt.timeout,
            head=head,
            tail=tail,
        )


async def _result(attempt: Attempt, ended: Ended, secrets: Secrets) -> Result:
    output = await condensed(ended.head, ended.tail, ended.total, secrets)
    status = ended.status
    code = status if status is not None and status >= 0 else None
    lost = False
    if ended.cause == "timeout":
        reason = reasons.timed_out(attempt.timeout or 0.0)
    elif ended.cause:
        # "cancel" does not get here: ``Helper.run`` has raised CancelledError.
        reason, lost = "ended because its lease was about to pass", True
    elif status is None:
        reason = ""
    elif code is None:
        reason = f"killed by {reasons.signal_name(-status)}"
    elif code in attempt.params.complete_exit_codes:
        return Result(ok=True, code=code, output=output, complete=True)
    elif code == 0:
        return Result(ok=True, code=0, output=output)
    else:
        reason = reasons.exit_code(code)
    reason = "; ".join(filter(None, (reason, ended.problem)))
    return Result(ok=False, reason=reason, code=code, output=output, lost=lost)
