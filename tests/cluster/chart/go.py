"""Small Go programs that let a test ask a library of others what it makes of something, built from pinned modules."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING

from tests.cluster.harness import binaries
from tests.support.absent import do_without

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


async def answers(module: Path, lines: Sequence[str]) -> str:
    """What the program in this folder says to these lines."""
    program = str(await asyncio.to_thread(_built, module))
    process = await asyncio.create_subprocess_exec(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = await process.communicate("".join(f"{line}\n" for line in lines).encode())
    assert process.returncode == 0
    return output.decode()


@cache
def _built(module: Path) -> Path:
    """Built once by each process, since what it was built from may have changed."""
    if shutil.which("go") is None:
        do_without(
            "a Kubernetes control plane", f"there is no Go to build {module.name} with: install Go 1.26 or newer"
        )
    target = binaries.cache() / module.name
    target.parent.mkdir(parents=True, exist_ok=True)
    unstored = target.with_name(f".{module.name}.{os.getpid()}")  # another process may be running the one that is there
    command = ["nice", "go", "build", "-mod=readonly", "-o", str(unstored), "."]
    built = subprocess.run(command, cwd=module, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise AssertionError(f"`{' '.join(command)}` in {module} failed:\n{built.stderr[-4000:]}")
    unstored.replace(target)
    return target
