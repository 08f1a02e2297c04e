"""Blobs on their way back into memory: found, read where they are, several at once, and verified.

What is stored may be shorter or longer than a manifest says, be something else, or not be there at
all: such bytes do not come back.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select

from tunesafe.store.blobs import CHUNK_BYTES, IDS_AT_ONCE, groups_by_name, named, place_of
from tunesafe.store.hashing import Buffer, is_named
from tunesafe.store.memory import ALIGNMENT, aligned_memory
from tunesafe.store.pack_file import Place
from tunesafe.store.packs import Packs
from tunesafe.store.statements import run
from tunesafe.store.tables import blob_chunks, blobs

__all__ = ["Loaded", "Wanted", "load_blobs"]

_READERS = min(os.cpu_count() or 1, 4)
_PARALLEL_BYTES = 4 << 20
"""Fewer are read before a thread has begun."""


@lru_cache
def _located(count: int) -> Select[Any]:
    return named(count, blobs.c.hash, blobs.c.blob_id, blobs.c.pack, blobs.c.pack_offset)


class Wanted(NamedTuple):
    """A blob as a manifest lists it.

    Args:
        hash: The name of its bytes.
        num_bytes: How many they are.
        shelf: Large blobs of one shelf share a piece of memory, which is there until none of them is needed.
    """

    hash: str
    num_bytes: int
    shelf: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it.

    Args:
        ids: Those blobs that have a row, by hash.
        intact: The bytes of those that are what was written, by hash, in memory that may be written to.
    """

    ids: Mapping[str, int]
    intact: Mapping[str, Buffer]


def load_blobs(connection: Connection, uuid: str, wanted: Collection[Wanted], packs: Packs | None) -> Loaded:
    """Read blobs and verify them.

    Args:
        connection: The database.
        uuid: The study.
        wanted: Which, each once.
        packs: Where those are that are not in the database.
    """
    by_hash = {blob.hash: blob for blob in wanted}
    ids: dict[str, int] = {}
    places: dict[str, Place] = {}
    sizes: dict[int, int] = {}
    for count, values in groups_by_name(uuid, by_hash):
        for row in run(connection, _located(count), values):
            ids[row.hash] = row.blob_id
            if row.pack is None:
                sizes[row.blob_id] = by_hash[row.hash].num_bytes
            else:
                places[row.hash] = place_of(row.pack, row.pack_offset, by_hash[row.hash].num_bytes)
    intact: dict[str, Buffer] = {}
    if places and packs is not None:
        intact |= _read_packs([by_hash[name] for name in places], places, packs)
    names = {blob_id: name for name, blob_id in ids.items()}
    for blob_id, data in _read_chunks(connection, sizes):
        if is_named(data, names[blob_id]):
            intact[names[blob_id]] = data
    return Loaded(ids, intact)


def _read_packs(wanted: Sequence[Wanted], places: Mapping[str, Place], packs: Packs) -> dict[str, Buffer]:
    if packs.is_near and sum(blob.num_bytes for blob in wanted) < _PARALLEL_BYTES:
        return _read_few(places, packs)
    memory = _shelved(wanted)

    def read(name: str) -> Buffer | None:
        data = packs.read(places[name], memory[name][: places[name].num_bytes])
        # Hashed while it is in the cache.
        return data if is_named(data, name) else None

    in_order = sorted(places, key=places.__getitem__)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="tunesafe-read") as pool:
        found = list(pool.map(read, in_order))
    return {name: data for name, data in zip(in_order, found, strict=True) if data is not None}


def _read_few(places: Mapping[str, Place], packs: Packs) -> dict[str, Buffer]:
    """What lies together is read together: to open a file takes as long as to read fifty kilobytes."""
    found: dict[str, Buffer] = {}
    for together in _neighbours(places):
        first, last = places[together[0]], places[together[-1]]
        data = packs.read(Place(first.pack, first.offset, last.offset + last.num_bytes - first.offset))
        for name in together:
            start = places[name].offset - first.offset
            piece = data[start : start + places[name].num_bytes]
            if is_named(piece, name):
                found[name] = piece
    return found


def _neighbours(places: Mapping[str, Place]) -> list[list[str]]:
    """Names by where they are; those together that lie side by side in one pack."""
    runs: list[list[str]] = []
    end = Place("", 0, 0)
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        if runs and place.pack == end.pack and 0 <= place.offset - end.offset < ALIGNMENT:
            runs[-1].append(name)
        else:
            runs.append([name])
        end = Place(place.pack, place.offset + place.num_bytes, 0)
    return runs


def _shelved(wanted: Iterable[Wanted]) -> dict[str, memoryview]:
    """Memory for each blob, by hash."""
    shelves: dict[str, list[Wanted]] = {}
    for blob in wanted:
        shelves.setdefault(blob.shelf, []).append(blob)
    memory = {}
    for shelf in shelves.values():
        offsets = list(accumulate((-(-blob.num_bytes // ALIGNMENT) * ALIGNMENT for blob in shelf), initial=0))
        whole = aligned_memory(offsets[-1])
        for blob, offset in zip(shelf, offsets, strict=False):
            memory[blob.hash] = whole[offset : offset + blob.num_bytes]
    return memory


def _read_chunks(connection: Connection, sizes: Mapping[int, int]) -> Iterator[tuple[int, bytearray]]:
    small: list[int] = []
    small_bytes = 0
    for blob_id in sorted(sizes):
        if small and (small_bytes + sizes[blob_id] > CHUNK_BYTES or len(small) == IDS_AT_ONCE):
            yield from _read_small(connection, small)
            small, small_bytes = [], 0
        if sizes[blob_id] > CHUNK_BYTES:
            yield blob_id, _read_large(connection, blob_id, sizes[blob_id])
        else:
            small.append(blob_id)
            small_bytes += sizes[blob_id]
    if small:
        yield from _read_small(connection, small)


def _read_small(connection: Connection, ids: Sequence[int]) -> Iterator[tuple[int, bytearray]]:
    query = select(blob_chunks.c.blob_id, blob_chunks.c.data).where(blob_chunks.c.blob_id.in_(ids))
    found: dict[int, bytearray] = {blob_id: bytearray() for blob_id in ids}
    for blob_id, data in connection.execute(query.order_by(blob_chunks.c.blob_id, blob_chunks.c.seq)):
        found[blob_id] += _as_bytes(data)
    yield from found.items()


def _read_large(connection: Connection, blob_id: int, size: int) -> bytearray:
    # A chunk at a time: no driver then holds the whole blob beside ours.
    data, end = bytearray(size), 0
    for seq in range(-(-size // CHUNK_BYTES)):
        query = select(blob_chunks.c.data).where(blob_chunks.c.blob_id == blob_id, blob_chunks.c.seq == seq)
        chunk = _as_bytes(connection.execute(query).scalar_one_or_none())
        data[end : end + len(chunk)] = chunk
        end += len(chunk)
    del data[end:]
    return data


def _as_bytes(data: object) -> bytes:
    # SQLite keeps whatever is put into a column; what is no bytes is damage, found by its hash.
    return data if isinstance(data, bytes) else b""
