"""The size of the installed package, and the time that importing it takes."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.common import Options, median
from bench.report import Row

ROOT = Path(__file__).resolve().parents[1]
IMPORT_BAR = 0.15
"""Seconds."""
SIZE_BAR = 75
"""MiB on disk."""


async def import_time(options: Options) -> list[Row]:
    """The time that ``import scheduledjob`` adds to a bare Python, measured alternately in new processes."""
    turns = [(_started("pass"), _started("import scheduledjob")) for _ in range(5 if options.quick else 21)]
    seconds = median([imported[0] - bare[0] for bare, imported in turns])
    cpu = median([imported[1] - bare[1] for bare, imported in turns])
    return [
        Row(
            "import scheduledjob",
            f"< {IMPORT_BAR:g} s",
            f"{seconds:.3f} s, {cpu:.3f} s CPU",
            seconds < IMPORT_BAR,
            details={"turns": turns},
        )
    ]


def _started(program: str) -> tuple[float, float]:
    """Return the elapsed and CPU seconds of a Python process that runs this code."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def installed_size(_: Options) -> list[Row]:
    """The size that `uv pip install` adds to a new virtual environment, with the versions of requirements.lock."""
    mebibytes = await asyncio.to_thread(_install)
    return [
        Row("installed, without extras", f"< {SIZE_BAR} MiB", f"{mebibytes:.0f} MiB", mebibytes < SIZE_BAR),
    ]


def _install() -> float:
    """Return the size of site-packages in MiB, as `du` counts it. uv writes no bytecode."""
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        uv = [sys.executable, "tools/uv.py", "pip", "install", "--quiet", "--python", f"{folder}/bin/python"]
        subprocess.run([*uv, "--require-hashes", "-r", "requirements.lock"], check=True, cwd=ROOT)
        subprocess.run([*uv, "--no-deps", "."], check=True, cwd=ROOT)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        blocks = sum(path.lstat().st_blocks for path in [packages, *packages.rglob("*")])
    return blocks * 512 / 2**20
