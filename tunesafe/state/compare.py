"""Where two state trees differ, to the bit.

Equal means: same types, same keys, and the same bits in every number, so that NaN equals the
same NaN and 0.0 is not -0.0. Not compared is what does not change a state's meaning: the
order of a dict's keys, strides, the device, ``requires_grad``.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesafe.errors import a_or_an

__all__ = ["Difference", "first_difference", "same"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two trees differ.

    Args:
        path: Where, e.g. ``optimizer/state/3/exp_avg``.
        stored: What the first tree has there, in a few words.
        live: What the second has.
    """

    path: str
    stored: str
    live: str


def same(stored: object, live: object) -> bool:
    """Whether two trees are equal to the bit."""
    return first_difference(stored, live) is None


def first_difference(stored: Any, live: Any, path: str = "") -> Difference | None:
    """The first place where two trees differ, or None.

    Example:
        >>> first_difference({"lr": [0.1, 0.0]}, {"lr": [0.1, -0.0]})
        Difference(path='lr/1', stored='0.0', live='-0.0')
    """
    if isinstance(stored, torch.Tensor) and isinstance(live, torch.Tensor):
        return _tensor_difference(stored.detach(), live.detach(), path)
    elif type(stored) is not type(live):
        equal = False
    elif isinstance(stored, Mapping):
        return _mapping_difference(stored, live, path)
    elif isinstance(stored, (list, tuple, deque)):
        if len(stored) == len(live) and getattr(stored, "maxlen", None) == getattr(live, "maxlen", None):
            pairs = zip(stored, live, strict=True)
            found = (first_difference(*pair, _join(path, index)) for index, pair in enumerate(pairs))
            return next((difference for difference in found if difference), None)
        equal = False
    else:
        equal = _same_leaf(stored, live)
    return None if equal else Difference(path, _describe(stored), _describe(live))


def _mapping_difference(stored: Mapping[Any, Any], live: Mapping[Any, Any], path: str) -> Difference | None:
    keys, live_keys = [{(type(key), key): None for key in mapping} for mapping in (stored, live)]
    for kind, key in keys:
        if (kind, key) not in live_keys:
            return Difference(_join(path, key), _describe(stored[key]), "nothing")
    for kind, key in live_keys:
        if (kind, key) not in keys:
            return Difference(_join(path, key), "nothing", _describe(live[key]))
    found = (first_difference(stored[key], live[key], _join(path, key)) for key in stored)
    return next((difference for difference in found if difference), None)


def _tensor_difference(stored: torch.Tensor, live: torch.Tensor, path: str) -> Difference | None:
    if (stored.dtype, stored.shape, stored.layout) != (live.dtype, live.shape, live.layout):
        return Difference(path, _describe(stored), _describe(live))
    if stored.layout is torch.sparse_coo:
        if stored.is_coalesced() != live.is_coalesced():
            names = {True: "a coalesced sparse tensor", False: "an uncoalesced sparse tensor"}
            return Difference(path, names[stored.is_coalesced()], names[live.is_coalesced()])
        indices = _tensor_difference(stored._indices(), live._indices(), _join(path, "indices"))
        return indices or _tensor_difference(stored._values(), live._values(), _join(path, "values"))
    bits, live_bits = _bits(stored), _bits(live)
    if torch.equal(bits, live_bits):
        return None
    place = int((bits != live_bits).nonzero()[0]) // stored.itemsize
    first = f"{_describe(stored)} whose element {place} is "
    return Difference(path, first + _element(stored, place), first + _element(live, place))


def _element(tensor: torch.Tensor, place: int) -> str:
    return _describe(tensor.cpu().reshape(-1)[place].item())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's elements as bytes, uint8 ``[num_bytes]``, on the CPU."""
    flat = tensor.cpu().contiguous()
    raw = torch.empty(0, dtype=torch.uint8, device="cpu")
    start, num_bytes = flat.storage_offset() * flat.itemsize, flat.numel() * flat.itemsize
    return raw.set_(flat.untyped_storage(), start, (num_bytes,), (1,))


def _same_leaf(stored: Any, live: Any) -> bool:
    if isinstance(stored, float):
        return struct.pack("d", stored) == struct.pack("d", live)
    if isinstance(stored, complex):
        return struct.pack("dd", stored.real, stored.imag) == struct.pack("dd", live.real, live.imag)
    if isinstance(stored, (np.ndarray, np.generic)):
        return (stored.dtype, stored.shape) == (live.dtype, live.shape) and stored.tobytes() == live.tobytes()
    return bool(stored == live)


def _describe(value: Any) -> str:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        layout = "" if getattr(value, "layout", torch.strided) is torch.strided else "sparse "
        return f"{a_or_an(layout + type(value).__name__)} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, float) and math.isnan(value):
        return f"nan (bits {struct.pack('>d', value).hex()})"
    text = repr(value)
    return text if len(text) <= 60 else f"{a_or_an(type(value).__name__)} {text[:50]}..."


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
