"""Change one place of the program at a time, and report the changes that no test notices.

``make mutants ARGS="--packages engine --count 20 --seed 7"``. The same seed chooses the same changes (mutants), as long
as the code is the same. ``--first 20`` leaves out the first twenty, to go on where another run ended.

First the tests of each package run once, to record which of them run which lines (``covering_tests.py``). Then each
mutant is planted in a copy of the project and tested by those that run its line. A test has to fail twice in a row. A
mutant that they do not notice is played in the simulation. ``equivalent_mutants.toml`` lists the changes that make no
difference; they are not tested.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parent.parent
SOURCE = Path("operator/scheduledjob")
PACKAGES = {
    "domain": ("domain/**/*.py", ["tests/domain"]),
    "engine": ("engine/**/*.py", ["tests/engine", "--deselect=tests/engine/test_soak.py"]),
    "memory": ("stores/memory/**/*.py", ["tests/stores", "-k", "memory"]),
    "postgres": ("stores/postgres/**/*.py", ["tests/stores", "-k", "postgres"]),
    "firestore": ("stores/firestore/**/*.py", ["tests/stores", "-k", "firestore"]),
}
"""By name: the code that is changed, and the arguments of pytest."""
SIMULATED = {"domain", "engine", "memory"}
"""Packages that the simulation plays."""
EQUIVALENT = Path(__file__).parent / "equivalent_mutants.toml"

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div}


@dataclass(frozen=True)
class Mutant:
    package: str
    path: Path
    """Relative to the project."""
    code: bytes
    """The module without the change."""
    line: int
    statement: range
    """The lines of the statement that it changes, without the block that may follow."""
    first: int
    last: int
    """Bytes of the file that ``text`` replaces."""
    text: str

    @property
    def changed(self) -> bytes:
        return self.code[: self.first] + self.text.encode() + self.code[self.last :]

    def lines(self) -> tuple[str, str]:
        """Return the line before and after the change; without those that follow, if it spans several."""
        before, after = self.code.decode().splitlines(), self.changed.decode().splitlines()
        return before[self.line - 1].strip(), after[self.line - 1].strip()

    def diff(self) -> str:
        before, after = self.code.decode().splitlines(), self.changed.decode().splitlines()
        return "\n".join(difflib.unified_diff(before, after, str(self.path), str(self.path), n=1, lineterm=""))


def changes(node: ast.AST) -> Iterator[ast.AST | None]:
    """Return what to write in the place of a node; None: ``pass``."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        changed = copy.deepcopy(node)
        changed.ops = [COMPARISONS[type(node.ops[0])]()]
        yield changed
    elif isinstance(node, ast.BoolOp):
        changed_bool = copy.deepcopy(node)
        changed_bool.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield changed_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        changed_operator = copy.deepcopy(node)
        changed_operator.op = OPERATORS[type(node.op)]()
        yield changed_operator
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.AugAssign) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
    ):
        yield None


def mutants_of(package: str, path: Path) -> Iterator[Mutant]:
    """Return all mutants of a file. Types, messages of assertions and log lines are left alone."""
    code = path.read_bytes()
    starts = [0]
    for line in code.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def visit(node: ast.AST, statement: range) -> Iterator[Mutant]:
        if isinstance(node, ast.Assert | ast.AnnAssign | ast.JoinedStr | ast.Raise) or _is_log_line(node):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.stmt):
            statement = _lines_of(node)
        for changed in changes(node):
            assert isinstance(node, ast.expr | ast.stmt)
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            text = "pass" if changed is None else ast.unparse(changed)
            if isinstance(changed, ast.expr) and not isinstance(changed, ast.Constant):
                text = f"({text})"
            first, last = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            yield Mutant(package, path.relative_to(ROOT), code, node.lineno, statement, first, last, text)
        for child in ast.iter_child_nodes(node):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or child not in {node.args, node.returns}:
                yield from visit(child, statement)

    yield from visit(ast.parse(code), range(0))


def _lines_of(statement: ast.stmt) -> range:
    assert statement.end_lineno is not None
    body: list[ast.stmt] = getattr(statement, "body", [])
    return range(statement.lineno, max(statement.lineno + 1, body[0].lineno if body else statement.end_lineno + 1))


def _is_log_line(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node.value).startswith("log.")


def copy_project(folder: Path) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run(folder: Path, arguments: Sequence[str], limit: float | None = None, **variables: str) -> bool | None:
    """Run Python in a copy of the project. Returns whether it succeeded; None: it took over ``limit`` seconds."""
    search_path = f"{folder / 'operator'}:{folder / 'tools'}"
    environment = os.environ | {"PYTHONPATH": search_path} | variables
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            process.terminate()  # so that pytest stops the servers that it has started
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
            return None


PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "covering_tests")


