"""Bytes by their hash, stored once in a study: in rows of at most 4 MiB, or in a pack beside the database.

A blob's row and its chunks are written in one transaction, so a chunk without a row is garbage
for certain. A pack is there before the rows that name it. A blob found damaged is marked, not
removed: the next save of the same bytes writes them again, which heals every checkpoint that
names it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, chain
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar

from sqlalchemy import Connection, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tunesafe.store.engine import clock
from tunesafe.store.faults import TransientStorageError
from tunesafe.store.hashing import Buffer, is_named
from tunesafe.store.memory import ALIGNMENT, aligned_memory
from tunesafe.store.packs import Packs, Place
from tunesafe.store.tables import blob_chunks, blobs, checkpoint_blobs

__all__ = [
    "CHUNK_BYTES",
    "Content",
    "Gone",
    "StoredBytes",
    "Wanted",
    "chunkless",
    "delete_chunks",
    "delete_unreferenced",
    "find_blobs",
    "find_intact",
    "lock_intact",
    "mark_damaged",
    "needed_places",
    "orphans",
    "read_intact",
    "write_blobs",
]

CHUNK_BYTES = 4 << 20
"""Size of a chunk: MariaDB's default packet is 16 MiB, and escaping can double zeros."""
_IDS_AT_ONCE = 500
_READERS = min(os.cpu_count() or 1, 4)
_NOWHERE: Mapping[str, Place] = MappingProxyType({})
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes and their name.

    Args:
        hash: As ``content_hash`` gives it.
        data: The bytes, contiguous; not copied.
    """

    hash: str
    data: memoryview


class Wanted(NamedTuple):
    """A blob as a manifest lists it.

    Args:
        blob_id: Its row.
        hash: The name of its bytes.
        num_bytes: How many they are.
        shelf: Large blobs of one shelf share a piece of memory, which is there until none of them is needed.
    """

    blob_id: int
    hash: str
    num_bytes: int
    shelf: str


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """An amount of bytes by where they are, or were.

    Args:
        in_database: In rows [bytes].
        in_packs: In files beside it [bytes].
    """

    in_database: int = 0
    in_packs: int = 0

    def __add__(self, other: StoredBytes) -> StoredBytes:
        return StoredBytes(self.in_database + other.in_database, self.in_packs + other.in_packs)


@dataclass(frozen=True, slots=True)
class Gone:
    """Blobs whose rows are deleted, and whose bytes are still to be.

    Args:
        chunks: Sizes of those that are in chunks [bytes], by id.
        places: Where the others are.
        done: Size of further ones, whose chunks are deleted already [bytes].
    """

    chunks: dict[int, int] = field(default_factory=dict)
    places: tuple[Place, ...] = ()
    done: int = 0

    @property
    def num_bytes(self) -> StoredBytes:
        """What is free once all of it is deleted."""
        return StoredBytes(self.done + sum(self.chunks.values()), sum(place.num_bytes for place in self.places))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to delete."""
        return not self.chunks and not self.places

    def __or__(self, other: Gone) -> Gone:
        return Gone(self.chunks | other.chunks, self.places + other.places, self.done + other.done)


def find_intact(connection: Connection, uuid: str, hashes: Collection[str]) -> dict[str, int]:
    """The ids of those blobs that are there and not known to be damaged, by hash."""
    return _find(connection, uuid, hashes, intact=True)


def lock_intact(connection: Connection, uuid: str, hashes: Collection[str]) -> dict[str, int]:
    """As ``find_intact``; and none of them is swept before this transaction ends."""
    # Shared: many checkpoints may name one blob at once, and none of them changes its row.
    return _find(connection, uuid, hashes, intact=True, lock="share")


def find_blobs(connection: Connection, uuid: str, hashes: Collection[str]) -> dict[str, int]:
    """The ids of those blobs that have a row, damaged or not, by hash."""
    return _find(connection, uuid, hashes)


