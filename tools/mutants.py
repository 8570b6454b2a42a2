"""Change one place of the program at a time, and report the changes that no test notices.

``make mutants ARGS="--packages engine --count 20 --seed 7"``. The same seed chooses the same changes (mutants), as long
as the code is the same. ``--first 20`` leaves out the first twenty, to go on where another run ended.

First the tests of each package run once, to record which of them run which lines. Then each mutant is tested by those
that run its line (``mutant_server.py``), the quick ones first. A test has to fail twice in a row. A mutant that they do
not notice is played in the simulation. ``equivalent_mutants.toml`` lists the changes that make no
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
    from collections.abc import Iterable, Iterator, Sequence

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
GROUP = 8
"""Mutants that are judged by one process."""
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
    in_function: bool
    """Otherwise it changes what runs when the module is imported."""
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

    def visit(node: ast.AST, statement: range, in_function: bool) -> Iterator[Mutant]:
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
            yield Mutant(package, path.relative_to(ROOT), code, node.lineno, statement, in_function, first, last, text)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or child not in {node.args, node.returns}:
                yield from visit(child, statement, in_function)

    yield from visit(ast.parse(code), range(0), False)


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


PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "mutant_server")


def run_tests(folder: Path, arguments: Iterable[str], **variables: str) -> bool:
    """Run pytest with ``mutant_server`` in a copy of the project, and return whether it succeeded."""
    environment = os.environ | {"PYTHONPATH": f"{folder / 'operator'}:{folder / 'tools'}"} | variables
    command = [*PYTEST, *arguments]
    return not subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


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
    if not path.exists() and not run_tests(folder, ["-x", *PACKAGES[package][1]], MUTANTS_RECORD=str(path)):
        path.unlink(missing_ok=True)
        return None
    return Coverage(**json.loads(path.read_text()))


class Bench:
    """A copy of the project in which mutants are tested, one after another."""

    def __init__(self, folder: Path, seeds: int) -> None:
        self._folder = folder
        self._seeds = seeds
        copy_project(folder)

    def judge(self, mutants: Sequence[Mutant], coverage: Coverage) -> list[str]:
        """Return for each mutant what notices it, or an empty text. They are all of one package.

        One that changes what runs when its module is imported must be judged alone.
        """
        planted, results = self._folder / "planted.txt", self._folder / "results.txt"
        tests = [coverage.tests_of(mutant) for mutant in mutants]
        planted.write_text("".join(map(self._line, mutants, tests, [coverage] * len(mutants))))
        results.write_text("")
        first = mutants[0]
        place = self._folder / first.path
        if not first.in_function:
            place.write_bytes(first.changed)
        try:
            files = dict.fromkeys(test.partition("::")[0] for chosen in tests for test in chosen)
            run_tests(self._folder, files, MUTANTS_PLANTED=str(planted), MUTANTS_RESULTS=str(results))
        finally:
            place.write_bytes(first.code)
        noticed_by = results.read_text().splitlines()
        missing = len(mutants) - len(noticed_by)
        if missing and first.in_function:
            raise RuntimeError(f"the tests of {first.package} could not be run")
        return noticed_by + ["its import"] * missing

    def _line(self, mutant: Mutant, tests: list[str], coverage: Coverage) -> str:
        seeds = self._seeds if mutant.package in SIMULATED else 0
        cpu_limit = 30 + 5 * sum(coverage.seconds[test] for test in tests) + seeds
        return (
            json.dumps(
                {
                    "path": str(mutant.path),
                    "module": ".".join(mutant.path.with_suffix("").parts[1:]),
                    "code": mutant.changed.decode(),
                    "tests": tests,
                    "seeds": seeds,
                    "cpu_limit": int(cpu_limit),
                    "limit": 120 + 10 * cpu_limit,
                }
            )
            + "\n"
        )


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

        equivalent = Equivalent()

        def judge(group: list[Mutant]) -> list[str]:
            if time.monotonic() > end:
                return []
            bench = benches.pop()
            try:
                return bench.judge(group, coverages[group[0].package])
            finally:
                benches.append(bench)

        listed = [mutant for mutant in chosen if mutant in equivalent]
        groups = grouped([mutant for mutant in chosen if mutant not in listed])
        return report(len(chosen), len(listed), zip(groups, pool.map(judge, groups), strict=True))


def grouped(mutants: list[Mutant]) -> list[list[Mutant]]:
    """Return groups that can be judged together, in about the same order."""
    groups: list[list[Mutant]] = []
    open_groups: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        group = open_groups.get(mutant.package, []) if mutant.in_function else []
        if not group:
            groups.append(group)
        group.append(mutant)
        if mutant.in_function:
            open_groups[mutant.package] = [] if len(group) == GROUP else group
    return groups


def report(count: int, listed: int, judged: Iterable[tuple[list[Mutant], list[str]]]) -> int:
    counts: Counter[str] = Counter({EQUIVALENT.name: listed})
    for group, results in judged:
        for mutant, noticed_by in zip(group, results, strict=False):
            print(f"{mutant.path}:{mutant.line}: {noticed_by or 'SURVIVED'}", flush=True)
            if not noticed_by:
                print(mutant.diff(), flush=True)
            counts["a test" if "::" in noticed_by else "the simulation" if "seed" in noticed_by else noticed_by] += 1
    survived = counts.pop("", 0)
    print(f"{counts.total() + survived} of {count} mutants judged, {survived} survived")
    print("\n".join(f"  {number} noticed by {who}" for who, number in counts.most_common() if number))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
