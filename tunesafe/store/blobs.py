"""Bytes by their hash, stored once in a study: in rows of at most 4 MiB, or in a pack beside the database.

A blob's row and its chunks are written in one transaction, so a chunk without a row is garbage
for certain. A pack is there before the rows that name it. A blob found damaged is marked, not
removed: the next save of the same bytes writes them again, which heals every checkpoint that
names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from tunesafe.store.engine import clock
from tunesafe.store.faults import TransientStorageError
from tunesafe.store.pack_file import Place
from tunesafe.store.statements import run
from tunesafe.store.tables import blob_chunks, blobs, checkpoint_blobs

__all__ = [
    "CHUNK_BYTES",
    "IDS_AT_ONCE",
    "Content",
    "Gone",
    "StoredBytes",
    "chunkless",
    "delete_chunks",
    "delete_unreferenced",
    "find_intact",
    "find_known",
    "groups",
    "groups_by_name",
    "lock_intact",
    "mark_damaged",
    "named",
    "needed_places",
    "orphans",
    "place_of",
    "write_blobs",
]

CHUNK_BYTES = 4 << 20
"""Size of a chunk: MariaDB's default packet is 16 MiB, and escaping can double zeros."""
IDS_AT_ONCE = 500
"""Parameters of one statement."""
_T = TypeVar("_T")


def named(count: int, *columns: ColumnElement[Any]) -> Select[Any]:
    """A question about so many of a study's blobs: for every group of ``groups_by_name``, made once for each count."""
    hashes = [bindparam(f"hash_{index}", type_=String) for index in range(count)]
    return select(*columns).where(blobs.c.study == bindparam("uuid"), blobs.c.hash.in_(hashes))


