"""Measuring in interleaved pairs: whatever slows the machine down meanwhile slows both sides down.

Each pair measures both sides one after the other, taking turns at going first. The answer is the
median of the pairs' ratios, printed with the quartiles and the range they came from.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Comparison", "Information", "compare", "quartiles"]

Side = Callable[[], float]
"""Makes one measurement, setting up outside of it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, measured in pairs.

    Args:
        claim: What is compared with what.
        unit: Of the measurements.
        ours: Our measurements, one per pair.
        theirs: The other side's.
        at_least: Bound of the median ratio, ours to theirs, where more is better.
        at_most: The same, where less is better.
        aim: What we hope for beyond the bound.
    """

    claim: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, one per pair."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the median ratio keeps its bound; ``None`` if there is none."""
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return None if self.at_most is None else self.ratio <= self.at_most

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:.2f}" + (f", aim {self.aim:g}" if self.aim else "")
        return "for information" if self.at_most is None else f"at most {self.at_most:.2f}"


@dataclass(frozen=True, slots=True)
class Information:
    """What was measured without another side to compare it with.

    Args:
        claim: Of what.
        text: How it came out.
    """

    claim: str
    text: str


def compare(
    claim: str,
    ours: Side,
    theirs: Side,
    *,
    pairs: int,
    unit: str,
    warm_up: bool = True,
    at_least: float | None = None,
    at_most: float | None = None,
    aim: float | None = None,
) -> Comparison:
    """Measure both sides in interleaved pairs.

    Args:
        claim: What is compared with what.
        ours: One measurement of our side.
        theirs: One of the other side.
        pairs: How many of each.
        unit: Of the measurements.
        warm_up: Whether to measure each once for nothing.
        at_least: See :class:`Comparison`.
        at_most: See :class:`Comparison`.
        aim: See :class:`Comparison`.
    """
    if warm_up:
        ours(), theirs()
    measured: tuple[list[float], list[float]] = [], []
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            gc.collect()
            measured[side].append((ours, theirs)[side]())
    return Comparison(claim, unit, tuple(measured[0]), tuple(measured[1]), at_least, at_most, aim)


def quartiles(values: list[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return low, high
