"""`make cluster`, `make node` and `make cluster-down`: one cluster of the harness that stays, to try things on.

A process in the background holds it, as pytest holds the clusters of tests, and says in a file what runs. `up` starts
that process, `node` asks it for a node with SIGUSR1, `down` ends it with SIGTERM. `build` is for `make test-cluster`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from image.build import archive
from tests.cluster.harness.binaries import CONTROL_PLANE, NODE, cache, programs
from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.node import Node
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("build", "up", "node", "down")
UP_SECONDS = 90.0
DOWN_SECONDS = 60.0
_MODULE = "tests.cluster.harness"


def main(arguments: list[str]) -> int:
    if arguments == ["serve"]:
        asyncio.run(_serve())
        return 0
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(f"usage: python -m {_MODULE} {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        if arguments == ["build"]:
            _build()
        elif arguments == ["down"]:
            _down()
        else:
            _up(node=arguments == ["node"])
    except ServerUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _build() -> None:
    """Build what the tests would, where its progress is seen."""
    if not os.environ.get("TEST_KUBECONFIG"):
        programs([*CONTROL_PLANE, *(NODE if os.geteuid() == 0 else ())])


def _up(*, node: bool) -> None:
    kubectl = programs([*CONTROL_PLANE, *(NODE if node else ())])["kubectl"]
    holder = _holder()
    started_here = holder is None
    if holder is None:
        _folder().mkdir(parents=True, exist_ok=True)
        _state_file().unlink(missing_ok=True)
        with _log().open("wb") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", _MODULE, "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        _write({"pid": started.pid})  # so that `down` finds it from the start
        holder = psutil.Process(started.pid)
    try:
        state = _wait(holder, "kubeconfig")
    except ServerUnavailableError:
        if started_here:
            _down()
        raise
    if node and not state.get("node"):
        _write(state | {"refused": ""})
        holder.send_signal(signal.SIGUSR1)
        state = _wait(holder, "node")
    print(f"export KUBECONFIG={state['kubeconfig']}", flush=True)
    print(f"kubectl: {kubectl}; make cluster-down ends it", file=sys.stderr)
    for line in _about_images(state, archive()):
        print(line, file=sys.stderr)


def _about_images(state: dict[str, Any], image: Path) -> list[str]:
    """How the image of `make image` comes to the node, which pulls none; nothing without a node."""
    if not state.get("importing"):
        return []
    command = shlex.join([*state["importing"], str(image)])
    built = "" if image.exists() else ", after `make image`"
    return [
        f"the node pulls no image; this line, as root{built}, gives it the operator's (again after each build):",
        command,
    ]


def _wait(holder: psutil.Process, what: str) -> dict[str, Any]:
    """The state once it says `what`."""
    deadline = time.monotonic() + UP_SECONDS
    while not (state := _state()).get(what):
        if refused := state.get("refused"):
            raise ServerUnavailableError(refused)
        if not holder.is_running() or holder.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            raise ServerUnavailableError(f"the cluster did not start:\n{_log().read_text()[-4000:]}")
        time.sleep(0.05)
    return state


def _down() -> None:
    holder = _holder()
    if holder is None:
        print("no cluster runs", file=sys.stderr)
        return
    holder.terminate()
    try:
        holder.wait(DOWN_SECONDS)
    except psutil.TimeoutExpired as error:
        raise ServerUnavailableError(f"process {holder.pid} did not end; its log is {_log()}") from error


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    end, node_wanted = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    loop.add_signal_handler(signal.SIGUSR1, node_wanted.set)
    try:
        async with ControlPlane() as cluster:
            state: dict[str, Any] = {"pid": os.getpid(), "kubeconfig": str(cluster.kubeconfig)}
            _write(state)
            ending, wanted = asyncio.create_task(end.wait()), asyncio.create_task(node_wanted.wait())
            await asyncio.wait([ending, wanted], return_when=asyncio.FIRST_COMPLETED)
            if not end.is_set():
                await _hold_node(cluster, state, end)
            wanted.cancel()
            await ending
    finally:
        _state_file().unlink(missing_ok=True)


async def _hold_node(cluster: ControlPlane, state: dict[str, Any], end: asyncio.Event) -> None:
    try:
        async with Node(cluster) as node:
            _write(state | {"node": True, "importing": node.importing})
            await end.wait()
    except ServerUnavailableError as error:
        _write(state | {"refused": str(error)})


def _holder() -> psutil.Process | None:
    """The process that holds the cluster, unless its id belongs to another by now."""
    try:
        process = psutil.Process(_state().get("pid", 0) or -1)
        return process if _MODULE in process.cmdline() else None
    except (psutil.Error, ValueError):
        return None


def _state() -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(_state_file().read_text())
    except FileNotFoundError:
        return {}
    return state


def _write(state: dict[str, Any]) -> None:
    new = _state_file().with_suffix(".new")
    new.write_text(json.dumps(state))
    new.rename(_state_file())


def _folder() -> Path:
    return cache().parent / "running"


def _state_file() -> Path:
    return _folder() / "state.json"


def _log() -> Path:
    return _folder() / "log"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
