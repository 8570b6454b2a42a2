"""A confined job ends with all its processes, keeps to its limits, and leaves nothing in its scratch folder.

Most jobs here run beside an operator with a user of its own (see ``confined_support``), because limits and modes do not
apply to root.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import tempfile
from pathlib import Path

import psutil
import pytest

from scheduledjob.engine.executor import OUTPUT_LIMIT
from tests.jobs.confined_support import UID, Operator, an_operator, needs_landlock, needs_python_for_jobs, the_scratch
from tests.jobs.shell_support import descendants, is_alive, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def nothing_is_left(operator: Operator) -> None:
    """Check that no process of any job is left, and soon no scratch folder."""
    assert descendants(operator.helper) == set()
    await until(lambda: operator.names_of_scratches() == [])


# ---- what a job leaves behind

_FORK_QUICKLY = "while True:\n  if os.fork(): os._exit(0)\n"
"""Forks all the time, so that a process that was found no longer exists when it is killed."""

CHILDREN = {
    "a daemon": "setsid sh -c 'setsid sleep 1000 & exit' & wait",
    "a daemon without an environment": "env -i setsid sh -c 'setsid sleep 1000 & exit' & wait",
    "one that forks quickly": f"{{python}} -c 'import os\nos.setsid()\n{_FORK_QUICKLY}' & sleep 0.1",
    "one that forks quickly and says that it is nobody's": (
        f"env -i {{python}} -c 'import os\nos.setsid()\n{_FORK_QUICKLY}' & sleep 0.1"
    ),
    "one that says that it is another's": (
        "SCHEDULEDJOB_RUN_ID=another setsid sh -c 'setsid sleep 1000 & exit' & wait"
    ),
    "one that can't be read": (
        "{python} -c 'import ctypes, os, time\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(1000)' & wait"
    ),
    "one that ignores everything": "(trap '' TERM HUP INT; setsid sleep 1000) & sleep 0.1",
    "one that is stopped": "setsid sh -c 'kill -STOP $$' & while ! grep -q x /dev/null && sleep 0.05; do exit; done",
}


@pytest.mark.parametrize("child", CHILDREN)
async def test_no_child_outlives_a_job(operator: Operator, child: str) -> None:
    if "quickly" in child or "another's" in child:
        needs_landlock(6)
    another = operator.begin("echo up > up; exec sleep 1000", run_id="another")
    await the_scratch(operator, "up")
    before = descendants(operator.helper)
    result = await operator.run(CHILDREN[child].format(python=needs_python_for_jobs()))
    assert result["reason"] in ("", "exit code 1"), result
    await until(lambda: descendants(operator.helper) == before)
    await operator.cancel(another)
    await nothing_is_left(operator)


async def test_a_job_that_forks_quickly_delays_no_other_job(operator: Operator) -> None:
    needs_landlock(6)
    python = needs_python_for_jobs()
    command = f"env -i {python} -c 'import os\nos.setsid()\n{_FORK_QUICKLY}' & echo up > up; exec sleep 1000"
    hostile = operator.begin(command)
    await the_scratch(operator, "up")
    for _ in range(5):
        assert (await operator.run("setsid sleep 1000 & true"))["ok"]
    assert psutil.Process(operator.helper).children()
    await operator.cancel(hostile)
    await nothing_is_left(operator)


async def test_a_killed_operator_leaves_neither_processes_nor_folders() -> None:
    needs_landlock(6)
    python = needs_python_for_jobs()
    async with an_operator() as operator:
        _ = operator.begin(f"env -i {python} -c 'import os\nos.setsid()\n{_FORK_QUICKLY}' & echo up > up; sleep 1000")
        await the_scratch(operator, "up")
        operator.process.kill()
        operator.status = -signal.SIGKILL
        await until(lambda: not is_alive(operator.helper))


@pytest.mark.parametrize("end", ["timeout", "cancel"])
async def test_a_job_that_stops_its_own_group_is_ended(operator: Operator, end: str) -> None:
    job = operator.begin("echo up > up; kill -STOP 0; sleep 1000", timeout=0.5 if end == "timeout" else None)
    await the_scratch(operator, "up")
    if end == "cancel":
        await operator.cancel(job)
    else:
        async with asyncio.timeout(30):
            assert (await job)["reason"] == "timed out after 500ms"
    await nothing_is_left(operator)


async def test_a_job_can_not_stop_the_operator(operator: Operator) -> None:
    needs_landlock(6)
    first = f"kill -STOP {operator.process.pid} || kill -STOP {operator.helper}"
    # To all processes only if the first was refused: otherwise it would stop everything else of this user.
    result = await operator.run(f"{first} || kill -STOP -1; exit 0", timeout=0.5)
    assert result["output"].count("Operation not permitted") == 2
    assert psutil.Process(operator.process.pid).status() != psutil.STATUS_STOPPED
    assert (await operator.run("echo well"))["output"] == "well\n"


# ---- limits


async def test_a_job_can_not_raise_its_limits(operator: Operator) -> None:
    result = await operator.attack(
        """
