"""A plugin of pytest for ``make mutants``: record which tests run which lines, or run chosen tests only.

``MUTANTS_RECORD`` names a file that gets, for each module, the tests that ran each line, and how long each test took.
``MUTANTS_TESTS`` names a file with the tests to run, one on each line; ``MUTANTS_FAILED`` one that gets those that
fail. Examples of Hypothesis are always the same here, and a failing one is not made smaller.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import coverage
import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

hypothesis.settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile("mutants")


class Recorder:
    """Writes which tests run which lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(data_file=None, config_file=False, source=["operator/scheduledjob"])
        self._coverage.start()  # when this plugin is loaded, so before a module of the program is imported

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began = time.monotonic()
        self._coverage.switch_context(item.nodeid)
        result = yield
        self._coverage.switch_context("")
        self._seconds[item.nodeid] = time.monotonic() - began
        return result

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            str(Path(name).relative_to(Path.cwd())): {
                line: [test for test in tests if test] for line, tests in data.contexts_by_lineno(name).items()
            }
            for name in data.measured_files()
        }
        self._path.write_text(json.dumps({"lines": lines, "seconds": self._seconds}))


class Selection:
    """Runs chosen tests only, in their order, and writes down those that fail."""

    def __init__(self, tests: Path, failed: Path) -> None:
        self._order = {test: number for number, test in enumerate(tests.read_text().splitlines())}
        self._failed = failed

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self._failed.open("a") as file:
                file.write(report.nodeid + "\n")


_record = os.environ.get("MUTANTS_RECORD")
_plugin: Recorder | Selection = (
    Recorder(Path(_record))
    if _record
    else Selection(Path(os.environ["MUTANTS_TESTS"]), Path(os.environ["MUTANTS_FAILED"]))
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_plugin)
