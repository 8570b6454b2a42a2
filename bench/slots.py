"""The duration of computing the next slot. ``next_slot`` has the cases and further measurements."""

from __future__ import annotations

from bench.common import Options, median
from bench.next_slot import BAR, slots
from bench.report import Row


async def next_slot(options: Options) -> list[Row]:
    """Compare a dozen expressions, parsed once, with croniter."""
    cases = slots()
    ours = [float(str(case["next_us"])) for case in cases]
    both = [
        (float(str(case["next_us"])), float(str(case["croniter_us"])))
        for case in cases
        if case["croniter_us"] is not None
    ]
    theirs = median([peer for _, peer in both])
    return [
        Row(
            f"next slot, {len(cases)} expressions",
            f"< {BAR:g} us, each",
            f"median {median(ours):.1f}, worst {max(ours):.1f} us",
            max(ours) < BAR,
            f"croniter {theirs:.1f} us",
            round(median([peer / mine for mine, peer in both]), 2),
            {"cases": cases},
        )
    ]
