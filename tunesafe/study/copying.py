"""One copy of a study to its second place: whole, or the one before stays the one that counts.

In this order: a consistent copy of the database; every pack it names that is not there yet, pinned
here meanwhile and verified afterwards; the copy of the database; the pointer, on the condition that
nobody else has moved it. Only then what no pointer names is removed, and of that only what was there
before the pointer moved: later things may belong to a later owner.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Self
from uuid import uuid4

from sqlalchemy import Engine

from tunesafe import __version__
from tunesafe.contracts import Event
from tunesafe.errors import TunesafeError
from tunesafe.failpoints import failpoint
from tunesafe.spec import StudySpec
from tunesafe.store import backups, blobs
from tunesafe.store.backup_state import BackupFolder, BackupState
from tunesafe.store.backups import Packed, PackObject, Pointer
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.depots import ConflictError, Depot, DepotError
from tunesafe.store.engine import read_only_engine, reading, writing
from tunesafe.store.events import append_event, newest_event_of
from tunesafe.store.hashing import file_hash
from tunesafe.store.packs import packs_beside
from tunesafe.store.parcels import blocks_of, read_parcel
from tunesafe.store.sealing import row_intact, seal, unseal
from tunesafe.store.studies import StudyRow
from tunesafe.store.urls import sqlite_path

__all__ = ["OWNING", "Copier", "PlaceLostError", "owner_token", "owning_event", "refuse_taken_place"]

OWNING = "backup_begun"
"""The event that gives the study on this machine a token of its own; the newest counts."""
_SNAPSHOTS_AT_ONCE = 5
"""How often one copy begins again because bytes it names were removed in mid-copy."""
_WASTE_BYTES = 1 << 20
"""A pack of which more than this, and more than half, is no longer needed in its place is sent again."""


class PlaceLostError(TunesafeError):
    """The place belongs to another study, or to another copy of this one: nothing may be written there any more."""


class Copier:
    """Copies one study to one place.

    Args:
        engine: Of a SQLite database.
        row: The study.
        depot: The second place.
        folder: What is kept beside the database.
    """

    def __init__(self, engine: Engine, row: StudyRow, depot: Depot, folder: BackupFolder) -> None:
        database, packs = sqlite_path(engine.url), packs_beside(engine.url)
        assert database is not None, "a study on a server has no second place"
        assert packs is not None, "as above"
        self._engine, self._uuid, self._name = engine, row.uuid, row.name
        self._database, self._packs, self._depot, self._folder = database, packs, depot, folder
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def take(self) -> bool:
        """Be the one process on this host that copies the study; ``False`` if another one is.

        Raises:
            OSError: If nothing can be written beside the database.
        """
        if self._lock is None:
            self._lock = self._folder.lock()
        return self._lock is not None

    def copy(self) -> BackupState:
        """Copy what has changed; after ``take``.

        Raises:
            PlaceLostError: The place belongs to somebody else.
            DepotError: It cannot be used at the moment.
            StorageError, OSError: The study cannot be read, or nothing can be written beside it.
            DamagedError: Nobody can say whether the place is this study's.
        """
        began = time.time()
        token = owner_token(self._engine, self._uuid, self._depot.url)
        found = backups.look_up(self._depot)
        self._check(found and found[0], token)
        there = {name for folder in (backups.DATABASES, backups.PACKS) for name in self._names(folder)}
        try:
            named = () if found is None else found[0].packs
            usable = [
                each for each in map(PackObject.of_name, there) if each and (each.is_of(token) or each.name in named)
            ]
            packs = self._snapshot_with_packs(usable, token)
            pointer = self._pointer(found and found[0], token, packs, began)
            if found is None or not _same(found[0], pointer):
                with self._folder.snapshot.open("rb") as snapshot:
                    self._depot.put(pointer.database.name, _sending(blocks_of(snapshot)))
                failpoint("backup.uploaded")
                self._point(pointer, found and found[1])
                failpoint("backup.pointed")
                self._depot.delete(there - {pointer.database.name, *pointer.packs})
                failpoint("backup.cleaned")
            else:
                pointer = found[0]
                self._tidy(there - {pointer.database.name, *pointer.packs}, found[1])
        finally:
            with suppress(OSError):
                self._folder.snapshot.unlink(missing_ok=True)
        num_bytes = pointer.database.num_bytes + sum(each.num_bytes for each in packs)
        return BackupState(self._depot.url, began, pointer.generation, num_bytes)

    def _tidy(self, unneeded: Collection[str], version: object) -> None:
        """Remove what an earlier copy could not, if the pointer is still the one that was read before the list."""
        now = backups.look_up(self._depot) if unneeded else None
        if now is not None and now[1] == version:
            self._depot.delete(unneeded)

    def _names(self, folder: str) -> list[str]:
        return [entry.name for entry in self._depot.entries(folder)]

    def _check(self, pointer: Pointer | None, token: str) -> None:
        if pointer is not None and pointer.study != self._uuid:
            raise PlaceLostError(
                f"{self._depot.url} holds the backup of another study, {pointer.name!r} of {pointer.host}. It was not "
                "touched, and this study is not copied. Name another place, or restore that study."
            )
        if pointer is not None and pointer.owner != token:
            raise PlaceLostError(
                f"The backup in {self._depot.url} was restored on {pointer.taken_by or pointer.host}: the study goes "
                "on there, and is no longer copied from here. If both go on, they are two studies; end this one."
            )

    def _snapshot_with_packs(self, there: Collection[PackObject], token: str) -> list[PackObject]:
        """Copy the database, and every pack it names to the place; again, if bytes are removed meanwhile.

        Args:
            there: What has been sent: by this owner, whose needs only shrink, or for the copy that counts.
            token: This owner.

        Returns:
            Where each pack it names is there; one that is lost here is not.
        """
        objects: dict[str, PackObject] = {}
        for sent in there:
            objects[sent.pack] = min(sent, objects.get(sent.pack, sent))
        unsure: set[str] = set()
        suspects: set[Packed] = set()
        for _ in range(_SNAPSHOTS_AT_ONCE):
            contents = self._snapshot()
            with self._packs.pinned(contents):
                for name, some in contents.items():
                    needed = sum(each.place.num_bytes for each in some)
                    if name in objects and objects[name].num_bytes <= 2 * needed + _WASTE_BYTES:
                        continue
                    unsure.add(name)  # also one that is gone: it may have been removed just before it was pinned
                    with suppress(FileNotFoundError):
                        objects[name] = self._send(PackObject.sent_by(token, name, needed), some)
                # Afterwards: bytes become zeros for good, so what is right now was right when it was read.
                missing = set(backups.damaged_in(self._packs, {n: contents[n] for n in unsure & contents.keys()}))
            self._free(contents)
            if missing <= suspects:  # what a later copy still names was not removed: it is damaged here, too
                return sorted(objects[name] for name in contents if name in objects)
            suspects |= missing
            unsure = {each.place.pack for each in missing}
        raise DepotError("checkpoints are removed faster than they can be copied; the copy before stays the newest")

    def _send(self, target: PackObject, contents: Collection[Packed]) -> PackObject:
        with self._packs.file(target.pack).open("rb") as pack:
            self._depot.put(target.name, _sending(read_parcel(pack, [each.place for each in contents])))
        failpoint("backup.packs")
        return target

    def _snapshot(self) -> dict[str, list[Packed]]:
        snapshot = self._folder.snapshot
        for left in snapshot.parent.glob(f"{snapshot.name}*"):  # by one that was killed
            left.unlink(missing_ok=True)
        backups.copy_database(self._database, snapshot)
        failpoint("backup.snapshot")
        engine = read_only_engine(f"sqlite:///{str(snapshot).replace('%', '%25')}")
        try:
            with reading(engine) as connection:
                return backups.packed(connection)
        finally:
            engine.dispose()

    def _free(self, contents: dict[str, list[Packed]]) -> None:
        """Give back what workers gave up while it was pinned."""
        with reading(self._engine) as connection:
            needed = blobs.needed_places(connection, contents)
        named = {place for places in needed.values() for place in places}
        gone = [each.place for some in contents.values() for each in some if each.place not in named]
        self._packs.free(gone, needed)

    def _pointer(self, before: Pointer | None, token: str, packs: Collection[PackObject], began: float) -> Pointer:
        snapshot = self._folder.snapshot
        database = backups.DatabaseCopy(
            f"{backups.DATABASES}/{uuid4().hex}.db", file_hash(snapshot), snapshot.stat().st_size
        )
        return Pointer(
            generation=1 + (0 if before is None else before.generation),
            owner=token,
            study=self._uuid,
            name=self._name,
            host=socket.gethostname(),
            at=began,
            version=__version__,
            database=database,
            packs=tuple(each.name for each in packs),
        )

    def _point(self, pointer: Pointer, version: object | None) -> None:
        failpoint("backup.pointing")
        try:
            self._depot.replace(backups.POINTER, pointer.to_bytes(), version)
        except ConflictError as error:
            now = backups.look_up(self._depot)
            if now is not None and now[0].database.name == pointer.database.name:
                return  # our own: its answer was lost
            self._check(now and now[0], pointer.owner)
            raise DepotError(f"{self._depot.url} was written to by another process at the same moment") from error


def owner_token(engine: Engine, uuid: str, url: str) -> str:
    """What the study's copy on this machine is known by in its second place; made at the first call.

    Raises:
        StorageError: If the database cannot be read or written.
        DamagedError: If it is no longer what was written.
    """
    with writing(engine) as connection:
        newest = newest_event_of(connection, uuid, OWNING)
        if newest is not None:
            with row_intact(f"Event {OWNING!r}, which says whose the second place is,"):
                return str(unseal(newest.details["owner"], OWNING, uuid)["owner"])
        token = uuid4().hex
        append_event(connection, uuid, owning_event(uuid, url, token))
    return token


def owning_event(uuid: str, url: str, token: str) -> Event:
    """What makes a token the study's: the one event that decides something, and therefore carries a seal.

    Args:
        uuid: The study.
        url: The second place.
        token: What the study's copy on this machine is known by there.
    """
    return Event(OWNING, None, {"url": url, "owner": seal({"owner": token}, OWNING, uuid)})


def refuse_taken_place(spec: StudySpec) -> None:
    """Refuse to begin a study whose second place holds another one: a lost machine's, perhaps, to be restored.

    A place that cannot be asked is taken to be free: a study begins without it.

    Raises:
        SpecError: If a backup is there.
    """
    found = None
    if spec.backup is not None:
        with suppress(DepotError):
            found = backups.look_up(open_depot(spec.backup.url, quick=True))
    if spec.backup is not None and found is not None:
        url, pointer = spec.backup.url, found[0]
        raise spec.error(
            "backup",
            f"{url} holds the backup of study {pointer.name!r}, written on {pointer.host}, and this study is not there "
            f"yet. Nothing was started. To continue that one: tunesafe restore {url} DIR; to begin anew, name another "
            "place or remove that backup.",
        )


def _sending(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        failpoint("backup.sending")
        yield block


def _same(one: Pointer, other: Pointer) -> bool:
    return (one.owner, one.database.hash, one.packs) == (other.owner, other.database.hash, other.packs)
