"""The memory behind tensors and arrays, as plain bytes.

What a computation on a tensor gives depends on more than its values: on its strides, on
whether another tensor shares its memory, even on its alignment. So a leaf of the state is
stored as a window into a *blob* of bytes. A blob is one dense tensor in the order it lies in
memory, or the memory that several overlapping views cover together. Rebuilt tensors are
writable and 64-byte aligned (a view into a larger storage keeps its distance to that).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesafe.contracts import TensorBytes
from tunesafe.errors import StateError

__all__ = [
    "ALIGNMENT",
    "PLAIN_KINDS",
    "TORCH_DTYPES",
    "Array",
    "Blobs",
    "Leaf",
    "aligned_buffer",
    "allocate_blobs",
    "dense_strides",
    "leaf_of_array",
    "leaf_of_tensor",
    "refusal",
]

ALIGNMENT = 64
"""Bytes: the alignment of torch's own allocations on a CPU."""

Array = np.ndarray[Any, np.dtype[Any]]
TORCH_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
_DTYPE_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in TORCH_DTYPES.values()}
PLAIN_KINDS = "biufcSUMm"
"""Kinds of numpy elements that are plain bytes: no objects, no records."""


@dataclass(slots=True, eq=False)
class Leaf:
    """One tensor or array of a state tree, and the memory it covers.

    Args:
        path: Where it stands in the tree.
        node: Its JSON form; :func:`allocate_blobs` completes it with its place in a blob.
        owner: The tensor or array, kept alive until its bytes are copied.
        dtype: Its element type's name: torch's ("bfloat16") or numpy's ("<f8").
        shape: Its shape.
        strides: Its strides [bytes]; empty if it is dense in the usual order.
        itemsize: Size of an element [bytes].
        address: Of its first element.
        low: Lowest address it touches.
        high: One past the highest.
        skew: Distance of ``low`` from an aligned address [bytes].
        place: Where the memory is: "cpu", "cuda:0", ...
    """

    path: str
    node: dict[str, Any]
    owner: torch.Tensor | Array
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    address: int
    low: int
    high: int
    skew: int
    place: str

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements, without gaps."""
        return math.prod(self.shape) * self.itemsize

    @property
    def is_dense(self) -> bool:
        """Whether its elements fill its memory, in whatever order."""
        if not self.strides:
            return True
        return self.num_bytes == self.high - self.low and self.address == self.low

    def same_window(self, other: Leaf) -> bool:
        """Whether both show the same elements of the same memory in the same way."""
        mine = (self.low, self.address, self.dtype, self.shape, self.strides)
        return mine == (other.low, other.address, other.dtype, other.shape, other.strides)


def leaf_of_tensor(tensor: torch.Tensor, path: str) -> Leaf:
    """Describe a strided tensor.

    Raises:
        StateError: If it has no ordinary memory.
    """
    if tensor.is_quantized or tensor.layout is not torch.strided:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise StateError(refusal(path, f"a {kind} tensor", "Track a dense (or sparse COO) tensor instead."))
    if tensor.is_conj() or tensor.is_neg():
        raise StateError(refusal(path, "a lazy conjugate or negative view", "Call .resolve_conj().resolve_neg()."))
    shape, size, address = tuple(tensor.shape), tensor.itemsize, tensor.data_ptr()
    dtype = _DTYPE_NAMES[tensor.dtype]
    node: dict[str, Any] = {"of": 0, "dtype": dtype, "shape": list(shape)}
    span = math.prod(shape) * size
    strides: tuple[int, ...] = ()
    if tensor.stride() != dense_strides(shape):
        node["stride"] = list(tensor.stride())
        strides = tuple(step * size for step in tensor.stride())
        span = size + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if span else 0
    if span and not address:
        raise StateError(refusal(path, "a tensor without memory (meta, or freed)", "Materialise it before tracking."))
    place = "cpu" if tensor.is_cpu else str(tensor.device)
    if place != "cpu":
        node["device"] = place
    if type(tensor) is torch.nn.Parameter:
        node["parameter"] = True
    if tensor.requires_grad:
        node["requires_grad"] = True
    skew = int(tensor.storage_offset()) * size % ALIGNMENT
    return Leaf(path, node, tensor, dtype, shape, strides, size, address, address, address + span, skew, place)


def leaf_of_array(array: Array, path: str) -> Leaf:
    """Describe a numpy array.

    Raises:
        StateError: If its elements are objects or records.
    """
    if array.dtype.kind not in PLAIN_KINDS:
        fix = "Use a list for objects, and one array per field for records."
        raise StateError(refusal(path, f"a numpy array of dtype {array.dtype}", fix))
    size = array.itemsize
    node: dict[str, Any] = {"of": 0, "dtype": array.dtype.str, "shape": list(array.shape)}
    dense = array.strides == tuple(step * size for step in dense_strides(array.shape))
    strides = () if dense else array.strides
    if strides:
        node["stride"] = list(strides)
    low, high = np.lib.array_utils.byte_bounds(array) if array.nbytes else (0, 0)
    address = array.__array_interface__["data"][0] if array.nbytes else 0
    return Leaf(path, node, array, array.dtype.str, array.shape, strides, size, address, low, high, 0, "cpu")


def aligned_buffer(num_bytes: int) -> memoryview:
    """A fresh, writable, 64-byte aligned buffer (not cleared: it is about to be overwritten)."""
    raw = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[start : start + num_bytes].data


@dataclass(slots=True)
class _Blob:
    path: str
    dtype: str
    shape: tuple[int, ...]
    address: int
    num_bytes: int
    owner: object


class Blobs:
    """The blobs of a tree, still in live memory.

    Args:
        blobs: In the order in which the tree's leaves first need them.
    """

    def __init__(self, blobs: Sequence[_Blob]) -> None:
        self._blobs = blobs

    def copy(self, allocate: Callable[[int], memoryview]) -> tuple[TensorBytes, ...]:
        """Copy all bytes out of live memory, once, into one buffer.

        Args:
            allocate: Gives a writable buffer of at least that many bytes.

        Raises:
            ValueError: If it gives less.
        """
        offsets, total = [], 0
        for blob in self._blobs:
            offsets.append(total)
            total += -(-blob.num_bytes // ALIGNMENT) * ALIGNMENT
        buffer = allocate(total)
        if buffer.readonly or buffer.nbytes < total:
            raise ValueError(
                f"a snapshot needs {total} writable bytes; got {buffer.nbytes}, readonly={buffer.readonly}"
            )
        # memmove: no dtype it cannot read, and unlike a slice assignment it releases the interpreter lock.
        target = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0] if total else 0
        for offset, blob in zip(offsets, self._blobs, strict=True):
            ctypes.memmove(target + offset, blob.address, blob.num_bytes)
        return tuple(
            TensorBytes(blob.path, blob.dtype, blob.shape, buffer[offset : offset + blob.num_bytes])
            for offset, blob in zip(offsets, self._blobs, strict=True)
        )


def allocate_blobs(leaves: Sequence[Leaf]) -> Blobs:
    """Give every leaf its window into a blob, and list the blobs.

    Leaves whose memory overlaps share a blob; each leaf's ``node`` is completed in place.
    """
    blobs = []
    for index, group in enumerate(_overlapping(leaves)):
        for leaf in group:
            leaf.node["of"] = index
        one_view = not _self_overlap(group[0]) and all(leaf.same_window(group[0]) for leaf in group[1:])
        blobs.append(_tensor_blob(group) if one_view else _window_blob(group))
    return Blobs(blobs)


def _overlapping(leaves: Sequence[Leaf]) -> list[list[Leaf]]:
    """Leaves grouped by shared memory, groups in order of their first leaf."""
    groups: list[list[int]] = []
    place, high = "", 0
    for index in sorted(range(len(leaves)), key=lambda index: (leaves[index].place, leaves[index].low)):
        leaf = leaves[index]
        if leaf.low < high and leaf.place == place and leaf.high > leaf.low:
            groups[-1].append(index)
            high = max(high, leaf.high)
        else:
            groups.append([index])
            place, high = leaf.place, leaf.high
    return [[leaves[index] for index in sorted(group)] for group in sorted(groups, key=min)]


def _tensor_blob(group: Sequence[Leaf]) -> _Blob:
    """The elements of one tensor (that may have several names), without gaps."""
    leaf = group[0]
    if leaf.skew:
        for each in group:
            each.node["skew"] = leaf.skew
    if leaf.is_dense:
        shape = leaf.shape
        if leaf.strides:
            shape = tuple(shape[axis] for axis in sorted(range(len(shape)), key=lambda axis: -leaf.strides[axis]))
        return _blob_of_bytes(leaf, shape, leaf.low, leaf.num_bytes, leaf.dtype)
    for each in group:
        if leaf.address == leaf.low:
            each.node["gaps"] = True
        else:  # numpy's reversed views come back in plain order
            del each.node["stride"]
    if isinstance(leaf.owner, torch.Tensor):
        packed = leaf.owner.detach().cpu().contiguous()
        return _Blob(leaf.path, leaf.dtype, leaf.shape, packed.data_ptr(), leaf.num_bytes, packed)
    array = np.ascontiguousarray(leaf.owner)
    return _Blob(leaf.path, leaf.dtype, leaf.shape, array.__array_interface__["data"][0], leaf.num_bytes, array)


def _window_blob(group: Sequence[Leaf]) -> _Blob:
    """The memory that all leaves of the group cover together."""
    base = min(group, key=lambda leaf: leaf.low)
    high = max(leaf.high for leaf in group)
    for leaf in group:
        offset = leaf.address - base.low
        leaf.node.update({"offset": offset} if offset else {}, **({"skew": base.skew} if base.skew else {}))
        if isinstance(leaf.owner, torch.Tensor) and (offset + base.skew) % leaf.itemsize:
            raise StateError(refusal(leaf.path, "an unaligned view of shared memory", "Clone it."))
    return _blob_of_bytes(base, (high - base.low,), base.low, high - base.low, "uint8")


def _blob_of_bytes(leaf: Leaf, shape: tuple[int, ...], low: int, num_bytes: int, dtype: str) -> _Blob:
    if leaf.place == "cpu" or not isinstance(leaf.owner, torch.Tensor):
        return _Blob(leaf.path, dtype, shape, low, num_bytes, leaf.owner)
    flat = torch.empty(0, dtype=torch.uint8, device=leaf.owner.device)
    flat.set_(leaf.owner.untyped_storage(), leaf.owner.storage_offset() * leaf.itemsize, (num_bytes,), (1,))
    copy = flat.cpu()
    return _Blob(leaf.path, dtype, shape, copy.data_ptr(), num_bytes, copy)


def _self_overlap(leaf: Leaf) -> bool:
    """Whether two indices of the leaf may be one element (expanded dimensions)."""
    if not leaf.strides:
        return False
    end = leaf.itemsize
    axes = zip(leaf.strides, leaf.shape, strict=True)
    for step, size in sorted((abs(step), size) for step, size in axes if size > 1):
        if step < end:
            return bool(leaf.num_bytes)
        end = step * (size - 1) + end
    return False


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides [elements] of a tensor that is dense in the usual order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size or 1
    return tuple(reversed(strides))


def refusal(path: str, what: str, fix: str) -> str:
    """The message for something that cannot be stored."""
    return f"'{path}' holds {what}, which cannot be stored. Nothing was written. {fix}"
