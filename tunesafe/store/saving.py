"""A checkpoint on its way to disk: hashed, written and named, again where a step may be tried again.

Hashing runs ahead in a thread; what is new is written to a pack, or in transactions of its own, as
soon as its name is known. So a large save takes as long as the slower of the two, not as their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TypeVar

from sqlalchemy import Connection, Engine, select

from tunesafe.contracts import CheckpointInfo, Snapshot
from tunesafe.errors import LeaseLostError
from tunesafe.failpoints import failpoint
from tunesafe.store import blobs
from tunesafe.store.blobs import Content, Gone
from tunesafe.store.checkpoint_rows import ONE_TRANSACTION_BYTES, at, delete_rows, forget, info_of, infos_of, insert_row
from tunesafe.store.claims import advance, check_fence
from tunesafe.store.engine import reading, writing
from tunesafe.store.faults import TransientStorageError, UnreachableStorageError, translated
from tunesafe.store.hashing import hashing_ahead
from tunesafe.store.manifests import Described, describe, views_of
from tunesafe.store.packs import Packs, Place
from tunesafe.store.tables import checkpoints

__all__ = ["Saving", "Surplus", "batches"]

Surplus = Callable[[Sequence[CheckpointInfo]], Collection[int]]
"""Given all checkpoints of a trial, the ids of those that may be removed."""

_ATTEMPTS = 5
_ASKED_AT_ONCE_BYTES = 16 << 20
_T = TypeVar("_T")


class Saving:
    """One state of one trial, until it is a checkpoint.

    Args:
        engine: The database.
        uuid: The study.
        packs: Where large bytes go; ``None`` for into the database as well.
        snapshot: The state; its memory must not change meanwhile.
        number: The trial it belongs to.
        fence: Of the claim under which it is saved.
        surplus: Chooses what to forget now that this checkpoint is there; never this one itself.
    """

    def __init__(
        self,
        engine: Engine,
        uuid: str,
        packs: Packs | None,
        snapshot: Snapshot,
        *,
        number: int,
        fence: int,
        surplus: Surplus,
    ) -> None:
        self._engine, self._uuid, self._packs = engine, uuid, packs
        self._snapshot, self._number, self._fence, self._surplus = snapshot, number, fence, surplus
        self._views = views_of(snapshot)
        # What a failed attempt has hashed, and written to a pack, serves the next one.
        self._names: list[str] = []
        self._places: dict[str, Place] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        """What has been written to packs for it."""
        return tuple(self._places.values())

    def run(self) -> tuple[CheckpointInfo, Gone]:
        """Write and commit; also return the blobs whose bytes are still to be deleted.

        Raises:
            LeaseLostError, StorageError: As ``CheckpointStore.save``.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._commit(self._write())
            except UnreachableStorageError:
                raise  # every attempt may take half a minute to find that out: whoever waits has to be told
            except TransientStorageError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _write(self) -> Described:
        """Name all bytes, and write new ones ahead of the commit if they are too many for its transaction."""
        if self._packs is not None:
            self._places = self._packs.present(self._places)
        large = sum(view.nbytes for view in self._views) > ONE_TRANSACTION_BYTES
        if large:
            with reading(self._engine) as connection:
                check_fence(connection, self._uuid, self._number, self._fence)
        with hashing_ahead(self._views[len(self._names) :]) as names:
            contents = self._contents(names)
            if large:
                self._write_new(self._not_stored(contents))
            for _ in contents:
                pass
        return describe(self._snapshot, self._uuid, self._number, self._views, self._names)

    def _contents(self, names: Iterator[str]) -> Iterator[Content]:
        """The state's bytes, each once, as their names become known."""
        seen: set[str] = set()
        known = list(self._names)
        for index, name in enumerate(chain(known, names)):
            if index >= len(known):
                self._names.append(name)
            if name not in seen:
                seen.add(name)
                yield Content(name, self._views[index])

    def _not_stored(self, contents: Iterable[Content]) -> Iterator[Content]:
        for some in batches(contents, _size, _ASKED_AT_ONCE_BYTES):
            with reading(self._engine) as connection:
                there = blobs.find_intact(connection, self._uuid, [content.hash for content in some])
            yield from (content for content in some if content.hash not in there and content.hash not in self._places)

    def _write_new(self, new: Iterator[Content]) -> None:
        few: list[Content] = []
        while sum(map(_size, few)) <= ONE_TRANSACTION_BYTES:
            content = next(new, None)
            if content is None:
                return  # they go into the transaction that names them
            few.append(content)
        with translated(self._engine.url):
            if self._packs is not None:
                self._write_pack(self._packs, _for_pack(self._packs, chain(few, new)))
                return
            for batch in batches(chain(few, new), _size, blobs.CHUNK_BYTES):
                with writing(self._engine) as connection:
                    blobs.write_blobs(connection, self._uuid, batch)
                for _ in batch:
                    failpoint("blob.written")

    def _write_pack(self, packs: Packs, contents: Iterator[Content]) -> None:
        names: list[str] = []

        def views() -> Iterator[memoryview]:
            for content in contents:
                names.append(content.hash)
                yield content.data

        first = next(contents, None)
        if first is None:
            return  # all of it is small
        contents = chain((first,), contents)
        places = packs.write(views())
        self._places |= zip(names, places, strict=True)

    def _commit(self, described: Described) -> tuple[CheckpointInfo, Gone]:
        """Make it a checkpoint; also return the blobs whose bytes are still to be deleted."""

        def forget_surplus(connection: Connection) -> Gone:
            infos = infos_of(connection, self._uuid, self._number)
            unwanted = set(self._surplus(infos)) - {info.checkpoint_id}
            return forget(connection, unwanted, loose) if unwanted or loose else Gone()

        # Where writers take turns, one commit does it all. Where they do not, two savers would wait for each
        # other: each locks the bytes it names, and then those it forgets, which the other may be about to name.
        together = self._engine.dialect.name == "sqlite"
        left = Gone()
        with writing(self._engine) as connection:
            advance(connection, self._uuid, self._number, self._fence, described.position.examples_seen)
            info, loose, unused = self._put(connection, described)
            if together:
                left = forget_surplus(connection)
            failpoint("checkpoint.in_transaction")
        failpoint("checkpoint.committed")
        if not together:
            # Whoever has the trial by now knows better what it needs.
            with writing(self._engine) as connection, suppress(LeaseLostError):
                check_fence(connection, self._uuid, self._number, self._fence)
                left = forget_surplus(connection)
        return info, left | Gone(places=tuple(unused))

    def _put(
        self, connection: Connection, described: Described
    ) -> tuple[CheckpointInfo, Collection[int], Collection[Place]]:
        """Write row and missing bytes.

        Returns:
            The checkpoint, the blobs that a row in its place has named until now, and bytes that were
            written to a pack although another worker had stored them meanwhile.
        """
        position, uuid, number, places = described.position, self._uuid, self._number, self._places
        ids = blobs.lock_intact(connection, uuid, described.contents)
        new = [content for name, content in described.contents.items() if name not in ids]
        if self._packs is not None and len(self._packs.present(places)) < len(places):
            raise TransientStorageError("A pack was swept before it was named; it is written again.")
        if new:
            ids |= blobs.write_blobs(connection, uuid, new, places)
            for _ in new:
                failpoint("blob.written")
        written = {content.hash for content in new}
        unused = [place for name, place in places.items() if name not in written]
        old = connection.execute(select(checkpoints).where(*at(uuid, number, position))).one_or_none()
        loose: Collection[int] = ()
        if old is not None:
            if not new and (old.manifest_json, old.digest) == (described.manifest_json, described.digest):
                return info_of(old), loose, unused
            # Damaged since, or trained again and come out differently: what is true now counts.
            loose = delete_rows(connection, [old.checkpoint_id])
        row = {
            "number": number,
            "virtual_epoch": position.virtual_epoch,
            "examples_seen": position.examples_seen,
            "manifest_json": described.manifest_json,
            "digest": described.digest,
            "num_bytes": described.num_bytes,
            "fence": self._fence,
            "weights_only": 0,
        }
        return insert_row(connection, uuid, row, ids.values()), loose, unused


def _for_pack(packs: Packs, contents: Iterable[Content]) -> Iterator[Content]:
    """What goes into a pack; the rest, never more than a transaction's worth, goes with the row that names it."""
    left = ONE_TRANSACTION_BYTES
    for content in contents:
        if _size(content) < packs.least_bytes and _size(content) <= left:
            left -= _size(content)
        else:
            yield content


def batches(items: Iterable[_T], size: Callable[[_T], int], most: int) -> Iterator[list[_T]]:
    """Small items together, up to a size [bytes]; a larger one by itself."""
    batch: list[_T] = []
    num_bytes = 0
    for item in items:
        if batch and num_bytes + size(item) > most:
            yield batch
            batch, num_bytes = [], 0
        batch.append(item)
        num_bytes += size(item)
    if batch:
        yield batch


def _size(content: Content) -> int:
    return content.data.nbytes
