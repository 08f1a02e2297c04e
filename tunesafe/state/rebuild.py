"""Tensors and arrays, rebuilt from blobs of bytes: the way back from ``memory``.

A buffer that is writable and aligned is taken over as it is, without a copy; any other is
copied into memory of torch's own. A tensor goes back to the device it was on, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunesafe.state.memory import ALIGNMENT, TORCH_DTYPES, Array, dense_strides

__all__ = ["Buffer", "Rebuilder"]

Buffer = bytes | bytearray | memoryview


class Rebuilder:
    """Rebuilds the leaves of one tree; leaves that shared memory share it again.

    Args:
        buffers: The bytes of the blobs, by index. Writable ones may become the tensors' memory;
            ``None`` stands for bytes that have been given up.
        on_device: Put tensors back on the device they were on; else all on the CPU.
    """

    def __init__(self, buffers: Sequence[Buffer | None], *, on_device: bool) -> None:
        self._gone = {index for index, buffer in enumerate(buffers) if buffer is None}
        self._buffers = [np.frombuffer(buffer or b"", np.uint8) for buffer in buffers]
        self._on_device = on_device
        self._memory: dict[tuple[int, str], torch.Tensor] = {}
        self._taken: set[int] = set()

    def has(self, *nodes: dict[str, Any]) -> bool:
        """Whether there are bytes for leaves."""
        return self._gone.isdisjoint(node["of"] for node in nodes)

    def tensor(self, node: dict[str, Any]) -> torch.Tensor:
        """Rebuild a tensor from its node.

        Raises:
            ValueError, LookupError, TypeError, RuntimeError: If node and bytes do not fit together.
        """
        dtype, shape = TORCH_DTYPES[node["dtype"]], tuple(node["shape"])
        memory = self._bytes(node, dtype.itemsize)
        strides = tuple(node.get("stride", dense_strides(shape)))
        offset = node.get("offset", 0)
        start = memory.storage_offset() + offset
        extent = (1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))) if 0 not in shape else 0
        # set_ would silently enlarge a storage that is too small.
        fits = offset + extent * dtype.itemsize <= memory.numel() and start % dtype.itemsize == 0
        if not fits or min(offset, *shape, *strides, 0) < 0:
            raise ValueError(f"a {node['dtype']} tensor of shape {shape} does not fit its {memory.numel()} bytes")
        tensor = torch.empty(0, dtype=dtype, device=memory.device)
        tensor.set_(memory.untyped_storage(), start // dtype.itemsize, shape, strides)
        if node.get("parameter"):
            return torch.nn.Parameter(tensor, requires_grad=node.get("requires_grad", False))
        return tensor.requires_grad_(node.get("requires_grad", False))

    def array(self, node: dict[str, Any]) -> Array:
        """Rebuild a numpy array from its node; errors as :meth:`tensor`."""
        dtype, shape = np.dtype(node["dtype"]), tuple(node["shape"])
        memory = self._bytes(node, dtype.itemsize).numpy()
        return np.ndarray(shape, dtype, memory, node.get("offset", 0), node.get("stride"))

    def _bytes(self, node: dict[str, Any], itemsize: int) -> torch.Tensor:
        """The memory a leaf looks into, uint8 ``[num_bytes]``, on the leaf's device."""
        index, device = node["of"], node.get("device", "cpu") if self._on_device else "cpu"
        if (index, device) in self._memory:
            return self._memory[index, device]
        memory = self._with_gaps(node, itemsize) if node.get("gaps") else self._aligned(index, node.get("skew", 0))
        if device != "cpu" and _exists(torch.device(device)):
            memory = _empty(memory.numel(), node.get("skew", 0), device).copy_(memory)
        self._memory[index, device] = memory
        return memory

    def _aligned(self, index: int, skew: int) -> torch.Tensor:
        source = self._buffers[index]
        address = source.__array_interface__["data"][0]
        # A store may hand out one buffer for two equal blobs: the second tensor needs its own.
        if source.size and source.flags.writeable and address not in self._taken and address % ALIGNMENT == skew == 0:
            self._taken.add(address)
            return torch.from_numpy(source)
        memory = _empty(source.size, skew)
        np.copyto(memory.numpy(), source)
        return memory

    def _with_gaps(self, node: dict[str, Any], itemsize: int) -> torch.Tensor:
        """Spread packed elements over strided memory; what lies between them is zero."""
        shape, source = tuple(node["shape"]), self._buffers[node["of"]]
        steps = [step * (1 if node["dtype"][0] in "<>|=" else itemsize) for step in node["stride"]]
        reach = [(size - 1) * step for size, step in zip(shape, steps, strict=True)]
        if any(step < 0 for step in steps):
            raise ValueError("negative strides")
        memory = _empty(sum(reach) + itemsize, node.get("skew", 0)).zero_()
        element = np.dtype((np.void, itemsize))
        np.ndarray(shape, element, memory.numpy(), 0, steps)[...] = source.view(element).reshape(shape)
        return memory


def _empty(num_bytes: int, skew: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Aligned memory (plus ``skew``), uint8 ``[num_bytes]``."""
    return torch.empty(num_bytes + skew, dtype=torch.uint8, device=device)[skew:]


def _exists(device: torch.device) -> bool:
    module = torch.get_device_module(device)
    return bool(module.is_available()) and (device.index or 0) < module.device_count()
