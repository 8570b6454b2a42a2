"""Shell jobs, well-behaved and not, with real processes.

After each test, no process that it started may be alive, and the helper may have no child left: see ``running``.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import resource
from typing import TYPE_CHECKING

import pytest

from scheduledjob.engine.executor import OUTPUT_LIMIT, Value
from scheduledjob.jobs.shell import environment
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.jobs.shell.shell_spec import ShellLimits
from scheduledjob.jobs.shell.spawner.processes import status_of
from tests.jobs.shell_support import Reports, attempt_of, bearing, descendants, helper_pid, is_alive, running, until

if TYPE_CHECKING:
    from pathlib import Path

    from scheduledjob.engine.executor import Attempt


# ---- what a job gets


async def test_the_environment_describes_the_attempt_and_has_nothing_else_of_ours(
    executor: ShellExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SJOB_STORE", "postgresql://u:p@h/d")
    attempt = attempt_of("exec env -0", payload=b'{"a": 1}\n', env={"REGION": Value("eu")})
    result = await executor.run(attempt)
    variables = dict(item.split(b"=", 1) for item in result.output.split(b"\0") if item)
    for name in (b"PATH", b"HOME", b"LANG", b"TZ"):
        assert variables.pop(name, None) == os.environb.get(name)
    # Variables that shells set themselves.
    for name in (b"PWD", b"OLDPWD", b"SHLVL", b"_"):
        variables.pop(name, None)
    assert variables == {
        b"REGION": b"eu",
        b"USER": os.fsencode(pwd.getpwuid(os.geteuid()).pw_name),
        b"LOGNAME": os.fsencode(pwd.getpwuid(os.geteuid()).pw_name),
        b"SHELL": b"/bin/sh",
        b"SCHEDULEDJOB_NAME": b"nightly",
        b"SCHEDULEDJOB_NAMESPACE": b"team-a",
        b"SCHEDULEDJOB_UID": b"6c7f",
        b"SCHEDULEDJOB_SLOT": b"2026-12-01T10:00:00Z",
        b"SCHEDULEDJOB_ATTEMPT": b"2",
        b"SCHEDULEDJOB_RUN_ID": attempt.run_id.encode(),
        b"SCHEDULEDJOB_VERSION": b"1",
        b"SCHEDULEDJOB_PAYLOAD": b'{"a": 1}\n',
    }


async def test_the_variables_of_cron_are_set_and_the_spec_can_replace_them(executor: ShellExecutor) -> None:
    name = pwd.getpwuid(os.geteuid()).pw_name
    command = 'set -u; echo "$LOGNAME $SHELL $USER"'
    assert (await executor.run(attempt_of(command))).output.decode() == f"{name} /bin/sh {name}\n"
    result = await executor.run(attempt_of(command, shell="/bin/bash", env={"USER": Value("other")}))
    assert result.output.decode() == f"{name} /bin/bash other\n"


def test_home_is_that_of_the_password_database_if_it_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert environment.inherited()[b"HOME"] == os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)


def test_a_user_without_an_entry_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000_001)
    monkeypatch.delenv("HOME")
    for variables in (environment.inherited(), environment.confined()):
        assert (variables[b"USER"], variables[b"LOGNAME"]) == (b"4000000001", b"4000000001")
        assert b"HOME" not in variables


async def test_the_largest_payload_is_in_the_variable_and_on_standard_input(executor: ShellExecutor) -> None:
    payload = ("ü" * 32768).encode()
    assert len(payload) == 65536
    result = await executor.run(attempt_of('wc -c; printf %s "$SCHEDULEDJOB_PAYLOAD" | wc -c', payload=payload))
    assert result.output.split() == [b"65536", b"65536"]


@pytest.mark.parametrize("command", ["true", "exec <&-; true", "head -c 1 > /dev/null"])
async def test_a_job_need_not_read_its_payload(executor: ShellExecutor, command: str) -> None:
    assert (await executor.run(attempt_of(command, payload=b"x" * 65536))).ok


async def test_without_a_payload_standard_input_is_empty(executor: ShellExecutor) -> None:
    result = await executor.run(attempt_of('wc -c; echo "[$SCHEDULEDJOB_PAYLOAD]"'))
    assert result.output == b"0\n[]\n"


async def test_a_job_has_three_open_files(executor: ShellExecutor, reports: Reports) -> None:
    # Other jobs run at the same time, whose pipes it might inherit.
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(executor.run(attempt_of(f"echo up > {reports.path}; exec sleep 1000", payload=b"x")))
        await reports.line()
        result = await executor.run(attempt_of("exec ls /proc/self/fd", payload=b"x"))
        # The fourth is the directory that ls reads.
        assert result.output.split() == [b"0", b"1", b"2", b"3"]
        beside.cancel()


async def test_limits_apply_to_the_job_and_not_to_the_helper() -> None:
    limits = ShellLimits(cpu_seconds=7, memory_bytes=512 << 20, open_files=99, file_bytes=1 << 20)
    async with running(ShellExecutor(limits)) as executor:
        result = await executor.run(attempt_of("ulimit -t; ulimit -v; ulimit -n; ulimit -c; echo $PPID"))
        *numbers, helper = result.output.split()
        assert numbers == [b"7", str(512 << 10).encode(), b"99", b"0"]
        # The helper has them while it starts a job, and the job may be faster.
        soft, hard = resource.prlimit(int(helper), resource.RLIMIT_NOFILE)
        assert soft == hard
        result = await executor.run(attempt_of("exec head -c 2000000 /dev/zero > $HOME/x", env={"HOME": Value("/tmp")}))
        os.unlink("/tmp/x")
        assert result.reason == "killed by SIGXFSZ"


async def test_a_limit_that_is_too_low_for_any_job_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_bytes: 1000 is too little; at least 67108864"):
        ShellLimits(memory_bytes=1000)


async def test_signals_that_the_helper_ignores_are_not_ignored_by_jobs(executor: ShellExecutor) -> None:
    result = await executor.run(attempt_of("exec grep -E '^Sig(Blk|Ign)' /proc/self/status"))
    blocked, ignored = (int(mask, 16) for mask in result.output.split()[1::2])
    # 32 and 33 belong to the C library, which does not allow to change them.
    assert (blocked, ignored & ~(0b11 << 31)) == (0, 0)


async def test_a_job_runs_where_its_spec_says(executor: ShellExecutor, tmp_path: Path) -> None:
    assert (await executor.run(attempt_of("pwd -P", working_dir=str(tmp_path)))).output == f"{tmp_path}\n".encode()
    assert (await executor.run(attempt_of("pwd -P"))).output == f"{os.getcwd()}\n".encode()


# ---- how a job ends


@pytest.mark.parametrize(
    ("command", "reason", "code"),
    [
        ("exit 3", "exit code 3", 3),
        ("exit 255", "exit code 255", 255),
        ("no-such-command", "exit code 127 (command not found)", 127),
        ("/etc/passwd", "exit code 126 (command can't be executed)", 126),
        ("kill -SEGV $$", "killed by SIGSEGV", None),
        ("kill -KILL $$", "killed by SIGKILL", None),
        ("kill -40 $$", "killed by signal 40", None),
    ],
)
async def test_the_reason_says_how_a_job_failed(
    executor: ShellExecutor, command: str, reason: str, code: int | None
) -> None:
    result = await executor.run(attempt_of(command))
    assert (result.ok, result.reason, result.code) == (False, reason, code)


async def test_an_exit_code_can_complete_the_schedule(executor: ShellExecutor) -> None:
    result = await executor.run(attempt_of("exit 100", complete_exit_codes=frozenset({100})))
    assert (result.ok, result.complete, result.code, result.reason) == (True, True, 100, "")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"shell": "/bin/nope"}, "can't start /bin/nope: No such file or directory"),
        ({"shell": "/etc/passwd"}, "can't start /etc/passwd: Permission denied"),
        ({"shell": "bash"}, "shell: 'bash' is not an absolute path; write it like /bin/sh"),
        ({"working_dir": "/nope"}, "working directory /nope: No such file or directory"),
        ({"working_dir": "/etc/passwd"}, "working directory /etc/passwd: Not a directory"),
        ({"working_dir": "/\0"}, "workingDir: contains a NUL character, which no process can be given; leave it out"),
        ({"command": "echo \0"}, "command: contains a NUL character, which no process can be given; leave it out"),
        ({"env": {"A": Value("\ud800")}}, "env A: not valid text: it contains half of a surrogate pair"),
        ({"env": {"A=B": Value("")}}, "env: 'A=B' can't be a variable's name: it must not be empty or contain '='"),
        ({"env": {"SCHEDULEDJOB_X": Value("")}}, "env SCHEDULEDJOB_X: names that begin with SCHEDULEDJOB_ are"),
        ({"env": {"A": Value("x" * 200_000)}}, "env A: 200000 bytes; Linux allows 131069 here: put it into a file"),
        ({"env": {"A": Value(secret=("s", "k"))}}, "Secret s, key k: there are no Secrets here"),
        ({"env": {str(n): Value("x" * 130_000) for n in range(60)}}, "can't start /bin/sh: Argument list too long"),
    ],
)
async def test_a_job_that_can_not_be_started_says_why(
    executor: ShellExecutor, spec: dict[str, object], reason: str
) -> None:
    result = await executor.run(attempt_of(**{"command": "true", **spec}))  # type: ignore[arg-type]  # by design
    assert not result.ok
    assert result.reason.startswith(reason)
    # The helper still has its own directory and limits.
    assert (await executor.run(attempt_of("pwd -P"))).output == f"{os.getcwd()}\n".encode()


async def test_a_timeout_lets_a_job_clean_up(executor: ShellExecutor, reports: Reports) -> None:
    command = f"trap 'echo bye; exit 0' TERM; echo up > {reports.path}; while :; do sleep 0.01; done"
    result = await executor.run(attempt_of(command, timeout=1.0))
    assert (result.ok, result.reason) == (False, "timed out after 1s")
    # The shell may also print that its sleep was terminated.
    assert result.output.endswith(b"bye\n")


@pytest.mark.parametrize(
    "command",
    [
        "trap '' TERM; sleep 1000; sleep 1000",
        "trap '' TERM HUP INT; (trap '' TERM; sleep 1000) & sleep 1000 & wait; wait; sleep 1000",
        "kill -STOP $$",
    ],
)
async def test_a_timeout_kills_a_job_that_ignores_term(executor: ShellExecutor, command: str) -> None:
    result = await executor.run(attempt_of(command, timeout=0.1))
    assert result.reason == "timed out after 100ms"


async def test_a_stopped_job_can_clean_up_too(executor: ShellExecutor, reports: Reports, tmp_path: Path) -> None:
    command = f"trap 'echo bye > {tmp_path}/bye; exit' TERM; echo $$ > {reports.path}; kill -STOP $$"
    task = asyncio.create_task(executor.run(attempt_of(command)))
    job = int(await reports.line())
    await until(lambda: (status_of(job) or "?")[0] == "T")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "bye").read_text() == "bye\n"


async def test_a_cancel_sends_term_first(executor: ShellExecutor, reports: Reports, tmp_path: Path) -> None:
    command = f"trap 'echo bye > {tmp_path}/bye; exit' TERM; echo up > {reports.path}; while :; do sleep 0.01; done"
    task = asyncio.create_task(executor.run(attempt_of(command)))
    await reports.line()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "bye").read_text() == "bye\n"


async def test_a_cancelled_run_ends_after_its_job_however_often_it_is_cancelled(
    executor: ShellExecutor, reports: Reports
) -> None:
    attempt = attempt_of(f"trap '' TERM; echo up > {reports.path}; while :; do sleep 0.01; done")
    task = asyncio.create_task(executor.run(attempt))
    await reports.line()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    assert bearing(attempt.run_id)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bearing(attempt.run_id) == []


async def test_a_cancel_before_the_start_starts_nothing(executor: ShellExecutor, tmp_path: Path) -> None:
    tasks = [asyncio.create_task(executor.run(attempt_of(f"echo x >> {tmp_path}/{n}"))) for n in range(200)]
    await asyncio.sleep(0)
    for task in tasks[100:]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(not isinstance(result, BaseException) and result.ok for result in results[:100])
    assert all(isinstance(result, asyncio.CancelledError) for result in results[100:])
    assert descendants(helper_pid(executor)) == set()


# ---- what a job leaves behind

LEFTOVERS = {
    "a child in the background": "sleep 1000 &",
    "a child that holds the output open": "(trap '' HUP TERM; sleep 1000) & echo main",
    "fifty children": "for n in 1 2 3 4 5; do (for m in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait) & done",
    "a session of its own": "setsid sleep 1000 &",
    "a daemon": "setsid sh -c 'setsid sh -c \"exec sleep 1000 <&- >&- 2>&-\" & exit' & wait",
    "a family of daemons": "for n in 1 2 3; do setsid sh -c 'setsid sleep 1000 & setsid sleep 1000 & wait' & done",
    "a daemon without an environment": "env -i setsid sh -c 'setsid sleep 1000 & exit' & wait",
    "one that has closed everything": "exec >&- 2>&- <&-; sleep 1000 & exit",
    "one that is stopped": "setsid sh -c 'kill -STOP $$' & while ! grep -q 'T (stop' /proc/$!/status; do :; done",
}


@pytest.mark.parametrize("end", ["exit", "timeout", "cancel"])
@pytest.mark.parametrize("leftover", LEFTOVERS)
async def test_nothing_outlives_a_run(executor: ShellExecutor, reports: Reports, leftover: str, end: str) -> None:
    command = f"{LEFTOVERS[leftover]}\necho up > {reports.path}" + ("" if end == "exit" else "; sleep 1000")
    if leftover == "one that has closed everything":
        command = f"echo up > {reports.path}; {LEFTOVERS[leftover]}"
    task = asyncio.create_task(executor.run(attempt_of(command, timeout=0.3 if end == "timeout" else None)))
    await reports.line()
    if end == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        result = await task
        assert result.ok is (end == "exit" or leftover == "one that has closed everything")
    assert descendants(helper_pid(executor)) == set()


async def test_the_leftovers_of_a_job_do_not_affect_another(executor: ShellExecutor, reports: Reports) -> None:
    """The orphans of a running job are left alone when another job ends."""
    command = f"(setsid sh -c 'echo $$ > {reports.path}; exec sleep 1000' &); (sleep 1000 &); sleep 1000"
    task = asyncio.create_task(executor.run(attempt_of(command)))
    orphan = int(await reports.line())
    for _ in range(10):
        assert (await executor.run(attempt_of("setsid sleep 1000 & true"))).ok
    assert is_alive(orphan)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(orphan)


# ---- output


async def test_output_and_errors_are_merged_in_order(executor: ShellExecutor) -> None:
    result = await executor.run(attempt_of("for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done"))
    assert result.output == b"".join(b"out %d\nerr %d\n" % (n, n) for n in range(1, 6))


async def test_a_hundred_megabytes_are_kept_as_head_and_tail(executor: ShellExecutor) -> None:
    result = await executor.run(attempt_of("echo first; head -c 100000000 /dev/zero; echo; echo last"))
    assert result.ok
    assert len(result.output) <= OUTPUT_LIMIT
    head, rest = result.output.split(b"\n[... ")
    left_out, tail = rest.split(b" bytes left out ...]\n", 1)
    assert head.startswith(b"first\n\0")
    assert tail.endswith(b"\0\nlast\n")
    assert int(left_out) + len(head) + len(tail) == len(b"first\n") + 100_000_000 + len(b"\nlast\n")


async def test_any_byte_may_be_printed(executor: ShellExecutor) -> None:
    result = await executor.run(attempt_of("exec cat", payload=bytes(range(256))))
    assert result.output == bytes(range(256))


async def test_a_job_that_fails_has_its_output_too(executor: ShellExecutor) -> None:
    assert (await executor.run(attempt_of("echo why; exit 1"))).output == b"why\n"
    assert (await executor.run(attempt_of("echo why; sleep 1000", timeout=0.2))).output == b"why\n"


class OneSecret:
    """References that resolve everything to one value."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        return b"correct horse battery staple\n"


