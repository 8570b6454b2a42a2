"""The limits of the operator's shutdown, and the places that repeat their sum."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduledjob.kube.operator_shutdown import limit_besides_grace
from scheduledjob.kube.settings.operator_settings import every_setting

CHART = Path(__file__).resolve().parents[2] / "charts/scheduledjob-operator"


def test_the_chart_gives_the_pod_the_sum_of_the_limits() -> None:
    template = (CHART / "templates/_names.tpl").read_text()
    least = re.search(r"\$least := add (\d+) ", template)
    more = re.search(r'eq \.Values\.store\.type "memory" -}}{{- add (\d+) \$least', template)
    assert least is not None
    assert int(least[1]) == limit_besides_grace(in_memory=False)
    assert more is not None
    assert int(least[1]) + int(more[1]) == limit_besides_grace(in_memory=True)


@pytest.mark.parametrize("page", ["values.yaml", "README.md"])
def test_the_chart_documents_the_sum_of_the_limits(page: str) -> None:
    text = (CHART / page).read_text()
    least = limit_besides_grace(in_memory=False)
    more = limit_besides_grace(in_memory=True) - least
    assert f"settings.grace plus {least:g} seconds" in text
    assert re.search(rf"memory,\s+(# )?{more:g} seconds more", text)


def test_the_help_says_the_sum_of_the_limits() -> None:
    """The settings repeat the numbers, because ``--help`` must not load what the operator needs at work."""
    (grace,) = (setting.description for setting in every_setting() if setting.name == "grace")
    assert f"at least {limit_besides_grace(in_memory=False):g} seconds longer" in grace
    assert f"{limit_besides_grace(in_memory=True):g} seconds longer with the store in memory" in grace


LEFT_A_THREAD = """
import asyncio, sys, threading
from scheduledjob.kube import operator
from scheduledjob.kube.settings.operator_settings import OperatorSettings

async def run(self):
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    return 5

operator.Operator.run = run
operator.THREADS_LIMIT = 0.1
sys.exit(operator.run_operator(OperatorSettings()))
"""


def test_a_thread_that_a_job_has_left_does_not_hold_up_the_end() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_A_THREAD], timeout=60, check=False)
    assert ended.returncode == 5
