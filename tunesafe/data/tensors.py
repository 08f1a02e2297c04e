"""Batches straight from tensors, without a DataLoader.

One ``index_select`` per tensor and batch: faster than ``x[indices]`` and several times
faster than collating single examples.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunesafe.data.blocks import IndexBlocks, Span
from tunesafe.data.order import Order
from tunesafe.data.sources import Columns

__all__ = ["tensor_batches"]


def tensor_batches(
    columns: Columns, spans: Iterable[Span], order: Order, device: torch.device | str | None = None
) -> Generator[Any, None, None]:
    """The batches of these spans, each a fresh copy: changing one in place changes nothing else.

    Also where the order is sequential: a slice of the data would lie in memory wherever its position
    falls, and unaligned memory changes the results of some kernels.

    Args:
        columns: The data.
        spans: What to read.
        order: What stands where.
        device: Where the batches are wanted; where the data are unless given.
    """
    tensors, form = columns
    blocks = IndexBlocks(order, tensors[0].device)
    batches: Iterator[list[Tensor]]
    if order.sequential:
        batches = _slices(tensors, spans, order.n, blocks)
    else:
        batches = map(partial(_select, tensors), blocks.batches(spans))
    for batch in batches:
        there = batch if device is None else [tensor.to(device, non_blocking=True) for tensor in batch]
        yield there if form is list else there[0] if form is None else tuple(there)


def _slices(
    tensors: tuple[Tensor, ...], spans: Iterable[Span], length: int, blocks: IndexBlocks
) -> Iterator[list[Tensor]]:
    for span in spans:
        offset = span.start % length
        if offset + span.size <= length:
            whole = slice(offset, offset + span.size)
            yield [tensor[whole].clone(memory_format=torch.contiguous_format) for tensor in tensors]
        else:
            yield _select(tensors, blocks.take(span.start, span.size))


def _select(tensors: tuple[Tensor, ...], indices: Tensor) -> list[Tensor]:
    return [
        tensor.index_select(0, indices if tensor.device == indices.device else indices.to(tensor.device))
        for tensor in tensors
    ]