async def test_secrets_do_not_get_into_the_output(executor: ShellExecutor) -> None:
    env = {"PASSWORD": Value(secret=("db", "password")), "SHOWN": Value("plain")}
    result = await executor.run(attempt_of('echo "<$PASSWORD$SHOWN>"', env=env, references=OneSecret()))
    assert result.output == b"<***plain>\n"


async def test_a_payload_from_a_secret_does_not_get_into_the_output(executor: ShellExecutor) -> None:
    attempt = attempt_of('echo "<$SCHEDULEDJOB_PAYLOAD>"; cat', payload=b"correct horse\n")
    attempt.payload_is_secret = True
    assert (await executor.run(attempt)).output == b"<***>\n***"


async def test_a_secret_on_either_cut_is_masked(executor: ShellExecutor) -> None:
    env = {"PASSWORD": Value(secret=("db", "password"))}
    for before in range(1000, 1026):
        command = f'head -c {before} /dev/zero; printf %s "$PASSWORD"; head -c 5000 /dev/zero; printf %s "$PASSWORD";'
        command += f"head -c {before + 1980} /dev/zero"
        output = (await executor.run(attempt_of(command, env=env, references=OneSecret()))).output
        assert len(output) <= OUTPUT_LIMIT
        for piece in (b"corr", b"horse", b"batt", b"aple"):
            assert piece not in output


