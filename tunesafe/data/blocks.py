"""Indices of consecutive batches, computed a block at a time.

A block is at least 16,384 positions, and whole passes where a pass is at most a million
examples: the cost of a shuffle is paid once, whatever the batch size. Batches are cut from it
some hundreds at a time: one by one, between training steps, each cut costs 20 µs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from tunesafe.data.order import Order

__all__ = ["IndexBlocks", "Span", "runs"]

_MOST_SPANS, _MOST_EXAMPLES = 256, 8192


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


def runs(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """The same spans, some at a time, each list without gaps between its spans."""
    run: list[Span] = []
    size = 0
    for span in spans:
        if run and (span.start != run[0].start + size or len(run) == _MOST_SPANS or size + span.size > _MOST_EXAMPLES):
            yield run
            run, size = [], 0
        run.append(span)
        size += span.size
    if run:
        yield run


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

    def batches(self, spans: Iterable[Span]) -> Iterator[Tensor]:
        """Indices of each span's examples, as ``take`` gives them."""
        for run in runs(spans):
            sizes = [span.size for span in run]
            yield from torch.split(self.take(run[0].start, sum(sizes)), sizes)
