"""A hostile job beside the operator's secrets tries each way in.

Each attack is made twice: by a confined job, where the kernel must refuse it, and by an unconfined job beside a
readable operator, where it must succeed. Otherwise an attack that fails because it is badly written would prove
nothing.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.jobs.confined_support import (
    SECRET,
    Operator,
    an_operator,
    needs_landlock,
    needs_python_for_jobs,
    the_scratch,
)
from tests.jobs.shell_support import is_alive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_READ_MEMORY = """
def from_memory():
    with open(f"/proc/{victim}/mem", "rb", 0) as memory:
        for start, length in regions(victim):
            memory.seek(start)
            try:
                data = memory.read(length)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                continue
            if SECRET in data:
                return loot(SECRET)
"""

READING = {
    "environment": "loot(open(f'/proc/{operator}/environ', 'rb').read())",
    "the token's file": "loot(open(token, 'rb').read())",
    "the token through the operator's root": "loot(open(f'/proc/{operator}/root{token}', 'rb').read())",
    "the token through a link": "os.symlink(token, 'link'); loot(open('link', 'rb').read())",
    "the token through a hard link": "os.link(token, 'link'); loot(open('link', 'rb').read())",
    "an open file of the operator": """
for number in os.listdir(f'/proc/{operator}/fd'):
    if os.readlink(f'/proc/{operator}/fd/{number}') == token:
        loot(open(f'/proc/{operator}/fd/{number}', 'rb').read())
""",
    "a descriptor taken from the operator": """
pidfd = os.pidfd_open(operator)
for number in range(3, 60):
    try:
        taken = call(438, pidfd, number, 0)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        continue
    try:
        loot(os.pread(taken, 1000, 0))
    except OSError:
        pass
