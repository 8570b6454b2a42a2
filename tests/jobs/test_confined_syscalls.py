"""Which system calls a confined job has: enough for ordinary programs, and none that show it other jobs."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING

import pytest

from scheduledjob.jobs.shell.spawner import syscalls
from tests.jobs.confined_support import the_scratch

if TYPE_CHECKING:
    from tests.jobs.confined_support import Operator

    pass

pytestmark = pytest.mark.asyncio(loop_scope="module")


WATCHES = """
def check(descriptor):
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return descriptor
folder = os.open(os.path.dirname(os.environ["HOME"]), os.O_PATH)
for watch in (
    lambda: check(system.inotify_init()),
    lambda: check(system.inotify_init1(0)),
    lambda: check(system.fanotify_init(0x200, 0)),
    lambda: check(system.fcntl(folder, 1026, 0x0000003F)),
    lambda: check(system.fcntl(os.open(".", 0), 1026, 0x0000003F)),
    lambda: socket.socket(16, socket.SOCK_DGRAM, 4),      # lists the paths of all Unix sockets
    lambda: socket.socket(16, socket.SOCK_DGRAM, 11),     # reports each process
    lambda: os.listdir(f"/proc/self/fd/{folder}"),
    lambda: os.open(".", os.O_RDONLY, dir_fd=folder),
    lambda: (os.fchdir(folder), os.listdir("."))[1],
    lambda: open("/proc/locks").read(),
    lambda: open("/proc/net/unix").read(),
    lambda: os.readlink(f"/proc/{other}/cwd"),
    lambda: os.listdir(f"/proc/{other}/fd"),
    lambda: open(f"/proc/{other}/mountinfo").read(),
    lambda: open("/dev/shm/x", "w"),
    lambda: call(name_to_handle_at[os.uname().machine], folder, b".", bytes(200), bytes(8), 0),
):
    try:
        print("GOT IN", watch())
    except OSError as error:
        if error.errno not in (*REFUSED, errno.ENOSYS, errno.EPROTONOSUPPORT, errno.EBADF):
            raise
print("refused")
"""


async def test_a_job_can_not_learn_the_name_of_another_scratch_folder(operator: Operator) -> None:
    another = operator.begin("echo $$ > pid; exec sleep 1000")
    scratch = await the_scratch(operator, "pid")
    result = await operator.attack(
        WATCHES, other=int((scratch / "pid").read_text()), name_to_handle_at={"x86_64": 303, "aarch64": 264}
    )
    assert result["output"] == "refused\n"
    await operator.cancel(another)


_COLUMN = {"x86_64": 0, "aarch64": 1}


@pytest.mark.skipif(platform.machine() not in _COLUMN, reason="NOT TESTED: there is no filter here")
async def test_every_refused_and_every_unknown_call_fails_before_the_kernel_sees_it(operator: Operator) -> None:
    column = _COLUMN[platform.machine()]
    refused: dict[str, int] = {}
    known = set(syscalls.numbers(syscalls.CHECKED, column).values())
    for group in syscalls.REFUSED:
        refused |= syscalls.numbers(group.calls, column)
    for group in syscalls.ALLOWED:
        known |= set(syscalls.numbers(group.calls, column).values())
    # On x86_64, new kernels handle 335 and 336 (uretprobe, uprobe) before any filter, and end the process.
    known |= {335, 336}
    unknown = [*sorted({*range(700)} - known - {*refused.values()}), 0x40000000 + 39]
    result = await operator.attack(
        """
