"""Indices of consecutive batches, computed a block at a time.

A block is at least 16,384 positions, and whole passes where a pass is at most a million
examples: the cost of a shuffle is paid once, whatever the batch size.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tunesafe.data.order import Order

__all__ = ["IndexBlocks", "Span"]


class Span(Protocol):
    """Consecutive positions of the stream that make one batch; ``clock.Batch`` is one."""

    @property
    def start(self) -> int:
        """Position of the first example [examples]."""
        ...

    @property
    def size(self) -> int:
        """How many examples."""
        ...


class IndexBlocks:
    """Looks up which examples make a batch.

    Args:
        order: What stands where in the stream.
        device: Where the indices are needed.
    """

    def __init__(self, order: Order, device: torch.device | str = "cpu") -> None:
        self._order, self._device = order, device
        self._start = self._end = 0
        self._block = torch.empty(0, dtype=torch.int64)

    def take(self, start: int, size: int) -> Tensor:
        """Indices at ``size`` positions from ``start``, int64, shape ``[size]``; a view, not to be written to."""
        if start < self._start or start + size > self._end:
            self._start, self._end = start, self._order.block_end(start, size)
            self._block = torch.from_numpy(self._order.indices(start, self._end - start)).to(self._device)
        return self._block[start - self._start : start - self._start + size]
