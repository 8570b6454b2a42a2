"""An operator to attack: a process with a secret in its environment, memory and files, which runs shell jobs.

If the tests run as root, the operator runs as another user, as in its image, because nothing keeps root out. The
attacks are programs that a job gets as its payload; they try to find ``SECRET``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from scheduledjob.jobs.shell.confinement import landlock_status
from tests.jobs.shell_support import descendants, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "hunter2-of-the-database"
UID = 100_000 + os.getpid()
"""The user of the confined jobs, a different one for each test process: the limit of processes counts per user."""
_ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, json, os, sys, threading
from scheduledjob.jobs.shell.confinement import Confinement, make_unreadable
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.jobs.shell.shell_spec import ShellLimits
from tests.jobs.shell_support import attempt_of

settings = json.loads(sys.argv[1])
if settings["without_landlock"]:
    # Answers like a kernel that has none, to this process and to its helper: a filter for one system call.
    import ctypes, struct
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
    assert ctypes.CDLL(None).prctl(22, 2, struct.pack("@HP", len(code), ctypes.addressof(buffer)), 0, 0) == 0
if settings["unreadable"]:
    make_unreadable()
secret = os.environ["SJOB_STORE"].encode()   # a copy in memory that is not the environment
token = open(settings["token"])

async def main():
    confined = None
    if settings["confined"] is not None:
        confined = Confinement(**settings["confined"])
    limits = ShellLimits(**settings["limits"]) if settings["limits"] else None
    executor = ShellExecutor(limits, confined=confined, timeout_grace=0.2, cancel_grace=0.2)
    await executor.start()
    say({"helper": executor._helper and executor._helper._process.pid})
    loop = asyncio.get_running_loop()

    async def run(number, asked):
        payload = asked.pop("payload").encode()
        task = asyncio.create_task(executor.run(attempt_of(payload=payload, **asked)))
        tasks[number] = task
        try:
            result = await task
        except asyncio.CancelledError:
            say({"number": number, "ok": False, "reason": "cancelled", "output": ""})
        else:
            output = result.output.decode(errors="replace")
            say({"number": number, "ok": result.ok, "reason": result.reason, "output": output, "lost": result.lost})

    tasks = {}
    async with asyncio.TaskGroup() as group:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            number, asked = json.loads(line)
            if asked is None:
                tasks[number].cancel()
            else:
                group.create_task(run(number, asked))
        # A test that has failed may have left jobs running.
        for task in tasks.values():
            task.cancel()
    await executor.stop()

def say(what):
    print(json.dumps(what), flush=True)

asyncio.run(main())
"""