def write_blobs(
    connection: Connection, uuid: str, contents: Sequence[Content], places: Mapping[str, Place] = _NOWHERE
) -> dict[str, int]:
    """Write bytes that ``find_intact`` did not find; return their ids by hash.

    Args:
        connection: In a write transaction.
        uuid: The study.
        contents: The bytes.
        places: Where some of them are already, by hash; all others go into chunks.

    Raises:
        TransientStorageError: If another worker writes the same bytes at this moment.
    """
    by_hash = {content.hash: content for content in contents}
    damaged = _find(connection, uuid, by_hash, intact=False, lock="update")
    if damaged:
        delete_chunks(connection, damaged.values())
        for name, blob_id in damaged.items():
            row = update(blobs).where(blobs.c.blob_id == blob_id)
            connection.execute(row.values(intact=1, **_place_values(places.get(name))))
    new = [
        {"study": uuid, "hash": name, "num_bytes": content.data.nbytes, **_place_values(places.get(name))}
        for name, content in by_hash.items()
        if name not in damaged
    ]
    try:
        if new:
            connection.execute(insert(blobs).values(intact=1, created_at=clock()), new)
    except IntegrityError as error:
        raise TransientStorageError(
            "Another worker stored the same bytes at the same moment. This step wrote nothing; it is tried again."
        ) from error
    ids = _find(connection, uuid, by_hash)
    batch: list[dict[str, object]] = []
    batch_bytes = 0
    for blob_id, seq, data in _chunks([content for name, content in by_hash.items() if name not in places], ids):
        if batch and batch_bytes + len(data) > CHUNK_BYTES:
            connection.execute(insert(blob_chunks), batch)
            batch, batch_bytes = [], 0
        batch.append({"blob_id": blob_id, "seq": seq, "data": data})
        batch_bytes += len(data)
    if batch:
        connection.execute(insert(blob_chunks), batch)
    return ids


def read_intact(
    connection: Connection, wanted: Collection[Wanted], packs: Packs | None
) -> Iterator[tuple[str, Buffer]]:
    """Read blobs and verify them, those in packs several at once; by hash, in memory that may be written to.

    What is stored may be shorter or longer than a manifest says, be something else, or not be there at
    all: such blobs do not come.
    """
    by_id = {blob.blob_id: blob for blob in wanted}
    places = _places(connection, {blob.blob_id: blob.num_bytes for blob in wanted})
    if places and packs is not None:
        memory = _shelved(by_id[blob_id] for blob_id in places)

        def read(blob_id: int) -> list[tuple[str, Buffer]]:
            name = by_id[blob_id].hash
            data = packs.read(places[blob_id], memory[blob_id][: places[blob_id].num_bytes])
            # Hashed while it is in the cache.
            return [(name, data)] if is_named(data, name, alone=len(places) == 1) else []

        with ThreadPoolExecutor(_READERS, thread_name_prefix="tunesafe-read") as pool:
            yield from chain.from_iterable(pool.map(read, places))
    for blob_id, data in _read_chunks(connection, {i: by_id[i].num_bytes for i in by_id if i not in places}):
        if is_named(data, by_id[blob_id].hash):
            yield by_id[blob_id].hash, data


