"""A few hundred seeds of the simulation, the planted bugs, and the promise that a seed replays exactly.

``make simulate SEEDS=2000`` plays more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from .bugs import BUGS
from .checker import check
from .loop import SpinningError
from .scenario import play
from .strikes import Strikes

SEEDS = 240
AT_A_TIME = 20
SEEDS_FOR_A_BUG = 500
FIRST_SEEDS = {"starts need no lease": 180, "released rows go on": 60}
"""Where to begin to look for bugs that few seeds find. The other seeds follow."""
SEEDS_FOR_STRIKES = 300


@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_no_promise_is_broken(first: int) -> None:
    for seed in range(first, first + AT_A_TIME):
        wrong = check(play(seed))
        assert not wrong, f"python -m tests.simulation --seed {seed}"


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    plant, rule = BUGS[name]
    with plant():
        for number in range(SEEDS_FOR_A_BUG):
            seed = (FIRST_SEEDS.get(name, 0) + number) % SEEDS_FOR_A_BUG
            try:
                wrong = check(play(seed))
            except SpinningError:
                continue  # a symptom of the bug, but not the rule that has to find it
            if any(line.startswith(rule) for line in wrong):
                return
    pytest.fail(f"not found in {SEEDS_FOR_A_BUG} seeds")


def test_every_fault_strikes_and_has_an_effect() -> None:
    strikes = Strikes()
    for seed in range(SEEDS_FOR_STRIKES):
        strikes.add(play(seed).strikes)
        if not strikes.missing():
            return
    pytest.fail("\n".join(strikes.missing()))


def test_a_seed_replays_exactly() -> None:
    assert [astuple(event) for event in play(7).events] == [astuple(event) for event in play(7).events]


def test_a_seed_replays_exactly_in_another_process() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "11"],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
