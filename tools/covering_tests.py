"""A plugin of pytest for ``make mutants``: record which tests run which lines, or run chosen tests only.

``MUTANTS_RECORD`` names a file that gets, for each module, the tests that ran each line, and how long each test took.
``MUTANTS_TESTS`` names a file with the tests to run, one on each line; ``MUTANTS_FAILED`` one that gets those that
fail. Examples of Hypothesis are always the same here, few while lines are recorded, and a failing one is not made
smaller.
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
from _pytest.runner import runtestprotocol

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


RECORDED_EXAMPLES = 20
"""Few, because lines are recorded slowly, and other examples rarely run other lines."""


class Recorder:
    """Writes which tests run which lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(data_file=None, config_file=False, source=["operator/scheduledjob"])
        self._coverage.start()  # when this plugin is loaded, so before a module of the program is imported

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            function, cls = getattr(item, "obj", None), getattr(item, "cls", None)
            for owner, name in ((function, "_hypothesis_internal_use_settings"), (cls, "settings")):
                if isinstance(given := getattr(owner, name, None), hypothesis.settings):
                    setattr(owner, name, hypothesis.settings(given, max_examples=RECORDED_EXAMPLES))

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

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run a test, and once more if it fails: one that fails by chance proves nothing."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if any(report.failed for report in reports) and isinstance(item, pytest.Function):
            item._initrequest()  # so that its fixtures are set up again
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if any(report.failed for report in reports):
            self._failed.write_text(item.nodeid)
        return True


_record = os.environ.get("MUTANTS_RECORD")
_plugin: Recorder | Selection = (
    Recorder(Path(_record))
    if _record
    else Selection(Path(os.environ["MUTANTS_TESTS"]), Path(os.environ["MUTANTS_FAILED"]))
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_plugin)
