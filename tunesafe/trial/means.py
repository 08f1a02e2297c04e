"""Running means over one virtual epoch, as part of the trial's state.

A mean kept in a local variable starts at zero when an attempt resumes inside a virtual
epoch; one kept here continues to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["Means"]


class Means:
    """Weighted running means by name.

    Example:
        >>> means = Means()
        >>> means.add("loss", 1.0, 32), means.add("loss", 4.0, 16)
        (1.0, 2.0)
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, value: float, weight: float) -> float:
        """Add a value that stands for ``weight`` examples; returns the mean so far."""
        total, weights = self._sums.get(name, (0.0, 0.0))
        total, weights = total + value * weight, weights + weight
        self._sums[name] = total, weights
        return total / weights if weights else math.nan

    def clear(self) -> None:
        """Forget everything: a virtual epoch begins."""
        self._sums.clear()

    def capture(self) -> dict[str, list[float]]:
        """What to store."""
        return {name: list(sums) for name, sums in self._sums.items()}

    def restore(self, stored: Mapping[str, list[float]]) -> None:
        """Continue from what was stored."""
        self._sums = {name: (total, weights) for name, (total, weights) in stored.items()}
