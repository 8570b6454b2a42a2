"""Confined jobs on different kernels: without Landlock, with older versions of it, with one whose Landlock fails.

A filter of system calls makes the kernel answer like one without Landlock. A process that then starts an executor
applies it to itself, and the helper inherits it.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import resource
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.jobs.shell import confinement
from scheduledjob.jobs.shell.confinement import Confinement, LandlockStatus, landlock_status
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.jobs.shell.shell_spec import ShellLimits
from scheduledjob.jobs.shell.spawner import landlock, seccomp, syscalls
from scheduledjob.jobs.shell.spawner.sandbox import Sandboxes
from tests.jobs.confined_support import needs_landlock
from tests.jobs.shell_support import attempt_of, helper_pid, running

if TYPE_CHECKING:
    from pathlib import Path

_CREATE_RULESET, _RESTRICT_SELF = 444, 446

ON_ANOTHER_KERNEL = """
import asyncio, ctypes, json, struct, sys
from scheduledjob.jobs.shell.confinement import Confinement, landlock_status
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from tests.jobs.shell_support import attempt_of

number, error, scratches, accept = json.loads(sys.argv[1])
# load the number of the call; for this one return the error, otherwise allow
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
program = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
buffer = ctypes.create_string_buffer(program, len(program))
system = ctypes.CDLL(None)
assert system.prctl(38, 1, 0, 0, 0) == 0
assert system.prctl(22, 2, struct.pack("@HP", len(code), ctypes.addressof(buffer)), 0, 0) == 0

async def main():
    status = landlock_status()
    executor = ShellExecutor(confined=Confinement(scratches=scratches, accept_unconfined=accept))
    await executor.start()
    result = await executor.run(attempt_of("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; pwd; ulimit -H -c"))
    helper = executor._helper is not None
    await executor.stop()
    output = result.output.decode()
    print(json.dumps([status.abi, status.reason, result.ok, result.reason, output, helper]))

