"""What tunesafe costs: ``python bench/run.py [NAME ...]``, the names being those of ``_BENCHMARKS``.

Prints each comparison as soon as it is made; exits with 1 if one misses its bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import machine
from beside import beside
from checkpoints import checkpoints
from claims import claims
from growth import growth, start
from loops import loops
from pairs import Comparison, Information, quartiles
from status import status
from study import study
from workers import workers

_BENCHMARKS: dict[str, tuple[str, Callable[[int, bool], Iterator[Comparison | Information]]]] = {
    "loops": ("(a) the training loop", loops),
    "study": ("(b) a whole study", study),
    "status": ("(c) looking at a large study", status),
    "workers": ("(d) two workers", workers),
    "claims": ("(e) many workers and one database", claims),
    "growth": ("(f) a trial after thousands", growth),
    "start": ("(g) the start of a worker after thousands of trials", start),
    "checkpoints": ("(h) a checkpoint", checkpoints),
    "beside": ("(i) what is beside a checkpoint", beside),
}


def main() -> int:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="What tunesafe costs.")
    parser.add_argument(
        "name", nargs="*", choices=[[], *_BENCHMARKS], help=f"of: {', '.join(_BENCHMARKS)}; default all"
    )
    parser.add_argument("--pairs", type=int, help="interleaved pairs of each comparison (default 7, quick 3)")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer: for a first look, not for a claim")
    arguments = parser.parse_args()
    pairs = arguments.pairs or (3 if arguments.quick else 7)
    print(f"{machine.describe()}\n{machine.load()}; {pairs} interleaved pairs")
    missed = 0
    for name in arguments.name or _BENCHMARKS:
        title, benchmark = _BENCHMARKS[name]
        print(f"\n{title}", flush=True)
        for found in benchmark(pairs, arguments.quick):
            if isinstance(found, Information):
                print(f"  {found.claim:<58} {found.text}", flush=True)
            else:
                print(_line(found), flush=True)
                missed += found.holds is False
    print(f"\n{machine.load()}; {'every bound is kept' if not missed else f'{missed} bounds are MISSED'}")
    return 1 if missed else 0


def _line(comparison: Comparison) -> str:
    low, high = quartiles(comparison.ratios)
    verdict = {None: "", True: ": kept", False: ": MISSED"}[comparison.holds]
    ratios = comparison.ratios
    return (
        f"  {comparison.claim:<58} {comparison.ratio:6.3f}  quartiles {low:.2f}–{high:.2f}, "
        f"range {min(ratios):.2f}–{max(ratios):.2f}  ({comparison.bound}{verdict})\n"
        f"    {_values('ours', comparison.ours)}, {_values('theirs', comparison.theirs)} {comparison.unit}"
    )


def _values(side: str, values: tuple[float, ...]) -> str:
    low, high = quartiles(list(values))
    median = sorted(values)[len(values) // 2]
    return f"{side} {median:,.4g} ({low:,.4g}–{high:,.4g})"


if __name__ == "__main__":
    sys.exit(main())