@dataclass(frozen=True)
class Coverage:
    """What the tests of a package run."""

    lines: dict[str, dict[str, list[str]]]
    """By module and line: the tests that run it."""
    seconds: dict[str, float]
    """How long each test took."""

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run a line, the quick ones first.

        A line that runs only when its module is imported, such as a constant, matters to every test.
        """
        lines = self.lines.get(str(mutant.path), {})
        run_by = [lines[line] for line in map(str, mutant.statement) if line in lines]
        tests = {test for tests in run_by for test in tests}
        if run_by and not tests:
            tests = set(self.seconds)
        return sorted(tests, key=lambda test: (self.seconds[test], test))


def record(package: str, folder: Path, records: Path) -> Coverage | None:
    """Run the tests of a package in a copy of the project. Returns None if one fails."""
    path = records / f"{package}.json"
    if not path.exists() and not run(folder, [*PYTEST, *PACKAGES[package][1]], MUTANTS_RECORD=str(path)):
        path.unlink(missing_ok=True)
        return None
    return Coverage(**json.loads(path.read_text()))


class Bench:
    """A copy of the project in which one mutant at a time is tested."""

    def __init__(self, folder: Path, seeds: int) -> None:
        self._folder = folder
        self._seeds = seeds
        self._planted = 0
        copy_project(folder)

    def judge(self, mutant: Mutant, coverage: Coverage) -> str:
        """Return what notices the mutant, or an empty text."""
        place = self._folder / mutant.path
        place.write_bytes(mutant.changed)
        self._planted += 1
        os.utime(place, (self._planted, self._planted))  # no two alike, by which Python knows its bytecode is outdated
        try:
            return self._tests(coverage, coverage.tests_of(mutant)) or self._simulation(mutant)
        finally:
            place.write_bytes(mutant.code)

    def _tests(self, coverage: Coverage, tests: list[str]) -> str:
        if not tests:
            return ""
        chosen, failed = self._folder / "chosen.txt", self._folder / "failed.txt"
        chosen.write_text("\n".join(tests))
        failed.unlink(missing_ok=True)
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        limit = 60.0 + 5 * sum(coverage.seconds[test] for test in tests)
        done = run(self._folder, [*PYTEST, *files], limit, MUTANTS_TESTS=str(chosen), MUTANTS_FAILED=str(failed))
        if done is None:
            return "the time limit"
        if done:
            return ""
        return failed.read_text().strip() if failed.exists() else tests[0]  # its module can't be imported

    def _simulation(self, mutant: Mutant) -> str:
        if mutant.package not in SIMULATED or not self._seeds:
            return ""
        arguments = ["-m", "tests.simulation", "--jobs", "1", "--seeds", str(self._seeds)]
        return "" if run(self._folder, arguments, 60.0 + 2 * self._seeds) else "the simulation"


class Equivalent:
    """The changes that make no difference, with the reason why."""

    def __init__(self) -> None:
        entries = tomllib.loads(EQUIVALENT.read_text()).get("mutant", ())
        self._known = {(entry["module"], entry["before"], entry["after"]) for entry in entries}
        for module, before, _ in self._known:
            lines = {line.strip() for line in (ROOT / SOURCE / module).read_text().splitlines()}
            assert before in lines, f"{EQUIVALENT.name}: {module} has no line {before!r}"

    def __contains__(self, mutant: Mutant) -> bool:
        return (str(mutant.path.relative_to(SOURCE)), *mutant.lines()) in self._known


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--packages", default="domain,engine,memory", help=f"of {', '.join(PACKAGES)}, by commas")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="how many of the seed's mutants to leave out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="start no mutant after this time")
    parser.add_argument("--seeds", type=int, default=100, help="of the simulation, for a mutant that no test notices")
    parser.add_argument("--records", type=Path, help="folder that keeps which tests run which lines for the next time")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    packages = options.packages.split(",")
    found = [
        mutant
        for package in packages
        for path in sorted((ROOT / SOURCE).glob(PACKAGES[package][0]))
        for mutant in mutants_of(package, path)
    ]
    random.Random(options.seed).shuffle(found)
    chosen = found[options.first : options.first + options.count]
    end = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folders = [Path(temporary, str(number)) for number in range(options.jobs)]
        benches = [Bench(folder, options.seeds) for folder in folders]
        records = options.records or Path(temporary)
        records.mkdir(exist_ok=True)
        coverages: dict[str, Coverage] = {}
        recorded = pool.map(lambda package: record(package, folders[0], records), packages)
        for package, coverage in zip(packages, recorded, strict=True):
            if coverage is None:
                print(f"the tests of {package} fail without a change")
                return 2
            coverages[package] = coverage

        def test(mutant: Mutant) -> str | None:
            if time.monotonic() > end:
                return None
            bench = benches.pop()
            try:
                return bench.judge(mutant, coverages[mutant.package])
            finally:
                benches.append(bench)

        equivalent = Equivalent()
        return report(chosen, lambda mutant: EQUIVALENT.name if mutant in equivalent else test(mutant), pool)


def report(chosen: list[Mutant], test: Callable[[Mutant], str | None], pool: ThreadPoolExecutor) -> int:
    counts: Counter[str] = Counter()
    for mutant, noticed_by in zip(chosen, pool.map(test, chosen), strict=True):
        if noticed_by is None:
            continue
        counts["tests" if "::" in noticed_by else noticed_by] += 1
        print(f"{mutant.path}:{mutant.line}: {noticed_by or 'SURVIVED'}", flush=True)
        if not noticed_by:
            print(mutant.diff(), flush=True)
    survived = counts.pop("", 0)
    print(f"{counts.total() + survived} of {len(chosen)} mutants tested, {survived} survived")
    print("\n".join(f"  {count} noticed by {who}" for who, count in counts.most_common()))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
