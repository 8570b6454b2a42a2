"""Play many seeds and report those that break a promise: ``python -m tests.simulation --seeds 2000``.

``--seed N`` replays one seed and prints its events. ``--jobs`` sets the number of processes. At the end it prints how
often each kind of fault struck, and how often it had an effect.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import structlog

from .checker import check
from .scenario import play
from .strikes import Strikes


def check_seed(seed: int) -> tuple[int, list[str], int, Strikes]:
    """Return the seed, what is wrong with its history, how many attempts started, and which faults struck."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        history = play(seed)
    except Exception as error:  # a replica that spins, for example, is as bad as a broken promise
        return seed, [f"{type(error).__name__}: {error}"], 0, Strikes()
    return seed, check(history), sum(event.kind == "start" for event in history.events), history.strikes


def show(seed: int) -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    history = play(seed)
    for event in history.events:
        at = event.at / 1e6 - 1_790_000_000
        where = f"{event.run_id or event.uid} attempt {event.attempt} v{event.version}" if event.uid else ""
        print(f"{at:10.4f} {event.replica:12} {event.kind:8} {where} {event.detail}")
    wrong = check(history)
    print("\n".join(wrong) or "nothing is wrong")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.seed is not None:
        return show(options.seed)
    began, failed, starts, strikes = time.monotonic(), 0, 0, Strikes()
    collect_rarely = (200_000, 20, 100)  # 6 % of the time otherwise
    with ProcessPoolExecutor(options.jobs, initializer=gc.set_threshold, initargs=collect_rarely) as pool:
        for seed, wrong, started, struck in pool.map(
            check_seed, range(options.first, options.first + options.seeds), chunksize=4
        ):
            starts += started
            strikes.add(struck)
            if wrong:
                failed += 1
                print(f"seed {seed}: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    print(strikes.table())
    took = time.monotonic() - began
    print(f"{options.seeds} seeds, {starts} attempts, {failed} failed, {took:.0f} s; replay one with --seed N")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
