"""Change one place of the program at a time, and report the changes that no test notices.

``make mutants ARGS="--packages engine --count 20 --seed 7"``. A seed chooses the same changes (mutants) again, as long
as the code is the same. Each is tested in a copy of the project by the tests of its package.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
SOURCE = Path("operator/scheduledjob")
PACKAGES = {
    "domain": ("domain", ["tests/domain"]),
    "engine": ("engine", ["tests/engine", "--deselect=tests/engine/test_soak.py"]),
    "stores": ("stores/memory", ["tests/stores", "-k", "memory"]),
}
"""By name: the folder whose code is changed, and the arguments of pytest."""

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
    line: int
    first: int
    last: int
    """Bytes of the file that ``text`` replaces."""
    text: str

    def apply(self, code: bytes) -> bytes:
        return code[: self.first] + self.text.encode() + code[self.last :]

    def diff(self) -> str:
        code = (ROOT / self.path).read_bytes()
        before, after = code.decode().splitlines(), self.apply(code).decode().splitlines()
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

    def visit(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Assert | ast.AnnAssign | ast.JoinedStr | ast.Raise) or _is_log_line(node):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        for changed in changes(node):
            assert isinstance(node, ast.expr | ast.stmt)
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            text = "pass" if changed is None else ast.unparse(changed)
            if isinstance(changed, ast.expr) and not isinstance(changed, ast.Constant):
                text = f"({text})"
            first, last = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            yield Mutant(package, path.relative_to(ROOT), node.lineno, first, last, text)
        for child in ast.iter_child_nodes(node):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or child not in {node.args, node.returns}:
                yield from visit(child)

    yield from visit(ast.parse(code))


def _is_log_line(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node.value).startswith("log.")


def copy_project(folder: Path) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def noticed(folder: Path, package: str, mutant: Mutant | None, limit: float) -> bool:
    """Return whether a test fails in this copy with the mutant; None: with the program as it is."""
    code = (ROOT / mutant.path).read_bytes() if mutant is not None else b""
    if mutant is not None:
        (folder / mutant.path).write_bytes(mutant.apply(code))
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *PACKAGES[package][1]]
    environment = os.environ | {"PYTHONPATH": str(folder / "operator"), "HYPOTHESIS_MAX_EXAMPLES": "50"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        try:
            return run.wait(limit) != 0
        except subprocess.TimeoutExpired:
            run.kill()
            return True  # a loop without an end is noticed, too
        finally:
            if mutant is not None:
                (folder / mutant.path).write_bytes(code)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--packages", default="domain,engine,stores", help="folders to change, by commas")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="start no mutant after this time")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for the tests of a mutant")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    packages = options.packages.split(",")
    found = [
        mutant
        for package in packages
        for path in sorted((ROOT / SOURCE / PACKAGES[package][0]).rglob("*.py"))
        for mutant in mutants_of(package, path)
    ]
    rng = random.Random(options.seed)
    chosen = rng.sample(found, min(options.count, len(found)))
    end = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folders = [Path(temporary, str(number)) for number in range(options.jobs)]
        for folder in folders:
            copy_project(folder)
        for package in packages:
            if noticed(folders[0], package, None, options.limit):
                print(f"the tests of {package} fail without a change, or take longer than {options.limit:.0f} s")
                return 2

        def test(mutant: Mutant) -> bool | None:
            if time.monotonic() > end:
                return None
            folder = folders.pop()
            try:
                return noticed(folder, mutant.package, mutant, options.limit)
            finally:
                folders.append(folder)

        return report(chosen, test, pool)


def report(chosen: list[Mutant], test: Callable[[Mutant], bool | None], pool: ThreadPoolExecutor) -> int:
    tested = survived = 0
    for mutant, result in zip(chosen, pool.map(test, chosen), strict=True):
        tested += result is not None
        if result is False:
            survived += 1
            print(f"\n{mutant.path}:{mutant.line} survived\n{mutant.diff()}", flush=True)
    print(f"{tested} of {len(chosen)} mutants tested, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
