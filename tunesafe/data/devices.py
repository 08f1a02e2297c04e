"""Moving a batch to a device, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["move"]


def move(batch: Any, device: torch.device | str, non_blocking: bool = False) -> Any:
    """The batch with every tensor on ``device``.

    Args:
        batch: Tensors in tuples, named tuples, lists and mappings, or anything with a ``to`` method; the rest is
            passed on as it is.
        device: Where to.
        non_blocking: Let copies from pinned memory overlap with computation.

    Example:
        >>> move({"x": torch.zeros(2), "name": "a"}, "meta")["x"].device
        device(type='meta')
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(part, device, non_blocking) for part in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(part, device, non_blocking) for part in batch)
    if isinstance(batch, Mapping):
        moved = {key: move(part, device, non_blocking) for key, part in batch.items()}
        form: Any = type(batch)
        return form(moved)
    return batch