""",
    "memory by /proc": _READ_MEMORY + "victim = operator; from_memory()",
    "memory by process_vm_readv": """
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
system.process_vm_readv.restype = ctypes.c_ssize_t
def read(start, length):
    buffer = ctypes.create_string_buffer(length)
    own, other = Vector(ctypes.addressof(buffer), length), Vector(start, length)
    if system.process_vm_readv(operator, ctypes.byref(own), 1, ctypes.byref(other), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw
try:
    spans = list(regions(operator))
except PermissionError:
    spans = [(0x1000, 16)]
for start, length in spans:
    try:
        loot(read(start, length))
    except OSError as error:
        if error.errno not in (errno.EFAULT, errno.EIO):
            raise
""",
    "ptrace": """
system.ptrace.restype = ctypes.c_long
if system.ptrace(16, operator, None, None) < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
os.waitpid(operator, 0x40000000)
system.ptrace(17, operator, None, None)
print("GOT IN")
""",
    "a core dump": "os.kill(operator, signal.SIGABRT) if confined else print('GOT IN')",
    "a list of the scratches": "print('GOT IN', os.listdir(os.path.dirname(os.environ['HOME'])))",
    "limits of the operator": """
resource.prlimit(operator, resource.RLIMIT_CORE, (0, 0)); print("GOT IN")
""",
    "priority of the operator": "os.setpriority(os.PRIO_PROCESS, operator, 1); print('GOT IN')",
    "processors of the operator": "os.sched_setaffinity(operator, {0}); print('GOT IN')",
    "memory that no process owns": "segment = call(29, 0, 4096, 0o1600); call(31, segment, 0, None); print('GOT IN')",
    "a key that no process owns": "call(248, b'user', b'sjob-test', b'x', 1, -2); print('GOT IN')",
    "a namespace of its own": "call(272, 0x10000000); print('GOT IN')",
    "an abstract socket of the operator's": """
taken = socket.socket(socket.AF_UNIX); taken.connect("\\0" + abstract); print("GOT IN")
""",
    "another process's command line": "print('GOT IN', open(f'/proc/{operator}/cmdline').read())",
    "signal 0 to the operator": "os.kill(operator, 0); print('GOT IN')",
    "signal 0 to the helper": "os.kill(helper, 0); print('GOT IN')",
    "a signal by pidfd": "signal.pidfd_send_signal(os.pidfd_open(operator), 0); print('GOT IN')",
    "a file beside its scratch": "open(os.path.dirname(os.environ['HOME']) + '/x', 'w'); print('GOT IN')",
    "a file in /tmp": "f = f'/tmp/sjob-{os.getpid()}'; open(f, 'w'); os.unlink(f); print('GOT IN')",
    "emptying the token": "os.truncate(token, 0); print('GOT IN')",
}
"""Programs that print the secret or GOT IN, or fail with EPERM or EACCES."""

_SCOPED = {
    "a core dump",
    "an abstract socket of the operator's",
    "signal 0 to the operator",
    "signal 0 to the helper",
    "a signal by pidfd",
}
"""Attacks that only a kernel can refuse whose Landlock restricts signals."""
_ELSEWHERE_TOO = {"a key that no process owns", "a namespace of its own"}
"""Attacks that some machines deny to all processes."""
_BY_YAMA = {"ptrace", "memory by /proc", "memory by process_vm_readv", "a descriptor taken from the operator"}

_LOOT = """
SECRET = bytes(reversed(backwards))
def loot(data):
    if SECRET in data:
        print("GOT IN")
try:
    exec(attack)
except OSError as error:
    if error.errno not in REFUSED:
        raise
    print("refused")
"""


async def made(operator: Operator, attack: str, *, confined: bool, abstract: str = "") -> str:
    """Return the output of the job."""
    result = await operator.attack(
        # Reversed, so that the secret is not in the job's own memory or command.
        _LOOT,
        attack=attack,
        backwards=SECRET.encode()[::-1],
        confined=confined,
        abstract=abstract,
    )
    assert result["ok"], result
    assert isinstance(result["output"], str)
    return result["output"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_operator() -> AsyncIterator[Operator]:
    async with an_operator(confined=False, unreadable=False) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def abstract() -> AsyncIterator[str]:
    name = f"sjob-test-{os.getpid()}"
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), "\0" + name)
    async with server:
        yield name


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", READING)
async def test_a_confined_job_is_refused(operator: Operator, abstract: str, way: str) -> None:
    if way in _SCOPED:
        needs_landlock(6)
    assert await made(operator, READING[way], confined=True, abstract=abstract) == "refused\n"
    assert operator.token.read_text() == SECRET


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", [way for way in READING if way not in _ELSEWHERE_TOO])
async def test_a_job_that_is_not_confined_gets_access(open_operator: Operator, abstract: str, way: str) -> None:
    if way in _BY_YAMA and _yama():
        pytest.skip("Yama refuses this to everybody here")
    output = await made(open_operator, READING[way], confined=False, abstract=abstract)
    open_operator.token.write_text(SECRET)
    assert output.startswith("GOT IN"), output


def _yama() -> bool:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as scope:
            return scope.read().strip() != "0"
    except OSError:
        return False


@pytest.mark.asyncio(loop_scope="module")
async def test_being_unreadable_protects_memory_and_environment(abstract: str) -> None:
    """This does not need Landlock: with ``accept_unconfined``, a job can't read them either."""
    async with an_operator(confined=False) as operator:
        for way in ("environment", "an open file of the operator", *sorted(_BY_YAMA)):
            assert await made(operator, READING[way], confined=True, abstract=abstract) == "refused\n", way


@pytest.mark.asyncio(loop_scope="module")
async def test_landlock_and_the_filter_protect_a_readable_process() -> None:
    """So an operator that did not make itself unreadable is protected, too."""
    needs_landlock()
    async with an_operator(unreadable=False) as operator:
        for way in ("environment", *sorted(_BY_YAMA)):
            assert await made(operator, READING[way], confined=True) == "refused\n", way


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_has_three_open_files_and_a_clean_environment(operator: Operator) -> None:
    # Without ctypes, because libffi may open a file.
    result = await operator.run(
        f"exec {needs_python_for_jobs()} -I -",
        """
import os
for number in range(3, 2000):
    try:
        os.fstat(number)
    except OSError:
        continue
    print("open:", number)
print(*sorted(name for name in os.environ if not name.startswith("SCHEDULEDJOB_")))
print(os.environ["HOME"] == os.environ["TMPDIR"] == os.getcwd(), os.listdir("."))
""",
    )
    assert result["output"] == "HOME LANG LOGNAME PATH PWD SHELL TMPDIR USER\nTrue []\n"
    assert SECRET not in result["output"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_can_not_reach_the_threads_that_started_it(operator: Operator) -> None:
    """They share the sandbox of the job or surround it, and a signal to a thread of the helper ends the helper."""
    needs_landlock(6)
    result = await operator.attack(
        """
arm = os.uname().machine == "aarch64"
for thread in range(helper - 1, os.getpid()):
    for reach in (
        lambda: os.kill(thread, 0),
        lambda: call(130 if arm else 200, thread, 0),
        lambda: call(131 if arm else 234, helper, thread, 0),
        lambda: call(424, call(434, thread, 0o200), 0, 0, 0),
        lambda: call(138 if arm else 129, thread, 0, bytes(128)),
        lambda: call(25 if arm else 72, 0, 8, thread),
    ):
        try:
            reach()
        except OSError:
            continue
        print("GOT IN", thread - helper)
print("refused")
"""
    )
    assert result["output"] == "refused\n"


# ---- another job


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_can_not_reach_the_scratch_folder_or_process_of_another(operator: Operator) -> None:
    needs_landlock(6)
    other = operator.begin("echo hunter3 > file; echo $$ > pid; exec sleep 1000")
    scratch = await the_scratch(operator, "pid")
    pid = int((scratch / "pid").read_text())
    result = await operator.attack(
        """
refused(
    lambda: os.listdir(scratch),
    lambda: open(scratch + "/file").read(),
    lambda: open(scratch + "/new", "w"),
    lambda: os.unlink(scratch + "/file"),
    lambda: os.rename(scratch + "/file", "stolen"),
    lambda: os.truncate(scratch + "/file", 0),
    lambda: os.kill(pid, signal.SIGKILL),
    lambda: os.killpg(pid, signal.SIGSTOP),
    lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL),
    lambda: open(f"/proc/{pid}/environ").read(),
    lambda: open(f"/proc/{pid}/cmdline").read(),
    lambda: os.listdir(f"/proc/{pid}/cwd"),
    lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)),
)
try:
    os.kill(-1, signal.SIGKILL)     # all that it can reach: none
except OSError:
    pass
""",
        scratch=str(scratch),
        pid=pid,
    )
    assert (result["ok"], result["output"]) == (True, "refused\n")
    assert is_alive(pid)
    assert (scratch / "file").read_text() == "hunter3\n"
    moved = await operator.run("chmod 0 .", working_dir=str(scratch))
    assert moved["reason"] == f"working directory {scratch}: belongs to another job"
    await operator.cancel(other)