def _shelved(wanted: Iterable[Wanted]) -> dict[int, memoryview]:
    """Memory for each blob, by id."""
    shelves: dict[str, list[Wanted]] = {}
    for blob in wanted:
        shelves.setdefault(blob.shelf, []).append(blob)
    memory = {}
    for shelf in shelves.values():
        offsets = list(accumulate((-(-blob.num_bytes // ALIGNMENT) * ALIGNMENT for blob in shelf), initial=0))
        whole = aligned_memory(offsets[-1])
        for blob, offset in zip(shelf, offsets, strict=False):
            memory[blob.blob_id] = whole[offset : offset + blob.num_bytes]
    return memory


def _read_chunks(connection: Connection, sizes: Mapping[int, int]) -> Iterator[tuple[int, bytearray]]:
    small: list[int] = []
    small_bytes = 0
    for blob_id in sorted(sizes):
        if small and (small_bytes + sizes[blob_id] > CHUNK_BYTES or len(small) == _IDS_AT_ONCE):
            yield from _read_small(connection, small)
            small, small_bytes = [], 0
        if sizes[blob_id] > CHUNK_BYTES:
            yield blob_id, _read_large(connection, blob_id, sizes[blob_id])
        else:
            small.append(blob_id)
            small_bytes += sizes[blob_id]
    if small:
        yield from _read_small(connection, small)


def mark_damaged(connection: Connection, blob_ids: Collection[int]) -> None:
    """Remember that the bytes of these blobs are not what their hash says."""
    for some in _groups(blob_ids):
        connection.execute(update(blobs).where(blobs.c.blob_id.in_(some)).values(intact=0))


def delete_unreferenced(connection: Connection, candidates: Collection[int]) -> Gone:
    """Delete the rows of those blobs that no checkpoint names; their bytes are deleted later, by the caller.

    The rows are locked first and asked about in a second statement: a save that is about to name
    one either has committed when we ask, or finds no row when it looks.
    """
    gone = Gone()
    for some in _groups(sorted(candidates)):
        query = select(blobs.c.blob_id, blobs.c.num_bytes, blobs.c.pack, blobs.c.pack_offset)
        query = query.where(blobs.c.blob_id.in_(some)).order_by(blobs.c.blob_id).with_for_update()
        rows = {row.blob_id: row for row in connection.execute(query)}
        named = select(checkpoint_blobs.c.blob_id).where(checkpoint_blobs.c.blob_id.in_(list(rows))).distinct()
        for blob_id in connection.execute(named).scalars():
            del rows[blob_id]
        connection.execute(delete(blobs).where(blobs.c.blob_id.in_(list(rows))))
        gone |= Gone(
            {row.blob_id: row.num_bytes for row in rows.values() if row.pack is None},
            tuple(_place(row.pack, row.pack_offset, row.num_bytes) for row in rows.values() if row.pack is not None),
        )
    return gone


def needed_places(connection: Connection, packs: Collection[str] | None = None) -> dict[str, list[Place]]:
    """The places that rows name, by pack; of all packs or of some."""
    query = select(blobs.c.pack, blobs.c.pack_offset, blobs.c.num_bytes).where(blobs.c.pack.is_not(None))
    needed: dict[str, list[Place]] = {}
    for some in [None] if packs is None else _groups(packs):
        for row in connection.execute(query if some is None else query.where(blobs.c.pack.in_(some))):
            needed.setdefault(row.pack, []).append(_place(row.pack, row.pack_offset, row.num_bytes))
    return needed


def delete_chunks(connection: Connection, blob_ids: Collection[int]) -> None:
    """Delete the bytes of blobs, whose rows are gone or about to be written again."""
    for some in _groups(blob_ids):
        connection.execute(delete(blob_chunks).where(blob_chunks.c.blob_id.in_(some)))


def orphans(connection: Connection, uuid: str, older_than_seconds: float) -> list[int]:
    """Blobs no checkpoint has named for this long: what a killed save left behind."""
    named = exists().where(checkpoint_blobs.c.blob_id == blobs.c.blob_id)
    old = blobs.c.created_at < clock() - older_than_seconds
    return list(connection.execute(select(blobs.c.blob_id).where(blobs.c.study == uuid, old, ~named)).scalars())


def chunkless(connection: Connection) -> dict[int, int]:
    """Chunks whose blob is gone, what a killed sweep left behind: their size [bytes], by id of the blob."""
    there = exists().where(blobs.c.blob_id == blob_chunks.c.blob_id)
    size = func.sum(func.length(blob_chunks.c.data))
    query = select(blob_chunks.c.blob_id, size).where(~there).group_by(blob_chunks.c.blob_id)
    # MySQL and PostgreSQL sum integers to decimals.
    return {blob_id: int(num_bytes) for blob_id, num_bytes in connection.execute(query)}


def _places(connection: Connection, sizes: Mapping[int, int]) -> dict[int, Place]:
    """Where those blobs are that are in packs, by id, in the order of their bytes; sizes as the caller knows them."""
    found: dict[int, Place] = {}
    for some in _groups(sizes):
        query = select(blobs.c.blob_id, blobs.c.pack, blobs.c.pack_offset)
        query = query.where(blobs.c.blob_id.in_(some), blobs.c.pack.is_not(None))
        for row in connection.execute(query):
            found[row.blob_id] = _place(row.pack, row.pack_offset, sizes[row.blob_id])
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _place(pack: object, offset: object, num_bytes: int) -> Place:
    # SQLite keeps whatever is put into a column; what cannot be a place is a place where nothing is.
    return Place(pack, offset, num_bytes) if isinstance(pack, str) and isinstance(offset, int) else Place("", 0, 0)


def _place_values(place: Place | None) -> dict[str, object]:
    return {"pack": None, "pack_offset": None} if place is None else {"pack": place.pack, "pack_offset": place.offset}


def _find(
    connection: Connection,
    uuid: str,
    hashes: Collection[str],
    *,
    intact: bool | None = None,
    lock: Literal["share", "update"] | None = None,
) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in _groups(hashes):
        query = select(blobs.c.hash, blobs.c.blob_id).where(blobs.c.study == uuid, blobs.c.hash.in_(some))
        if intact is not None:
            query = query.where(blobs.c.intact == 1 if intact else blobs.c.intact != 1)
        if lock is not None:
            # In one order everywhere, so that two transactions cannot wait for each other.
            query = query.order_by(blobs.c.blob_id).with_for_update(read=lock == "share")
        found |= {row.hash: row.blob_id for row in connection.execute(query)}
    return found


def _chunks(contents: Collection[Content], ids: dict[str, int]) -> Iterator[tuple[int, int, memoryview]]:
    for content in contents:
        for seq, start in enumerate(range(0, content.data.nbytes, CHUNK_BYTES)):
            yield ids[content.hash], seq, content.data[start : start + CHUNK_BYTES]


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


def _groups(items: Collection[_T]) -> Iterator[list[_T]]:
    """Lists short enough for the parameters of one statement."""
    everything = list(items)
    for start in range(0, len(everything), _IDS_AT_ONCE):
        yield everything[start : start + _IDS_AT_ONCE]