def groups_by_name(uuid: str, names: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Which blobs of a study a question is about, few enough for one statement; and how many it asks for.

    The count is a power of two, with the last name again and again, so that there are few different statements.
    """
    for some in groups(names):
        count = 1 << (len(some) - 1).bit_length()
        padded = [*some, *[some[-1]] * (count - len(some))]
        yield count, {"uuid": uuid, **{f"hash_{index}": name for index, name in enumerate(padded)}}


@lru_cache
def _known(count: int) -> Select[Any]:
    return named(count, blobs.c.hash, blobs.c.blob_id)


@lru_cache
def _intact(count: int) -> Select[Any]:
    return _known(count).where(blobs.c.intact == 1)


# Locked in one order, so that two transactions hardly ever wait for each other (a server ends that, and it is tried
# again). Intact ones are shared: many checkpoints may name one at once. Who is to write a damaged one again has it
# alone, from the start.
@lru_cache
def _shared(count: int) -> Select[Any]:
    return _intact(count).order_by(blobs.c.blob_id).with_for_update(read=True)


@lru_cache
def _damaged(count: int) -> Select[Any]:
    return _known(count).where(blobs.c.intact.is_distinct_from(1)).order_by(blobs.c.blob_id).with_for_update()


_INSERT = insert(blobs).values(intact=1, created_at=clock())
_INSERT_CHUNK = insert(blob_chunks)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes and their name.

    Args:
        hash: As ``state_hash`` gives it.
        num_bytes: How many they are.
        pieces: They themselves, one piece after the other; not copied.
    """

    hash: str
    num_bytes: int
    pieces: tuple[memoryview, ...]


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
    return _find(connection, uuid, hashes, _intact)


def lock_intact(connection: Connection, uuid: str, hashes: Collection[str]) -> dict[str, int]:
    """As ``find_intact``; and none of them is swept before this transaction ends."""
    return _find(connection, uuid, hashes, _shared)


def find_known(connection: Connection, uuid: str, hashes: Collection[str]) -> dict[str, int]:
    """The ids of those blobs that have a row, damaged or not, by hash."""
    return _find(connection, uuid, hashes, _known)


def write_blobs(
    connection: Connection,
    uuid: str,
    contents: Collection[Content],
    places: Mapping[str, Place] = MappingProxyType({}),
    doubtful: Collection[str] | None = None,
) -> None:
    """Write bytes that ``find_intact`` did not find.

    Args:
        connection: In a write transaction.
        uuid: The study.
        contents: The bytes.
        places: Where some of them are already, by hash; all others go into chunks.
        doubtful: Which of them may have a row, of damaged bytes; by default all.

    Raises:
        TransientStorageError: If one has a row against all expectation: another worker's, at this moment.
    """
    by_hash = {content.hash: content for content in contents}
    again = _find(connection, uuid, by_hash if doubtful is None else by_hash.keys() & doubtful, _damaged)
    if again:
        delete_chunks(connection, again.values())
        for name, blob_id in again.items():
            row = update(blobs).where(blobs.c.blob_id == blob_id)
            connection.execute(row.values(intact=1, **_place_values(places.get(name))))
    new = [
        {"study": uuid, "hash": name, "num_bytes": content.num_bytes, **_place_values(places.get(name))}
        for name, content in by_hash.items()
        if name not in again
    ]
    try:
        if new:
            run(connection, _INSERT, *new)
    except IntegrityError as error:
        raise TransientStorageError(
            "Another worker stored the same bytes at the same moment. This step wrote nothing; it is tried again."
        ) from error
    loose = [content for name, content in by_hash.items() if name not in places]
    if loose:
        _write_chunks(connection, loose, find_known(connection, uuid, [content.hash for content in loose]))


def _write_chunks(connection: Connection, contents: Collection[Content], ids: Mapping[str, int]) -> None:
    batch: list[dict[str, object]] = []
    batch_bytes = 0
    for blob_id, seq, data in _chunks(contents, ids):
        if batch and batch_bytes + len(data) > CHUNK_BYTES:
            connection.execute(_INSERT_CHUNK, batch)
            batch, batch_bytes = [], 0
        batch.append({"blob_id": blob_id, "seq": seq, "data": data})
        batch_bytes += len(data)
    if batch:
        connection.execute(_INSERT_CHUNK, batch)


def mark_damaged(connection: Connection, blob_ids: Collection[int]) -> None:
    """Remember that the bytes of these blobs are not what their hash says."""
    for some in groups(blob_ids):
        connection.execute(update(blobs).where(blobs.c.blob_id.in_(some)).values(intact=0))


def delete_unreferenced(connection: Connection, candidates: Collection[int]) -> Gone:
    """Delete the rows of those blobs that no checkpoint names; their bytes are deleted later, by the caller.

    The rows are locked first and asked about in a second statement: a save that is about to name
    one either has committed when we ask, or finds no row when it looks.
    """
    gone = Gone()
    for some in groups(sorted(candidates)):
        query = select(blobs.c.blob_id, blobs.c.num_bytes, blobs.c.pack, blobs.c.pack_offset)
        query = query.where(blobs.c.blob_id.in_(some)).order_by(blobs.c.blob_id).with_for_update()
        rows = {row.blob_id: row for row in connection.execute(query)}
        named = select(checkpoint_blobs.c.blob_id).where(checkpoint_blobs.c.blob_id.in_(list(rows))).distinct()
        for blob_id in connection.execute(named).scalars():
            del rows[blob_id]
        connection.execute(delete(blobs).where(blobs.c.blob_id.in_(list(rows))))
        gone |= Gone(
            {row.blob_id: _size(row.num_bytes) for row in rows.values() if row.pack is None},
            tuple(place_of(row.pack, row.pack_offset, row.num_bytes) for row in rows.values() if row.pack is not None),
        )
    return gone


def needed_places(connection: Connection, packs: Collection[str] | None = None) -> dict[str, list[Place]]:
    """The places that rows name, by pack; of all packs or of some."""
    query = select(blobs.c.pack, blobs.c.pack_offset, blobs.c.num_bytes).where(blobs.c.pack.is_not(None))
    needed: dict[str, list[Place]] = {}
    for some in [None] if packs is None else groups(packs):
        for row in connection.execute(query if some is None else query.where(blobs.c.pack.in_(some))):
            needed.setdefault(row.pack, []).append(place_of(row.pack, row.pack_offset, row.num_bytes))
    return needed


def delete_chunks(connection: Connection, blob_ids: Collection[int]) -> None:
    """Delete the bytes of blobs, whose rows are gone or about to be written again."""
    for some in groups(blob_ids):
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


def _size(column: object) -> int:
    return column if isinstance(column, int) else 0  # as for a place


def place_of(pack: object, offset: object, num_bytes: object) -> Place:
    """Where a row's bytes are in a pack; where nothing is, if its columns name no place."""
    # SQLite keeps whatever is put into a column.
    if isinstance(pack, str) and isinstance(offset, int) and isinstance(num_bytes, int):
        return Place(pack, offset, num_bytes)
    return Place("", 0, 0)


def _place_values(place: Place | None) -> dict[str, object]:
    return {"pack": None, "pack_offset": None} if place is None else {"pack": place.pack, "pack_offset": place.offset}


def _find(
    connection: Connection, uuid: str, hashes: Collection[str], query: Callable[[int], Select[Any]]
) -> dict[str, int]:
    found: dict[str, int] = {}
    for count, values in groups_by_name(uuid, hashes):
        found |= {row.hash: row.blob_id for row in run(connection, query(count), values)}
    return found


def _chunks(contents: Collection[Content], ids: Mapping[str, int]) -> Iterator[tuple[int, int, memoryview]]:
    for content in contents:
        data = content.pieces[0] if len(content.pieces) == 1 else memoryview(b"".join(content.pieces))
        for seq, start in enumerate(range(0, data.nbytes, CHUNK_BYTES)):
            yield ids[content.hash], seq, data[start : start + CHUNK_BYTES]


def groups(items: Collection[_T]) -> Iterator[list[_T]]:
    """Lists short enough for the parameters of one statement."""
    everything = list(items)
    for start in range(0, len(everything), IDS_AT_ONCE):
        yield everything[start : start + IDS_AT_ONCE]