@functools.cache
def python_of_operators() -> tuple[str, dict[str, str]]:
    """An interpreter that the operator's user may run, and an environment in which it finds these modules."""
    places = [str(_ROOT), str(_ROOT / "operator"), *(path for path in sys.path if path.endswith("site-packages"))]
    environment = {"PYTHONPATH": ":".join(places), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = [python, "-c", "import tests.jobs.shell_support"]
        # It does not exist, or that user may not access its folder.
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(command, env=environment, capture_output=True, check=True, **as_operator())
            return python, environment
    pytest.skip(f"NOT TESTED: the user {UID} can run no {version} that finds this project's packages")


def as_operator() -> dict[str, Any]:
    """Arguments of ``subprocess`` that make a process not root."""
    return {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}


def needs_landlock(abi: int = 1) -> None:
    """Skip the test, with a warning, if the kernel does not support what it tests."""
    status = landlock_status()
    if status.abi < abi:
        pytest.skip(f"NOT TESTED: needs Landlock {abi}; here: {status.reason or status.abi}")


def needs_python_for_jobs() -> str:
    """An interpreter where confined jobs can execute it."""
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.path.exists(python):
            return python
    pytest.skip("NOT TESTED: there is no python3 in /usr for the hostile job to be written in")


class Operator:
    """An operator process, with a folder for all its files."""

    process: asyncio.subprocess.Process
    helper: int
    folder: Path
    shared: Path | None
    """The folder of the scratch folders, if another operator uses it, too."""

    status = 0
    """Its expected exit code."""

    def __init__(self, shared: Path | None) -> None:
        self.shared = shared
        self.older_scratches: set[Path] = set()
        """The scratch folders that were there when the newest job began."""
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0

    @property
    def scratches(self) -> Path:
        """The folder with the scratch folders of its jobs."""
        return self.shared or self.folder / "scratches"

    @property
    def token(self) -> Path:
        """The token of its service account."""
        return self.folder / "serviceaccount" / "token"

    def begin(self, command: str, payload: str = "", **attempt: Any) -> asyncio.Future[dict[str, Any]]:
        """Start a job."""
        self.older_scratches = set(self.scratches.glob("sjob-*"))
        self._number += 1
        future = self._answers[self._number] = asyncio.get_running_loop().create_future()
        self._say(self._number, {"command": command, "payload": payload, **attempt})
        return future

    async def cancel(self, job: asyncio.Future[dict[str, Any]]) -> None:
        """Cancel a job and wait for its end."""
        number = next(number for number, each in self._answers.items() if each is job)
        self._say(number, None)
        async with asyncio.timeout(30):
            assert (await job)["reason"] == "cancelled"

    async def run(self, command: str, payload: str = "", **attempt: Any) -> dict[str, Any]:
        """Run a job to its end."""
        async with asyncio.timeout(60):
            return await self.begin(command, payload, **attempt)

    async def attack(self, program: str, **values: object) -> dict[str, Any]:
        """Run a job with a Python program, which finds the processes to attack in its variables."""
        values |= {"operator": self.process.pid, "helper": self.helper, "token": str(self.token)}
        values["scratches"] = str(self.scratches)
        first = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        return await self.run(f"exec {needs_python_for_jobs()} -I -", first + _TOOLS + program)

    def names_of_scratches(self) -> list[str]:
        """The names of the scratch folders that exist."""
        return [name for name in os.listdir(self.scratches) if name.startswith("sjob-")]

    def survivors(self) -> set[int]:
        """The living processes of its user besides itself, whatever their parents, names and environments are.

        A process whose first thread has ended looks like a zombie, but other threads may be alive.
        """
        if os.geteuid() != 0:
            return descendants(self.helper)  # the tests themselves run as this user
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                if process.uids().real != UID or process.pid in (self.process.pid, self.helper):
                    continue
                if process.status() != psutil.STATUS_ZOMBIE or len(os.listdir(f"/proc/{process.pid}/task")) > 1:
                    found.add(process.pid)
        return found

    async def listen(self) -> None:
        """Handle what the operator reports."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            answer = json.loads(line)
            if "helper" in answer:
                self.helper = answer["helper"]
            else:
                self._answers.pop(answer["number"]).set_result(answer)

    def _say(self, *what: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")


@contextlib.asynccontextmanager
async def an_operator(
    *,
    confined: bool = True,
    unreadable: bool = True,
    without_landlock: bool = False,
    limits: dict[str, int] | None = None,
    shared: Path | None = None,
    **confinement: Any,
) -> AsyncIterator[Operator]:
    """Start an operator. Without ``confined`` or ``unreadable``, the attacks should succeed."""
    python, environment = python_of_operators()
    operator = Operator(shared)
    operator.folder = Path(tempfile.mkdtemp(prefix="operator-"))
    operator.folder.chmod(0o755)
    if shared is None:
        operator.scratches.mkdir()
        operator.scratches.chmod(0o1777)
    operator.token.parent.mkdir()
    operator.token.write_text(SECRET)
    if os.geteuid() == 0:
        os.chown(operator.token, UID, UID)
    settings = {
        "unreadable": unreadable,
        "without_landlock": without_landlock,
        "token": str(operator.token),
        "limits": limits,
        "confined": {"scratches": str(operator.scratches), **confinement} if confined else None,
    }
    operator.process = await asyncio.create_subprocess_exec(
        python,
        "-c",
        PROGRAM,
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**environment, "SJOB_STORE": f"postgresql://u:{SECRET}@h/d"},
        cwd="/",
        limit=1 << 20,
        **as_operator(),
    )
    try:
        assert operator.process.stdout is not None
        operator.helper = json.loads(await operator.process.stdout.readline())["helper"]
        listening = asyncio.create_task(operator.listen())
        yield operator
        assert operator.process.stdin is not None
        operator.process.stdin.close()
        async with asyncio.timeout(30):
            assert await operator.process.wait() == operator.status
            await listening
        assert shared or operator.names_of_scratches() == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            operator.process.kill()
        await operator.process.wait()
        shutil.rmtree(operator.folder)


_TOOLS = """
import ctypes, errno, os, resource, signal, socket, struct, sys, time
REFUSED = (errno.EPERM, errno.EACCES, errno.EXDEV)   # the last: Landlock, of a link from outside
system = ctypes.CDLL(None, use_errno=True)
system.syscall.restype = ctypes.c_long

if "HOME" not in os.environ:   # a job that is not confined, so that it can try the same
    os.environ["HOME"] = f"{scratches}/{os.getpid()}"
    os.mkdir(os.environ["HOME"])
    os.chdir(os.environ["HOME"])

def call(number, *arguments):
    result = system.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def regions(pid):
    for line in open(f"/proc/{pid}/maps"):
        span, mode = line.split()[:2]
        if mode.startswith("rw") and "[v" not in line:
            start, end = (int(each, 16) for each in span.split("-"))
            yield start, min(end - start, 64 << 20)

def refused(*attempts):
    # Each must be refused by the kernel, and not fail for another reason.
    for attempt in attempts:
        try:
            attempt()
        except OSError as error:
            if error.errno not in REFUSED:
                raise
        else:
            sys.exit("GOT IN")
    print("refused")
"""


async def the_scratch(operator: Operator, file: str) -> Path:
    """Return the scratch folder of the newest job, as soon as it has written a line to a file.

    The folder of a job that has ended before may still be there, with such a file.
    """
    found: list[Path] = []

    def is_there() -> bool:
        written = [path for path in operator.scratches.glob(f"sjob-*/{file}") if path.stat().st_size]
        found[:] = [path for path in written if path.parent not in operator.older_scratches]
        return bool(found)

    await until(is_there)
    return found[0].parent
