"""A hostile job tries to leave a process behind, on a kernel with Landlock and on one without it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio

from tests.jobs.confined_support import Operator, an_operator, needs_landlock, needs_python_for_jobs, the_scratch
from tests.jobs.shell_support import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[True, False], ids=["landlock", "without"])
async def operator(request: pytest.FixtureRequest) -> AsyncIterator[Operator]:
    if request.param:
        needs_landlock(6)
        async with an_operator(limits={"processes": 64}) as started:
            yield started
    else:
        # The mark shows which processes are left, and they are killed one by one.
        async with an_operator(without_landlock=True, accept_unconfined=True, limits={"processes": 64}) as started:
            yield started


TOOLS = """
import ctypes, errno, mmap, os, resource, signal, socket, threading, time
system = ctypes.CDLL(None, use_errno=True)
system.syscall.restype = ctypes.c_long
arm = os.uname().machine == "aarch64"
CLONE, EXIT, UNSHARE, SECCOMP = (220, 93, 97, 277) if arm else (56, 60, 272, 317)
started = mmap.mmap(-1, 4096)

def call(number, *arguments):
    result = system.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def close():
    for number in range(3):
        try:
            os.close(number)
        except OSError:
            pass

def stay():
    os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass
    close()
    started[0] = 1
    while True:
        time.sleep(1)

def forked(work):
    if os.fork() == 0:
        work()
        os._exit(0)

def wait():
    while not started[0]:
        time.sleep(0.001)

def attempt(work):
    # What is refused is another attempt that failed.
    try:
        return work()
    except (OSError, ValueError):
        started[0] = 1
"""

ESCAPES = {
    "a sibling by CLONE_PARENT": "attempt(lambda: call(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0 and stay())",
    "a sibling by CLONE_PARENT of a child": """
forked(lambda: attempt(lambda: call(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0 and stay()))
""",
    "clone3": "attempt(lambda: call(435, (ctypes.c_uint64 * 11)(0x8000, 0, 0, 0, 17), 88) == 0 and stay())",
    "a session of its own": "forked(stay)",
    "a double fork": "forked(lambda: forked(stay))",
    "an adopter of orphans": """
def adopt():
    system.prctl(36, 1, 0, 0, 0)
    forked(lambda: forked(stay))
    stay()
forked(adopt)
""",
    "a parent that waits for vfork": """
def halt():
    call(CLONE, 0x4000 | 17, 0, 0, 0, 0) == 0 and stay()
forked(halt)
""",
    "a process whose first thread has ended": """
def leaderless():
    threading.Thread(target=lambda: [time.sleep(0.01), started.__setitem__(0, 1), time.sleep(1000)]).start()
    os.setsid()
    close()
    call(EXIT, 0)
forked(leaderless)
""",
    "a traced process": """
def traced():
    if system.ptrace(0, 0, None, None) < 0:
        stay()
    os.kill(os.getpid(), signal.SIGSTOP)
forked(traced)
""",
    "a namespace of processes": "attempt(lambda: (call(UNSHARE, 0x30000000), forked(stay)))",
    "a clone in a namespace of its own": "attempt(lambda: call(CLONE, 0x30000000 | 17, 0, 0, 0, 0) == 0 and stay())",
    "a stopped process": """
def stopped():
    os.setsid()
    close()
    started[0] = 1
    os.kill(os.getpid(), signal.SIGSTOP)
forked(stopped)
""",
    "a process that forks and exits without pause": """
def chain():
    close()
    started[0] = 1
    while True:
        os.setsid()
        if os.fork():
            os._exit(0)
forked(chain)
""",
    "a bomb that races the end": """
def bomb():
    close()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.fork()
            os.setsid()
        except OSError:
            pass
        started[0] = 1
forked(bomb)
""",
    "a process that executes itself without pause": """
def repeat():
    os.setsid()
    close()
    started[0] = 1
    again = "import os, sys; os.execve(sys.executable, ['x', '-I', '-S', '-c', sys.argv[1], sys.argv[1]], {})"
    os.execve("/usr/bin/python3", ["x", "-I", "-S", "-c", again, again], {})
forked(repeat)
""",
    "a process that can't be read": """
def unreadable():
    system.prctl(4, 0, 0, 0, 0)
    system.prctl(15, b"sjob-spawner", 0, 0, 0)
    stay()
forked(lambda: forked(unreadable))
""",
    "a process that changes its mark": """
def unmarked():
    for kind in (15, resource.RLIMIT_RTTIME):
        attempt(lambda: resource.setrlimit(kind, (-1, -1)))
        attempt(lambda: resource.prlimit(0, kind, (-1, -1)))
        attempt(lambda: resource.prlimit(os.getpid(), kind, (-1, -1)))
    stay()
forked(lambda: forked(unmarked))
""",
    "a process with the mark of another job": """
def another():
    variables = {"SCHEDULEDJOB_RUN_ID": "another", "SCHEDULEDJOB_VERSION": "1"}
    started[0] = 1
    os.setsid()
    close()
    os.execve("/usr/bin/sleep", ["sleep", "1000"], variables)
forked(lambda: forked(another))
""",
    "a process that waits for a lock of its own filter": """
def supervised():
    # Each call of getppid now waits for a supervisor that never answers.
    code = (ctypes.c_uint64 * 4)(*(
        operation | no << 24 | value << 32
        for operation, no, value in ((0x20, 0, 0), (0x15, 1, getppid), (0x06, 0, 0x7FC00000), (0x06, 0, 0x7FFF0000))
    ))
    program = (ctypes.c_uint64 * 2)(4, ctypes.addressof(code))
    call(SECCOMP, 1, 8, program)
    started[0] = 1
    os.setsid()
    os.getppid()
getppid = 173 if arm else 110
forked(lambda: attempt(supervised))
""",
    "a thread that forks while the first process ends": """
def storm():
    while True:
        try:
            forked(lambda: (os.setsid(), close(), forked(stay)))
        except OSError:
            pass
threading.Thread(target=storm, daemon=True).start()
""",
}
"""Programs that try to leave a process behind when the job's first process ends, by what they try."""


@pytest.mark.parametrize("escape", ESCAPES)
async def test_no_process_outlives_its_job(operator: Operator, escape: str) -> None:
    python = needs_python_for_jobs()
    another = operator.begin("echo up > up; exec sleep 1000", run_id="another")
    await the_scratch(operator, "up")
    before = operator.survivors()
    result = await operator.run(f"exec {python} -I -", TOOLS + ESCAPES[escape] + "\nwait()\nos._exit(0)\n", timeout=30)
    left = operator.survivors()
    assert result["ok"], result
    assert left == before
    await operator.cancel(another)
    assert operator.survivors() == set()


async def test_when_the_helper_dies_its_jobs_die_whatever_they_have_changed(operator: Operator) -> None:
    python = needs_python_for_jobs()
    hiding = (
        "a process that can't be read",
        "a process whose first thread has ended",
        "a stopped process",
        "a process that forks and exits without pause",
    )
    jobs = [
        operator.begin(f"{python} -I - && echo up > up && exec sleep 1000", TOOLS + ESCAPES[escape] + "\nwait()\n")
        for escape in hiding
    ]
    await until(lambda: len(list(operator.scratches.glob("sjob-*/up"))) == len(jobs))
    os.kill(operator.helper, signal.SIGKILL)
    for job in jobs:
        async with asyncio.timeout(30):
            assert (await job)["lost"]
    assert operator.survivors() == set()
    assert (await operator.run("echo well"))["output"] == "well\n"
    (operator.helper,) = (child.pid for child in psutil.Process(operator.process.pid).children())
    assert operator.survivors() == set()
