"""Memory for whole states: aligned, and in large pages, of which it takes few faults to fill."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

__all__ = ["ALIGNMENT", "aligned_memory", "mapped_memory"]

ALIGNMENT = 64
"""Bytes: the alignment of torch's own allocations on a CPU."""
_LARGE_PAGE_BYTES = 2 << 20


def mapped_memory(num_bytes: int) -> mmap.mmap:
    """Anonymous, page-aligned memory; its pages are there once they are written to.

    A page fault costs about as much as copying ten times what a small page holds.
    """
    area = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            area.madvise(mmap.MADV_HUGEPAGE)
    return area


def aligned_memory(num_bytes: int) -> memoryview:
    """64-byte aligned memory of its own, which may be written to."""
    if num_bytes >= _LARGE_PAGE_BYTES:
        return memoryview(mapped_memory(num_bytes))
    raw = bytearray(num_bytes + ALIGNMENT)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % ALIGNMENT
    return memoryview(raw)[start : start + num_bytes]