asyncio.run(main())
"""


def on_another_kernel(number: int, error: int, scratches: Path, *, accept: bool = False) -> list[Any]:
    """Run a job on a kernel on which a system call fails with this error."""
    run = subprocess.run(
        [sys.executable, "-c", ON_ANOTHER_KERNEL, json.dumps([number, error, str(scratches), accept])],
        env={**os.environ, "PYTHONPATH": f"{os.getcwd()}:{os.getcwd()}/operator"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    answer: list[Any] = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENOSYS, "this kernel has none (it needs Linux 5.13; sandboxes such as gVisor lack it)"),
        (errno.EOPNOTSUPP, "it is switched off in this kernel (its command line must have landlock in lsm=)"),
        (errno.EPERM, "a seccomp profile denies its system calls (RuntimeDefault of current container runtimes"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_without_landlock_no_job_runs_and_says_why(tmp_path: Path, error: int, reason: str) -> None:
    abi, status, ok, why, output, helper = on_another_kernel(_CREATE_RULESET, error, tmp_path)
    assert (abi, ok, output, helper) == (0, False, "", False)
    assert status.startswith(f"Landlock is not available: {reason}")
    assert why == f"inline shell is off: {status}"


def test_accept_unconfined_keeps_everything_but_landlock(tmp_path: Path) -> None:
    abi, _, ok, why, output, _ = on_another_kernel(_CREATE_RULESET, errno.ENOSYS, tmp_path, accept=True)
    assert (abi, ok, why) == (0, True, "")
    no_new_privileges, filtered, directory, core = output.splitlines()
    assert no_new_privileges.split() == ["NoNewPrivs:", "1"]
    assert filtered.split() == ["Seccomp:", "2"]
    assert directory.startswith(f"{tmp_path}/sjob-")
    assert core == "0"
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_can_not_be_confined_is_not_started(tmp_path: Path) -> None:
    """Even with ``accept_unconfined``, because the kernel reports that it has Landlock."""
    needs_landlock()
    abi, _, ok, why, output, _ = on_another_kernel(_RESTRICT_SELF, errno.E2BIG, tmp_path, accept=True)
    assert abi > 0
    assert (ok, why, output) == (False, "can't start /bin/sh: Argument list too long", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", range(1, 8))
def test_each_version_of_landlock_denies_what_it_supports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    needs_landlock(version)
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    scratches = tmp_path / "scratches"
    scratches.mkdir()
    monkeypatch.setattr(landlock, "abi", lambda: version)
    sandboxes = Sandboxes(
        os.fsencode(scratches), [os.fsencode(path) for path in confinement.READABLE], True, os.getppid()
    )
    sandbox = sandboxes.make(1)
    command = (
        f"mkdir a && echo x > a/file && cat a/file > /dev/null || exit 1; ! cat {secret} && ! echo > {tmp_path}/new && "
        f"! ls {scratches} && ! rm {secret} && ! ln {secret} a"
    )
    environment = {"PATH": os.defpath}
    nowhere = [(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]

    def spawn() -> int:
        arguments = ["sh", "-c", f"cd {os.fsdecode(sandbox.home)} && {command}"]
        return os.posix_spawn("/bin/sh", arguments, environment, file_actions=nowhere)

    pid = sandbox.start(spawn)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert version >= landlock.SCOPES_SINCE or sandbox.kill() is False
    sandbox.close()
    sandboxes.close()
    assert list(scratches.iterdir()) == []
    # None of it applies to this process.
    assert secret.read_text() == "hunter2"


def test_the_status_says_what_the_kernel_supports() -> None:
    assert LandlockStatus(5).available
    assert not LandlockStatus(5).holds_signals_back
    assert LandlockStatus(6).holds_signals_back
    assert not LandlockStatus(0, "why").available
    assert landlock_status() == landlock_status()


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scratches": "jobs"}, "'jobs' is not an absolute path; write it like /var/lib/jobs"),
        ({"readable": ("etc",)}, "'etc' is not an absolute path"),
        ({"scratches": "/usr/x"}, "scratches: /usr/x lies in /usr, which every job may read; take another"),
        ({"scratches": "/srv/x", "readable": ("/srv",)}, "scratches: /srv/x lies in /srv, which every job may read"),
    ],
)
def test_wrong_settings_say_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Confinement(**settings)


async def test_without_a_folder_for_scratch_folders_no_job_runs() -> None:
    needs_landlock()
    executor = ShellExecutor(confined=Confinement(scratches="/nope"))
    await executor.start()
    result = await executor.run(attempt_of("true"))
    assert result.reason == "inline shell is off: /nope is not a folder that this process may read and write"


async def test_more_paths_can_be_readable(tmp_path: Path) -> None:
    needs_landlock()
    scratches, tools = tmp_path / "scratches", tmp_path / "tools"
    scratches.mkdir()
    tools.mkdir()
    (tools / "tool").write_text("#!/bin/sh\necho from a tool\n")
    (tools / "tool").chmod(0o755)
    confinement = Confinement(scratches=str(scratches), readable=(str(tools), str(tmp_path / "missing")))
    async with running(ShellExecutor(confined=confinement)) as executor:
        assert (await executor.run(attempt_of(f"{tools}/tool"))).output == b"from a tool\n"
        assert not (await executor.run(attempt_of(f"echo x > {tools}/tool"))).ok
        # A job may have a working directory that it can't read.
        result = await executor.run(attempt_of("pwd; ls", working_dir=str(tmp_path)))
        assert result.output.startswith(str(tmp_path).encode() + b"\nls: ")


async def test_limits_that_disturb_the_helper_are_hard_too(tmp_path: Path) -> None:
    needs_landlock()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = ShellLimits(cpu_seconds=7, memory_bytes=512 << 20, open_files=99)
    async with running(ShellExecutor(limits, confined=Confinement(scratches=str(tmp_path)))) as executor:
        for kind in "tvn":
            soft, hard = [
                (await executor.run(attempt_of(f"sleep 0.05; ulimit {side} -{kind}"))).output for side in ("-S", "-H")
            ]
            assert soft == hard == {"t": b"7\n", "v": b"524288\n", "n": b"99\n"}[kind]
        assert resource.prlimit(helper_pid(executor), resource.RLIMIT_NOFILE) == (files, files)


# ---- the filter


def _answer(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """Run a filter, and return its value."""
    data = struct.pack("=IIQ", number, {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine], 0)
    data += struct.pack("=6Q", *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    position = word = 0
    while True:
        operation, yes, no, value = code[position]
        position += 1
        if operation == 0x20:
            (word,) = struct.unpack_from("=I", data, value)
        elif operation == 0x05:
            position += value
        elif operation == 0x06:
            return int(value)
        else:
            true = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[operation]
            position += yes if true else no


def _errno(number: int) -> int:
    return 0x50000 | number


_ALLOWED, _EPERM, _ENOSYS = 0x7FFF0000, _errno(errno.EPERM), _errno(errno.ENOSYS)
_MACHINES = pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])


def _groups(column: int) -> list[tuple[str, dict[str, int]]]:
    return [(kind, syscalls.numbers(group.calls, column)) for kind in ("ALLOWED", "REFUSED") for group in GROUPS[kind]]


GROUPS = {"ALLOWED": syscalls.ALLOWED, "REFUSED": syscalls.REFUSED}


@_MACHINES
def test_what_is_in_no_group_does_not_exist(machine: str, column: int) -> None:
    program = seccomp.program(machine)
    assert program is not None
    known = syscalls.numbers(syscalls.CHECKED, column)
    for kind, numbers in _groups(column):
        assert not known.keys() & numbers.keys()
        known |= numbers
        for name, number in numbers.items():
            assert _answer(program, machine, number) == {"ALLOWED": _ALLOWED, "REFUSED": _EPERM}[kind], name
    assert len(set(known.values())) == len(known)
    for number in {*range(2000), 0x40000000, 0x40000000 + 59, 0x7FFFFFFF, 0xFFFFFFFF} - set(known.values()):
        assert _answer(program, machine, number) == _ENOSYS, number


_THREAD, _PROCESS = 4712, 4711
CHECKS = [
    ("clone", (0x01200011,), _ALLOWED),
    ("clone", (0x003D0F00,), _ALLOWED),  # a thread
    ("clone", (0x8011,), _EPERM),  # CLONE_PARENT
    *[("clone", (1 << bit | 17,), _EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)],  # CLONE_NEW*
    *[("socket", (family, 1, 0), _ALLOWED) for family in (1, 2, 10)],
    ("socket", (16, 3, 0), _ALLOWED),  # NETLINK_ROUTE
    *[("socket", (16, 3, protocol), _errno(errno.EPROTONOSUPPORT)) for protocol in (4, 9, 11, 15, 16)],
    *[("socket", (family, 3, 0), _errno(errno.EAFNOSUPPORT)) for family in (0, 15, 17, 21, 31, 38, 40, 44)],
    ("fcntl", (3, 2, 1), _ALLOWED),
    *[("fcntl", (3, command, 1), _EPERM) for command in (8, 10, 15, 1024, 1026)],
    ("ioctl", (0, 0x5401), _ALLOWED),
    *[("ioctl", (0, command), _EPERM) for command in (0x5412, 0x541C, 0x8901, 0x8902)],
    ("ioctl", (0, 0xFFFFFFFF00005412), _EPERM),  # the kernel looks at the lower half only
    *[("prctl", (option,), _ALLOWED) for option in (1, 4, 15, 22, 36, 38, 59, 68, 0x53564D41)],
    *[("prctl", (option,), _errno(errno.EINVAL)) for option in (35, 62, 69, 0x59616D61, 0xFFFFFFFF)],
    *[("personality", (value,), _ALLOWED) for value in (0, 8, 0xFFFFFFFF)],
    ("personality", (0x0400000,), _EPERM),
    ("setrlimit", (7, 1), _ALLOWED),
    ("setrlimit", (15, 1), _EPERM),
    # The lower half of an address may be 0.
    ("prlimit64", (0, 7, 0x7FFF12345678), _ALLOWED),
    ("prlimit64", (0, 15, 0, 0x7FFF12345678), _ALLOWED),
    ("prlimit64", (4711, 7, 0, 0x7FFF12345678), _ALLOWED),
    ("prlimit64", (0, 15, 0x7FFF12345678), _EPERM),
    ("prlimit64", (0, 15, 0x7FFF00000000), _EPERM),
    ("prlimit64", (4711, 7, 0x7FFF12345678), _EPERM),
    ("prlimit64", (4711, 7, 0x7FFF00000000), _EPERM),
    ("setpriority", (0, 0), _ALLOWED),
    *[("setpriority", arguments, _EPERM) for arguments in ((0, 7), (1, 0), (2, 0))],
    ("ioprio_set", (1, 0), _ALLOWED),
    *[("ioprio_set", arguments, _EPERM) for arguments in ((1, 7), (2, 0), (3, 0))],
    *[
        (f"sched_set{what}", (process, 5, 9), answer)
        for what in ("affinity", "attr", "param", "scheduler")
        for process, answer in ((0, _ALLOWED), (4711, _EPERM))
    ],
    *[
        (name, (target, 9, 9), _EPERM if target == _THREAD else _ALLOWED)
        for name in ("kill", "tkill", "rt_sigqueueinfo", "pidfd_open")
        for target in (1, _PROCESS, _THREAD, 0xFFFFFFFF)
    ],
    *[
        (name, (target, _THREAD, 9), _EPERM if target == _PROCESS else _ALLOWED)
        for name in ("tgkill", "rt_tgsigqueueinfo")
        for target in (1, _PROCESS, _THREAD)
    ],
    *[(f"{name}xattr", (1, 2), _errno(errno.EOPNOTSUPP)) for name in ("set", "lset", "remove", "lremove")],
]


@_MACHINES
def test_arguments_are_checked(machine: str, column: int) -> None:
    program = seccomp.program(machine)
    assert program is not None
    program = seccomp.for_thread(program, _THREAD, _PROCESS)
    numbers = syscalls.numbers(syscalls.CHECKED, column)
    assert {name for name, _, _ in CHECKS} == numbers.keys()
    for name, arguments, answer in CHECKS:
        assert _answer(program, machine, numbers[name], *arguments) == answer, (name, arguments)


def test_another_architectures_calls_are_denied_and_another_machine_has_no_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = seccomp.program("x86_64")
    assert program is not None
    assert _answer(program, "aarch64", 0) == _EPERM
    assert _answer(program, "x86_64", 0) == _ALLOWED
    assert seccomp.program("riscv64") is None
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    refusal = Confinement(scratches=str(tmp_path)).refusal()
    assert refusal == "inline shell is off: there is no filter of system calls for riscv64"


_HEADERS = {
    "x86_64": ["-include", "sys/syscall.h"],
    # aarch64 uses the generic numbers.
    "aarch64": [
        "-D__BITS_PER_LONG=64",
        "-D__ARCH_WANT_RENAMEAT",
        "-D__ARCH_WANT_NEW_STAT",
        "-D__ARCH_WANT_SET_GET_RLIMIT",
        "-include",
        "asm-generic/unistd.h",
    ],
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="NOT TESTED: the headers are those of another machine")
@_MACHINES
def test_the_numbers_of_the_calls_are_those_of_the_headers(machine: str, column: int) -> None:
    """Compared with the header of the C library, if there is one."""
    run = subprocess.run(
        ["cc", "-E", "-dM", *_HEADERS[machine], "-x", "c", "/dev/null"], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        pytest.skip("NOT TESTED: no C compiler to read the header with")
    known = {
        re.sub("^__NR(3264)?_", "", words[1]): int(words[2])
        for words in map(str.split, run.stdout.splitlines())
        if len(words) == 3 and words[1].startswith("__NR") and words[2].isdigit()
    }
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", 0))
    table = syscalls.numbers(syscalls.CHECKED, column)
    for _, numbers in _groups(column):
        table |= numbers
    assert len(table.keys() & known.keys()) > 250
    newest = max(number for name, number in known.items() if name != "syscalls")
    for name, number in table.items():
        assert known.get(name, number) == number, name
        assert name in known or number > newest, name