# ---- many jobs


async def test_a_thousand_short_jobs_at_once(executor: ShellExecutor) -> None:
    attempts: list[Attempt] = [attempt_of("read line; echo $line", payload=b"%d\n" % n) for n in range(1000)]
    results = await asyncio.gather(*map(executor.run, attempts))
    assert [result.output for result in results] == [b"%d\n" % n for n in range(1000)]


async def test_a_thousand_jobs_that_run_at_the_same_time(executor: ShellExecutor, reports: Reports) -> None:
    """None ends before all have started, so that the helper has them all at once."""
    tasks = [
        asyncio.create_task(executor.run(attempt_of(f"echo > {reports.path}; exec sleep 1000"))) for _ in range(1000)
    ]
    for _ in tasks:
        await reports.line()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


PRINTED = {
    "base64": 'printf %s "user:$PASSWORD" | base64',
    "base64 in lines": 'printf "%s\\n" "$PASSWORD" | base64 -w 20',
    "od": 'printf %s "$PASSWORD" | od -An -v -tx1 -w64',
    "set -x": 'set -x; test "$PASSWORD" = ""',
    "printf %q": "bash -c 'printf %q \"$PASSWORD\"'",
    "env": "env",
    "fold": 'printf %s "$PASSWORD" | fold -w 7',
    "sed": 'printf %s "$PASSWORD" | sed -n l',
    "python": "python3 -c 'import os; print([os.environ[\"PASSWORD\"]])'",
    "json": "python3 -c 'import json, os; print(json.dumps(json.dumps(os.environ[\"PASSWORD\"])))'",
    "traceback": "python3 -c 'import os; raise ValueError(os.environ[\"PASSWORD\"])'",
    "urlencode": 'python3 -c \'import os, urllib.parse as u; print(u.urlencode({"p": os.environ["PASSWORD"]}))\'',
    "utf-16": 'python3 -c \'import os, sys; sys.stdout.buffer.write(os.environ["PASSWORD"].encode("utf-16"))\'',
    "error": '"./$PASSWORD"',
}


@pytest.mark.parametrize("way", sorted(PRINTED))
async def test_a_value_of_a_secret_is_masked_however_a_program_prints_it(executor: ShellExecutor, way: str) -> None:
    password = "hunter2 of/the 'data\\base\" & <p@ss>"

    class OneSecret:
        async def resolve(self, kind: str, name: str, key: str) -> bytes:
            return password.encode()

    result = await executor.run(
        attempt_of(PRINTED[way], env={"PASSWORD": Value(secret=("team-a/db", "key"))}, references=OneSecret())
    )
    assert b"***" in result.output, result.output
    left = result.output.replace(b"\0", b"").replace(b"\n", b"")
    for word in (b"hunter2", b"base", b"p@ss", b"p%40ss", b"68 75 6e 74", b"HVudGVyMi", b"1bnRlcjIg"):
        assert word not in left, result.output
