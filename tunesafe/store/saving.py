"""A checkpoint on its way to disk: hashed, written and named, again where a step may be tried again.

Many new bytes are written to a pack, or in transactions of their own, before the transaction that
names them; few go with it. What a failed attempt has hashed and written serves the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
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
from tunesafe.store.hashing import state_hash
from tunesafe.store.manifests import Described, describe, views_of
from tunesafe.store.packs import Packs, Place
from tunesafe.store.tables import checkpoints

__all__ = ["Saving", "Surplus", "batches"]

Surplus = Callable[[Sequence[CheckpointInfo]], Collection[int]]
"""Given all checkpoints of a trial, the ids of those that may be removed."""

_ATTEMPTS = 5
_TRANSACTION_BYTES = 16 << 20
"""What is written to a server at a time: fewer commits, and nobody waits for its locks."""
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
        small_bytes: Up to so many new bytes go into the transaction that names them.
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
        small_bytes: int,
    ) -> None:
        self._engine, self._uuid, self._packs = engine, uuid, packs
        self._snapshot, self._number, self._fence, self._surplus = snapshot, number, fence, surplus
        self._small_bytes = small_bytes
        self._views = views_of(snapshot)
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
        self._names = self._names or [state_hash(view) for view in self._views]
        described = describe(self._snapshot, self._uuid, self._number, self._views, self._names)
        if self._packs is not None:
            self._places = self._packs.present(self._places)
        if described.num_bytes > self._small_bytes:
            with reading(self._engine) as connection:
                check_fence(connection, self._uuid, self._number, self._fence)
                there = blobs.find_intact(connection, self._uuid, described.contents).keys() | self._places.keys()
            # As they lie in memory: what was captured together is read together.
            new = [described.contents[name] for name in dict.fromkeys(self._names) if name not in there]
            self._write_new(new)
        return described

    def _write_new(self, new: Sequence[Content]) -> None:
        if sum(map(_size, new)) <= self._small_bytes:
            return  # they go into the transaction that names them
        with translated(self._engine.url):
            if self._packs is not None:
                large = self._for_pack(new, self._packs.least_bytes)
                if large:
                    places = self._packs.write(content.data for content in large)
                    self._places |= {content.hash: place for content, place in zip(large, places, strict=True)}
                return
            for batch in batches(new, _size, _TRANSACTION_BYTES):
                with writing(self._engine) as connection:
                    blobs.write_blobs(connection, self._uuid, batch)
                for _ in batch:
                    failpoint("blob.written")

    def _for_pack(self, new: Sequence[Content], least_bytes: int) -> list[Content]:
        """What goes into a pack; the rest, never more than a transaction's worth, goes with the row that names it."""
        left, large = max(self._small_bytes, ONE_TRANSACTION_BYTES), []
        for content in new:
            if _size(content) < least_bytes and _size(content) <= left:
                left -= _size(content)
            else:
                large.append(content)
        return large

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
