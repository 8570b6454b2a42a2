"""A plugin of pytest for ``make mutants``: record which tests run which lines, or test mutants, each in a fork.

``MUTANTS_RECORD`` names a file that gets, for each module, the tests that ran each line, and how long each test took.
``MUTANTS_PLANTED`` names a file with mutants and their tests; ``MUTANTS_RESULTS`` one that gets a line for each mutant.
Modules and tests are imported once. A fork replaces the code of the functions that a mutant changes, so that each
mutant costs only its tests. Examples of Hypothesis are always the same, and a failing one is not made smaller.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import time
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import coverage
import hypothesis
import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

RECORDED_EXAMPLES = 20
"""Of Hypothesis, while lines are recorded, which is slow."""

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

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            function, cls = getattr(item, "obj", None), getattr(item, "cls", None)
            for owner, name in ((function, "_hypothesis_internal_use_settings"), (cls, "settings")):
                if isinstance(given := getattr(owner, name, None), hypothesis.settings):
                    setattr(owner, name, hypothesis.settings(given, max_examples=RECORDED_EXAMPLES))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began = time.process_time()
        self._coverage.switch_context(item.nodeid)
        result = yield
        self._coverage.switch_context("")
        self._seconds[item.nodeid] = time.process_time() - began
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


class Server:
    """Tests mutants instead of the program."""

    def __init__(self, planted: Path, results: Path) -> None:
        self._planted = planted
        self._results = results

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        with self._results.open("a") as results:
            for line in self._planted.read_text().splitlines():
                mutant = json.loads(line)
                tests = [items[test] for test in mutant["tests"] if test in items]
                results.write(self._judge(session, mutant, tests) + "\n")
                results.flush()
        return True

    def _judge(self, session: pytest.Session, mutant: dict[str, Any], tests: list[pytest.Item]) -> str:
        """Return what notices the mutant, or an empty text."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CPU, (mutant["cpu_limit"], mutant["cpu_limit"]))
            noticed_by = "an error"
            try:
                plant(mutant["module"], mutant["path"], mutant["code"])
                noticed_by = first_failing(session, tests) or first_broken_seed(mutant["seeds"])
            finally:
                os.write(writing, (noticed_by or "nothing").encode())
                os._exit(0)
        os.close(writing)
        end = time.monotonic() + mutant["limit"]
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        with os.fdopen(reading) as pipe:
            noticed_by = pipe.read() or "the time limit"
        return "" if noticed_by == "nothing" else noticed_by


def plant(module: str, path: str, code: str) -> None:
    """Replace the code of a module's functions."""
    changed = {(part.co_qualname, part.co_firstlineno): part for part in functions_of(compile(code, path, "exec"))}
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__module__ == module:
            part = changed.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
            if part is not None and part.co_freevars == function.__code__.co_freevars:
                function.__code__ = part


def functions_of(code: CodeType) -> Iterator[CodeType]:
    """Return the functions and methods of a module. Those within others belong to them."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            if part.co_flags & CO_OPTIMIZED:
                yield part
            else:
                yield from functions_of(part)


def first_failing(session: pytest.Session, tests: list[pytest.Item]) -> str:
    """Return the first test that fails twice: one that fails by chance proves nothing."""
    for test, following in zip(tests, [*tests[1:], None], strict=True):
        if fails(test, following):
            session._setupstate.teardown_exact(None)
            if isinstance(test, pytest.Function):
                test._initrequest()  # so that its fixtures are set up again
            if fails(test, None):
                return test.nodeid
    session._setupstate.teardown_exact(None)
    return ""


def fails(test: pytest.Item, following: pytest.Item | None) -> bool:
    return any(report.failed for report in runtestprotocol(test, log=False, nextitem=following))


def first_broken_seed(seeds: int) -> str:
    from tests.simulation.__main__ import check_seed

    return next((f"seed {seed} of the simulation" for seed in range(seeds) if check_seed(seed)[1]), "")


_record = os.environ.get("MUTANTS_RECORD")
_plugin: Recorder | Server = (
    Recorder(Path(_record))
    if _record
    else Server(Path(os.environ["MUTANTS_PLANTED"]), Path(os.environ["MUTANTS_RESULTS"]))
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_plugin)
