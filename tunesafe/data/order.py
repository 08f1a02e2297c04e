"""Which example stands at which position of the endless stream.

A pure function of (seed, name of the stream, position): nothing is drawn, so nothing has
to be restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesafe.data.permutation import LARGEST_SORTED, IntArray, hash_positions, permute
from tunesafe.errors import TrialError
from tunesafe.seeds import derive

__all__ = ["Order"]

_BLOCK = 1 << 14
"""Positions worth computing at once [examples]: many cost little more than one."""


class Order:
    """The order of the examples in one endless stream.

    Args:
        n: Length of the data, at least 1 [examples].
        seed: The trial's seed.
        shuffle: A new shuffle in every pass; False reads the data in sequence, over and over.
        weights: Sample with replacement instead: relative frequency of each example, shape ``[n]``, finite, not
            negative, not all zero. Takes the place of ``shuffle``.
        stream: Name of the stream; streams of different names are independent.

    Raises:
        TrialError: If the data are empty, or the weights do not fit them.

    Example:
        >>> Order(3, seed=0, shuffle=False).indices(start=2, count=5).tolist()
        [2, 0, 1, 2, 0]
    """

    def __init__(
        self,
        n: int,
        seed: int,
        shuffle: bool = True,
        weights: Sequence[float] | npt.ArrayLike | None = None,
        stream: str = "train",
    ) -> None:
        if n < 1:
            raise TrialError("The training data are empty: a stream needs at least one example to repeat.")
        self.n, self.seed, self.stream = n, seed, stream
        self.sequential = not shuffle and weights is None
        self._key = derive(seed, "order", stream, bits=64)
        self._cumulative = None if weights is None else _cumulative(weights, n)

    def indices(self, start: int, count: int) -> IntArray:
        """Indices of the examples at ``count`` positions from ``start``, shape ``[count]``; any start costs alike."""
        if self._cumulative is not None:
            uniform = (hash_positions(np.arange(start, start + count), self._key) >> np.uint64(11)) * 2.0**-53
            return np.searchsorted(self._cumulative, uniform, side="right").astype(np.int64)
        if self.sequential:
            return np.arange(start, start + count) % self.n
        return permute(start, count, self.n, self._key)

    def block_end(self, start: int, size: int) -> int:
        """Where to stop when computing indices ahead from ``start``, at least ``size`` of them [examples]."""
        end = start + max(size, _BLOCK)
        if self.n <= LARGEST_SORTED:  # a pass is shuffled whole; a block that ended inside one would do it twice
            end = -(-end // self.n) * self.n
        return end


def _cumulative(weights: Any, n: int) -> npt.NDArray[np.float64]:
    """Upper ends of each example's share of [0, 1); the last share that is not empty ends at infinity."""
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n,):
        raise TrialError(f"weights has shape {list(values.shape)}; the {n} training examples need one weight each.")
    if not np.isfinite(values).all() or values.min() < 0 or not 0 < values.sum() < np.inf:
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        found = f"weights[{bad[0]}] is {values[bad[0]]}" if bad.size else f"their sum is {values.sum()}"
        raise TrialError(f"weights must be finite and not negative, and some positive; {found}.")
    cumulative = np.cumsum(values / values.sum())
    # Rounding can leave the sum just under 1; a number above it belongs to the last example that has a share.
    cumulative[np.flatnonzero(values)[-1] :] = np.inf
    return cumulative