for number in denied + unknown:
    try:
        print(number, call(number, 0, 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno != (errno.EPERM if number in denied else errno.ENOSYS):
            print(number, error)
""",
        denied=sorted(refused.values()),
        unknown=unknown,
    )
    assert (result["ok"], result["output"]) == (True, "")


# ---- what a job needs

PROGRAMS = {
    "sh": "a=$(echo x); echo $a | cat; (exit 3); sleep 0.01 & wait; trap 'echo trapped' TERM; kill $$; ulimit -n",
    "bash": "bash -c 'set -m; sleep 0.01 & wait; cat <(echo x); [[ -w . ]]; read a < <(echo y); echo $a'",
    "cp": "cp -a /etc/passwd p && mv p q && ln -s q s && ln q h && chmod 600 q && touch -d yesterday q && stat q",
    "dd": "dd if=/dev/zero of=z count=1 conv=fsync && truncate -s 5 z && fallocate -l 9 z && sync z && flock z ls",
    "sort": "sort -S 1M --parallel=2 /etc/services | uniq | tail -n 1; find . | xargs -P 2 -n 1 echo; nproc; id; date",
    "nice": "nice -n 5 true && timeout 5 true && setsid true && taskset 1 true && nohup chrt -o 0 echo ok",
    "tar": "mkdir d && cp /etc/services d && tar -czf t d && rm -r d && tar -xzf t && gzip d/services && zcat d/*",
    "xz": "cp /etc/services s && xz -T2 s && xz -d s.xz && cat s",
    "curl": "curl -sS file:///etc/passwd; curl -s http://127.0.0.1:9/ http://localhost:9/; test $? = 7",
    "git": (
        "export GIT_CONFIG_NOSYSTEM=1; git init -q g && cd g && git config user.email a@b && git config user.name a && "
        "echo x > f && git add . && git commit -qm x && git gc -q && git clone -q file://$HOME/g ../h && ls ../h"
    ),
    "ssh": "ssh -V 2>&1; ssh-keygen -q -t ed25519 -N '' -f key; test $? = 255 || cat key.pub",  # it needs a user's name
    "jq": "jq -n '{a: 1}'",
    "openssl": "openssl rand -hex 4 && openssl genrsa 2048",
    "psql": "psql --version && pg_dump --version",
    "perl": "perl -e 'print `date`; fork || exit; wait; select(undef, undef, undef, 0.01)'",
    "node": (
        'node -e \'const {Worker} = require("worker_threads"), child = require("child_process");'
        'console.log(child.execSync("date").toString(), require("os").networkInterfaces());'
        'new Worker("console.log(5)", {eval: true})\''
    ),
    "java": "java -version 2>&1",
    "getent": "getent hosts localhost; getent passwd 0",
    "tail": "echo x > f; (sleep 0.1; echo y >> f) & timeout 2 tail -f f 2> error; cat error; cat f",
}
"""Commands of real workloads, by the program that must be there."""


@pytest.mark.parametrize("name", PROGRAMS)
async def test_ordinary_programs_work(operator: Operator, name: str) -> None:
    if shutil.which(name, path="/usr/bin:/bin") is None:
        pytest.skip(f"NOT TESTED: there is no {name} here")
    result = await operator.run(PROGRAMS[name])
    assert result["ok"], result
    assert result["output"]
    if name == "tail":
        assert result["output"].startswith("x\ny\ntail: inotify cannot be used, reverting to polling")


async def test_a_program_in_python_can_do_its_work(operator: Operator) -> None:
    """Calls of each group that is allowed, on top of what the interpreter uses."""
    result = await operator.attack(
        """
import asyncio, fcntl, mmap, select, signal, sqlite3, subprocess, tempfile, threading
first, second = os.pipe(); os.write(second, b"x"); os.read(first, 1); os.set_blocking(first, False)
poller = select.epoll(); poller.register(first); select.select([], [], [], 0); select.poll().poll(0)
with tempfile.TemporaryFile() as file:
    os.pwritev(file.fileno(), [b"a", b"b"], 0); os.preadv(file.fileno(), [bytearray(2)], 0)
    fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_EX); os.fdatasync(file.fileno())
    os.posix_fallocate(file.fileno(), 0, 10); mmap.mmap(file.fileno(), 10).flush(); os.ftruncate(file.fileno(), 5)
os.mkdir("d", 0o700); os.symlink("d", "s"); os.rename("d", "e"); os.utime("e"); os.rmdir("e"); os.unlink("s")
os.memfd_create("x"); mmap.mmap(-1, 4096).madvise(4); os.eventfd(0)
if (child := os.fork()) == 0: os._exit(3)
print(os.waitpid(child, 0)[1], os.pidfd_open(os.getpid()) > 0)
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join(); os.sched_yield()
signal.signal(signal.SIGALRM, lambda *_: print("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.001); signal.pause()
os.kill(os.getpid(), 0); signal.pthread_kill(threading.get_ident(), 0); signal.sigpending()
time.clock_getres(time.CLOCK_BOOTTIME); time.sleep(0.001); os.times(); os.getloadavg(); os.uname(); os.getrandom(4)
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
server.accept()[0].sendall(b"x"); client.recv(1); socket.socket(socket.AF_INET6); socket.socketpair()
local = socket.socket(socket.AF_UNIX); local.bind("socket"); socket.if_nameindex()
os.getpgid(0); os.getsid(0); os.getresuid(); os.getgroups(); os.setuid(os.getuid()); os.umask(0o22); os.nice(1)
resource.getrlimit(resource.RLIMIT_CPU); resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
resource.getrusage(0); os.sched_getaffinity(0); os.sched_setaffinity(0, os.sched_getaffinity(0))
os.getpriority(0, 0); os.setpriority(0, 0, 2); system.prctl(38, 1, 0, 0, 0); call(444, 0, 0, 1)
database = sqlite3.connect("db"); database.execute("pragma journal_mode = wal"); database.execute("create table t(a)")
async def main():
    await (await asyncio.create_subprocess_exec("true")).wait()
    print(await asyncio.to_thread(subprocess.check_output, ["echo", "end"], start_new_session=True))
asyncio.run(main())
"""
    )
    assert result["output"].split() == ["768", "True", "thread", "alarm", "b'end\\n'"], result