for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
    soft, hard = resource.getrlimit(kind)
    print(soft == hard, soft)
    try:
        resource.setrlimit(kind, (soft + 1, hard + 1))
    except (OSError, ValueError):
        continue
    print("GOT IN")
"""
    )
    assert result["output"].split() == ["True", "1024", "True", "0", "True", str(1 << 30), "True", "4096"]


async def test_a_bomb_of_forks_and_a_full_disk_end_at_their_limits() -> None:
    needs_landlock()
    async with an_operator(limits={"processes": 60, "file_bytes": 1 << 20, "open_files": 64}) as operator:
        result = await operator.attack(
            """
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        children.append(child)
except BlockingIOError:
    print(len(children) <= 60)
"""
        )
        assert result["output"] == "True\n", result
        result = await operator.run("exec head -c 2000000 /dev/zero > file")
        assert result["reason"] == "killed by SIGXFSZ"
        result = await operator.attack(
            """
files = []
try:
    while True:
        files.append(open("/dev/null"))
except OSError as error:
    print(error.errno == errno.EMFILE, len(files) < 64)
"""
        )
        assert result["output"] == "True True\n"
        await nothing_is_left(operator)


async def test_a_giant_output_is_cut(operator: Operator) -> None:
    result = await operator.run("head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert len(result["output"]) <= OUTPUT_LIMIT
    assert result["output"].endswith("x\nlast\n")
    assert "bytes left out" in result["output"]


# ---- the scratch folder

MESSES = {
    "a tree that can't be read": "mkdir -p a/b/c d; echo > a/b/c/file; chmod 0 a/b/c a/b a d; chmod 0 .",
    "a tree that can't be written": "mkdir -p a/b; echo > a/b/file; chmod 555 a/b a .",
    "a deep tree": (
        "{python} -c 'import os\n"
        'for n in range(1500): os.mkdir("d"); open("file", "w"); os.chdir("d"); os.chmod("..", 0)\''
    ),
    "many files": "mkdir many; cd many; i=0; while [ $i -lt 1000 ]; do : > $i; i=$((i+1)); done",
    "a pipe and a socket": "mkfifo pipe; {python} -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
    "names that are no text": "touch \"$(printf 'a\\nb')\" \"$(printf '\\377')\" -- '-rf' '*' ' '",
    "links to outside": "ln -s {victim} folder; ln -s {victim}/file file; mkdir in; ln -s {victim} in/a; ln -s / root",
    "a loop of links": "ln -s . self; ln -s a b; ln -s b a; mkdir d; ln -s ../d d/d",
    "nothing at all, not even itself": 'cd /; rmdir "$HOME" || true',
}


@pytest.mark.parametrize("mess", MESSES)
async def test_a_scratch_folder_is_removed_whatever_is_in_it(operator: Operator, mess: str) -> None:
    victim = operator.folder / "victim"
    victim.mkdir(exist_ok=True)
    victim.chmod(0o777)
    (victim / "file").write_text("precious")
    (victim / "file").chmod(0o666)
    modes = [path.stat().st_mode for path in (victim, victim / "file")]
    result = await operator.run(MESSES[mess].format(victim=victim, python=needs_python_for_jobs()))
    assert result["ok"], result
    await nothing_is_left(operator)
    assert (victim / "file").read_text() == "precious"
    assert modes == [path.stat().st_mode for path in (victim, victim / "file")]


async def test_the_next_helper_removes_what_a_killed_helper_left(operator: Operator) -> None:
    job = operator.begin("mkdir a; chmod 0 a; echo up > up; exec sleep 1000")
    await the_scratch(operator, "up")
    # A foreign folder with a similar name, and one that another helper uses.
    (operator.scratches / "sjob-notours").mkdir()
    async with an_operator() as other:
        beside = other.begin("echo up > up; exec sleep 1000")
        await the_scratch(other, "up")
        os.kill(operator.helper, signal.SIGKILL)
        async with asyncio.timeout(30):
            assert (await job)["lost"]
        assert (await operator.run("true"))["ok"]
        await until(lambda: operator.names_of_scratches() == ["sjob-notours"])
        (operator.scratches / "sjob-notours").rmdir()
        assert len(other.names_of_scratches()) == 1
        await other.cancel(beside)
    operator.helper = next(
        child.pid for child in psutil.Process(operator.process.pid).children() if is_alive(child.pid)
    )


async def test_a_helper_leaves_the_scratch_folders_of_another_alone(operator: Operator) -> None:
    job = operator.begin("echo up > up; while [ -e up ]; do sleep 0.01; done; exit 3")
    scratch = await the_scratch(operator, "up")
    async with an_operator(shared=operator.scratches) as other:
        assert (await other.run("true"))["ok"]
        assert (scratch / "up").exists()
        await operator.cancel(job)


async def test_a_job_that_closes_the_folder_of_all_scratch_folders_stops_no_other() -> None:
    """It can if the folder belongs to its user, which the documentation advises against."""
    needs_landlock()
    shared = Path(tempfile.mkdtemp(prefix="scratches-"))
    if os.geteuid() == 0:
        os.chown(shared, UID, UID)
    async with an_operator(shared=shared) as operator:
        for _ in range(2):
            assert (await operator.run('chmod 0 "$HOME/.."; echo left > file || true'))["ok"]
            assert (await operator.run("echo x > file && cat file"))["output"] == "x\n"
    os.rmdir(shared)


async def test_a_job_can_not_give_the_next_scratch_folder_an_access_list() -> None:
    needs_landlock()
    shared = Path(tempfile.mkdtemp(prefix="scratches-"))
    if os.geteuid() == 0:
        os.chown(shared, UID, UID)
    # Version 2, and for the owner, the group and others (tags 1, 4 and 32) no rights.
    nothing = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 0, 0xFFFFFFFF) for tag in (1, 4, 32))
    async with an_operator(shared=shared) as operator:
        result = await operator.attack(
            """
for name in "system.posix_acl_default", "user.left":
    try:
        os.setxattr(scratches, name, value)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
    else:
        sys.exit("GOT IN")
open("own", "w").close()
os.setxattr(os.open("own", os.O_RDONLY), "user.kept", b"x") if attributes else None
print("refused")
""",
            value=nothing,
            attributes=_has_attributes(shared),
        )
        assert result["output"] == "refused\n"
        assert (await operator.run("echo x > file && cat file"))["output"] == "x\n"
    os.rmdir(shared)


def _has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.try", b"x")
        os.removexattr(folder, "user.try")
    except OSError:
        return False
    return True


async def test_more_jobs_than_each_may_open_files(operator: Operator) -> None:
    """The helper has two descriptors for each job, and the limit of the jobs does not apply to it."""
    jobs = [operator.begin("echo up > up; exec sleep 1000") for _ in range(700)]
    await until(lambda: len(list(operator.scratches.glob("sjob-*/up"))) == len(jobs), 60)
    result = await operator.run("echo well")
    assert result["output"] == "well\n", result
    for job in jobs:
        await operator.cancel(job)
    await nothing_is_left(operator)
