"""What is needed of a pack, on its way: a list of ranges, and their bytes, one after the other.

A pack may be a large file with little left in it, and holes for the rest. Its parcel is as large as
what rows name. A line of JSON comes first: ``[[offset, number of bytes], …]``.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tunesafe.store.pack_file import Place

__all__ = ["blocks_of", "ranges", "read_parcel", "unpack_parcel"]

_BLOCK_BYTES = 4 << 20
_NEAR_BYTES = 4096
"""Ranges with less between them become one."""
_MOST_HEADER_BYTES = 64 << 20


def ranges(places: Collection[Place]) -> list[tuple[int, int]]:
    """Offset and length of the bytes that some places of one pack are in, ascending.

    Example:
        >>> ranges([Place("p", 128, 10), Place("p", 0, 100), Place("p", 90_000, 5)])
        [(0, 138), (90000, 5)]
    """
    found: list[tuple[int, int]] = []
    for place in sorted(places, key=lambda place: place.offset):
        end = place.offset + place.num_bytes
        if found and place.offset - sum(found[-1]) < _NEAR_BYTES:
            start, length = found[-1]
            found[-1] = start, max(length, end - start)
        elif place.num_bytes:
            found.append((place.offset, place.num_bytes))
    return found


def read_parcel(pack: BinaryIO, places: Collection[Place]) -> Iterator[bytes]:
    """The parcel of a pack, block by block; read as it is asked for.

    Args:
        pack: Its file, open for as long as blocks are asked for.
        places: What is needed of it.

    Raises:
        OSError: If it cannot be read.
    """
    size = os.fstat(pack.fileno()).st_size  # a damaged row may name bytes far beyond
    wanted = [(start, min(length, size - start)) for start, length in ranges(places) if start < size]
    yield json.dumps(wanted).encode() + b"\n"
    for start, length in wanted:
        for offset in range(start, start + length, _BLOCK_BYTES):
            yield _read(pack.fileno(), offset, min(_BLOCK_BYTES, start + length - offset))


def unpack_parcel(parcel: Iterable[bytes], pack: Path) -> int:
    """Make a pack of its parcel, durably, with holes where there was nothing.

    Args:
        parcel: As ``read_parcel`` gave it, in whatever blocks.
        pack: Must not exist.

    Returns:
        How many bytes came.

    Raises:
        ValueError: If it is none; what is missing at its end is not found here, but by the hashes of what was in it.
        OSError: If it cannot be written.
    """
    stream = _Stream(parcel)
    wanted = _ranges_of(stream.line())
    num_bytes = 0
    with pack.open("xb") as file:
        for offset, length in wanted:
            file.seek(offset)
            for block in stream.take(length):
                num_bytes += file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return num_bytes


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    """A whole file, block by block."""
    while block := file.read(_BLOCK_BYTES):
        yield block


class _Stream:
    """Blocks of any size, taken in pieces of any other."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks, self._rest = iter(blocks), b""

    def line(self) -> bytes:
        """Up to the first line break, which is dropped; all there is, if it has none within reason."""
        while b"\n" not in self._rest and len(self._rest) < _MOST_HEADER_BYTES:
            block = next(self._blocks, None)
            if block is None:
                break
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def take(self, num_bytes: int) -> Iterator[bytes]:
        """So many bytes; fewer at the end."""
        while num_bytes > 0:
            block = self._rest or next(self._blocks, b"")
            if not block:
                return
            piece, self._rest = block[:num_bytes], block[num_bytes:]
            num_bytes -= len(piece)
            yield piece


def _read(descriptor: int, offset: int, num_bytes: int) -> bytes:
    """So many bytes; zeros where the file is shorter or its disk has lost them: hashes will tell."""
    try:
        data = os.pread(descriptor, num_bytes, offset)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
        data = b""
    return data + bytes(num_bytes - len(data))


def _ranges_of(line: bytes) -> list[tuple[int, int]]:
    """The ranges of a parcel's first line.

    Raises:
        ValueError: If they are none.
    """
    found = json.loads(line)
    if not isinstance(found, list) or not all(_is_range(each) for each in found):
        raise ValueError("not the ranges of a parcel")
    return [(offset, length) for offset, length in found]


def _is_range(each: object) -> bool:
    return isinstance(each, list) and len(each) == 2 and all(type(number) is int and number >= 0 for number in each)
