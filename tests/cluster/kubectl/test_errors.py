"""Every command when things are not as hoped: one clear line on standard error, and an exit code that is not 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import typer.main
import yaml

from scheduledjob.cli.kubectl.plugin import app
from tests.cluster.e2e.operators import annotate, manifest
from tests.cluster.kubectl.support import Plugin

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import ApiClient, Cluster, ControlPlane

pytestmark = pytest.mark.cluster

ASKING = [
    ("list",),
    ("next",),
    ("next", "job"),
    ("describe", "job"),
    ("explain", "job"),
    ("trigger", "job"),
    ("trigger", "job", "--wait"),
    ("suspend", "job"),
    ("resume", "job"),
    ("cancel", "job"),
    ("history",),
    ("history", "job"),
    ("logs", "job"),
    ("convert", "job"),
    ("convert", "--all"),
    ("simulate",),
]
"""Every command that asks the API server; ``validate`` does not."""
NAMING = [each for each in ASKING if "job" in each]

WRONG = [
    (["lisst"], "Did you mean"),
    (["list", "--no-such"], "--no-such"),
    (["list", "-o", "xml"], "xml"),
    (["describe"], "Missing argument"),
    (["describe", "a", "b"], "unexpected extra argument"),
    (["next", "a", "-A"], "-A can't be combined with a name"),
    (["next", "--from", "tomorrow"], "write an instant with its offset"),
    (["next", "--from", "2026-12-01T00:00:00"], "has no offset from UTC"),
    (["next", "-c", "0"], "greater than or equal to 1"),
    (["explain", "0 0 1 1 *", "-o", "name"], "an expression has no name"),
    (["explain", "0 0 31 2 *"], "never fire"),
    (["explain", "0 0 * * *", "--tz", "Mars"], "Mars"),
    (["trigger", "a", "--timeout", "3"], "--timeout needs --wait"),
    (["trigger", "a", "--payload", "x" * 70_000], "at most 64 KiB"),
    (["suspend"], "Missing argument"),
    (["cancel", "a", "b", "c"], "unexpected extra argument"),
    (["resume"], "Missing argument"),
    (["history", "--instance", "a"], "--instance needs --store"),
    (["history", "--store", "memory:"], "the store in memory ends with its process"),
    (["history", "--store", "mysql://a"], "'mysql' names no store"),
    (["history", "--store", "postgresql://a", "-l", "a=b"], "-l can't be combined with --store"),
    (["history", "a", "--store", "postgresql://a", "-A"], "-A can't be combined with a name"),
    (["logs", "a", "-f", "--store", "postgresql://a"], "--follow can't be combined with --store"),
    (["history", "--limit", "0"], "greater than or equal to 1"),
    (["logs", "a", "--tail", "0"], "greater than or equal to 1"),
    (["validate"], "name files or directories, as in `validate jobs/`"),
    (["validate", "-f", "a", "-o", "xml"], "xml"),
    (["-n", "a"], "name a command"),
    (["list", "-n", "a/b"], "'a/b' can't be the name of a namespace"),
    (["list", "-l", "(("], '--selector "((": found'),
    (["convert", "--all", "-l", "=="], '--selector "=="'),
    (["describe", ".."], "'..' can't be the name of a ScheduledJob: use lower-case letters"),
    (["describe", ""], "'' can't be the name of a ScheduledJob"),
    (["suspend", "job/status"], "'job/status' can't be the name of a ScheduledJob"),
    (["convert", "../jobs/a"], "'../jobs/a' can't be the name of a CronJob"),
    (["convert", "a", "--all"], "name CronJobs of the cluster"),
    (["simulate", "--from", "2026-12-02T00:00:00Z", "--to", "2026-12-01T00:00:00Z"], "--to must be after --from"),
]
"""What was typed, and the error."""

every_command = pytest.mark.parametrize("arguments", ASKING, ids=" ".join)


def one_line(err: str) -> str:
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in err
    return lines[0]


async def refused(plugin: Plugin, *arguments: str) -> tuple[int, str]:
    """The exit code and the line on standard error, which are the same in a pipe and on a terminal."""
    piped = await plugin(*arguments)
    assert piped.out == ""
    line = one_line(piped.err)
    shown = await plugin.on_a_terminal(*arguments)
    assert shown.code == piped.code
    assert shown.plain == f"{line}\n"
    assert shown.out.startswith("\x1b[31merror:\x1b[0m ")
    return piped.code, line


def test_no_command_is_left_out() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group
    assert {each[0] for each in ASKING} | {"validate"} == commands
    assert {arguments[0] for arguments, _ in WRONG} >= commands


@every_command
async def test_no_permission(sjobs: Cluster, namespace: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    plugin = Plugin(sjobs.kubeconfig_for("nobody"), namespace, tmp_path)
    code, line = await refused(plugin, *arguments)
    assert code == 1
    assert 'User "nobody" cannot' in line
    assert namespace in line


@every_command
async def test_unreachable(sjobs: Cluster, namespace: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    plugin = Plugin(sjobs.kubeconfig, namespace, tmp_path)
    content = yaml.safe_load(plugin.kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    plugin.kubeconfig.write_text(yaml.safe_dump(content))
    code, line = await refused(plugin, *arguments)
    assert code == 1
    assert "the API server can't be reached" in line
    assert "127.0.0.1:1" in line


@pytest.mark.parametrize("arguments", NAMING, ids=" ".join)
async def test_missing(plugin: Plugin, namespace: str, arguments: tuple[str, ...]) -> None:
    code, line = await refused(plugin, *arguments)
    assert code == 1
    kind = "CronJob" if arguments[0] == "convert" else "ScheduledJob"
    assert f'there is no {kind} "job" in namespace "{namespace}"' in line


async def test_no_right_to_write(sjobs: Cluster, api: ApiClient, namespace: str, tmp_path: Path) -> None:
    await sjobs.apply(manifest("job", "every: 1h", "{custom: {kind: print}}"), "-n", namespace)
    await annotate(api, namespace, "job", run_now="asked-for")
    user = f"reader-{namespace}"
    rules = [{"apiGroups": ["scheduledjobs.dev"], "resources": ["scheduledjobs"], "verbs": ["get", "list", "watch"]}]
    version = "rbac.authorization.k8s.io/v1"
    metadata = {"name": "reader", "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules}
    binding = {
        "apiVersion": version,
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": group}],
    }
    await sjobs.apply(yaml.safe_dump_all([role, binding]))
    plugin = Plugin(sjobs.kubeconfig_for(user), namespace, tmp_path)
    assert (await plugin("list", "-o", "name")).out == "scheduledjob.scheduledjobs.dev/job\n"
    for act in (("trigger", "job"), ("trigger", "job", "--wait"), ("suspend", "job"), ("cancel", "job", "asked-for")):
        code, line = await refused(plugin, *act)
        assert code == 1
        assert "cannot patch resource" in line
    await sjobs.apply(manifest("job", "every: 1h", "{custom: {kind: print}}", "  suspend: true"), "-n", namespace)
    assert "cannot patch resource" in (await refused(plugin, "resume", "job"))[1]
    described = await plugin("describe", "job")
    assert described.code == 0
    assert "cannot list resource" in described.out  # Events; the rest is shown all the same
    done = await plugin("logs", "job")
    assert done.code == 1
    assert 'cannot list resource "pods"' in one_line(done.err)


async def test_a_cluster_without_the_operator(own_cluster: ControlPlane, tmp_path: Path) -> None:
    plugin = Plugin(own_cluster.kubeconfig, "default", tmp_path)
    for arguments in (("list",), ("describe", "job"), ("suspend", "job")):
        done = await plugin(*arguments)
        assert done.code == 1
        assert "the cluster knows no ScheduledJobs: install the operator, or its CRD" in one_line(done.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    WRONG,
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
async def test_wrong_arguments(plugin: Plugin, arguments: list[str], words: str) -> None:
    code, line = await refused(plugin, *arguments)
    assert code == 2
    assert words in line


@pytest.mark.parametrize("command", ["validate", "convert", "simulate"])
async def test_a_file_that_is_not_there(plugin: Plugin, command: str) -> None:
    done = await plugin(command, "-f", "/does/not/exist")
    assert done.code == 2
    words = "/does/not/exist: no such file or directory\n"
    assert (done.out, done.err) == (
        ("", words) if command != "validate" else (words, "1 fault; 0 valid jobs in 0 files\n")
    )
    shown = await plugin.on_a_terminal(command, "-f", "/does/not/exist")
    assert (shown.code, shown.plain) == (2, done.out + done.err)


async def test_one_of_several_that_is_not_there(sjobs: Cluster, plugin: Plugin, namespace: str) -> None:
    """What was typed wrongly keeps nothing from being done that was not."""
    for name in ("a", "b"):
        await sjobs.apply(manifest(name, "every: 1h", "{custom: {kind: print}}"), "-n", namespace)
    for act, words in (("suspend", "suspended"), ("resume", "resumed")):
        done = await plugin(act, "none", "a", "nil", "b", "a")
        assert done.code == 1
        assert done.out.splitlines() == [f"scheduledjob.scheduledjobs.dev/{name} {words}" for name in ("a", "b")]
        assert f'there is no ScheduledJob "none", "nil" in namespace "{namespace}"' in one_line(done.err)


async def test_a_pipe(plugin: Plugin) -> None:
    text = manifest("job", "every: 1h", "{custom: {kind: print}}")
    assert (await plugin("validate", "-f", "-", input=text)).out == "no faults; 1 valid job in 1 file\n"
    drawn = await plugin("simulate", "-f", "-", "--from", "2026-12-01T00:00:00Z", input=text)
    assert drawn.out.startswith("1 job, 24 starts from ")
    done = await plugin("validate", "-f", "-", input=text.replace("every", "evry"))
    assert done.code == 2
    assert "/dev/stdin:" in done.out


async def test_a_wrong_kubeconfig_or_context(plugin: Plugin, tmp_path: Path) -> None:
    for arguments in (("--context", "nope"), ("--kubeconfig", str(tmp_path / "nope"))):
        done = await plugin("list", *arguments)
        assert done.code == 1
        assert "nope" in one_line(done.err)


async def test_options_may_stand_before_the_command(plugin: Plugin) -> None:
    done = await plugin("-n", "default", "list")
    assert (done.code, done.err) == (0, 'no ScheduledJobs in namespace "default" (-A for all)\n')


async def test_a_reader_that_goes_away(plugin: Plugin) -> None:
    process = await plugin.start("simulate", "-f", "examples", "-o", "json")
    assert process.stdout is not None
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # there is no other way to it
    assert process.stderr is not None
    err = await process.stderr.read()
    await process.wait()
    assert b"Traceback" not in err
