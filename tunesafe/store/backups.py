"""What a copy of a study in a second place consists of, and the one object that says which copy counts.

    tunesafe-backup.json    the pointer: generation, owner, the database copy and its hash, the packs it names
    databases/NAME.db       consistent copies of the SQLite database: the one the pointer names, others in passing
    packs/NAME.SIZE.OWNER   what was needed of a pack when its parcel was sent: SIZE bytes, in the eyes of OWNER

Objects never change; the pointer alone does, on the condition that it is what its writer has read.
Whoever reads it finds everything it names, and a writer it does not name as owner has lost the place.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy import Connection, select, update

from tunesafe.contracts import TrialPhase
from tunesafe.errors import StorageError
from tunesafe.store.depots import Depot
from tunesafe.store.hashing import is_named
from tunesafe.store.pack_file import Place
from tunesafe.store.packs import PackFolder
from tunesafe.store.tables import blobs, trials

__all__ = [
    "DATABASES",
    "PACKS",
    "POINTER",
    "DatabaseCopy",
    "PackObject",
    "Packed",
    "Pointer",
    "copy_database",
    "damaged_in",
    "end_leases",
    "look_up",
    "packed",
]

POINTER, DATABASES, PACKS = "tunesafe-backup.json", "databases", "packs"
_FORMAT = 1
_PACK_OBJECT = re.compile(PACKS + r"/(?P<pack>[0-9a-f]{32})\.(?P<size>[0-9]{1,18})\.(?P<sender>[0-9a-f]{1,12})")
_SENDER_DIGITS = 12
_BUSY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class DatabaseCopy:
    """A copy of the database.

    Args:
        name: Of its object.
        hash: Of its bytes.
        num_bytes: Its size.
    """

    name: str
    hash: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which copy counts, and whose it is.

    Args:
        generation: Grows by one with every change.
        owner: Token of the study's copy that may go on; another one has lost the place.
        study: The study's UUID.
        name: The study's name.
        host: Where it was written.
        at: When [seconds since the epoch].
        version: The tunesafe that wrote it.
        database: The copy of the database.
        packs: The objects of the packs that it names.
        taken_by: The host that has restored this copy since.
    """

    generation: int
    owner: str
    study: str
    name: str
    host: str
    at: float
    version: str
    database: DatabaseCopy
    packs: tuple[str, ...]
    taken_by: str | None = None

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes, url: str) -> Pointer:
        """What ``to_bytes`` wrote.

        Args:
            data: The pointer's bytes.
            url: The place, for the message.

        Raises:
            StorageError: If it is none, or of a newer tunesafe.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            found = fields.pop("format")
            if found == _FORMAT:
                database, packs = DatabaseCopy(**fields.pop("database")), tuple(map(str, fields.pop("packs")))
                return cls(database=database, packs=packs, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(
                f"{url}/{POINTER} is not what a backup of tunesafe writes. Nothing was changed. Name another place."
            ) from error
        raise StorageError(
            f"The backup in {url} has format {found}, and this tunesafe knows {_FORMAT}. Nothing was changed. "
            "Use a newer tunesafe."
        )


class Packed(NamedTuple):
    """A blob in a pack.

    Args:
        blob_id: Its row.
        hash: Its name.
        place: Where it is.
    """

    blob_id: int
    hash: str
    place: Place


def look_up(depot: Depot) -> tuple[Pointer, object] | None:
    """The pointer of a place, and its version for the next one; ``None`` if there is none.

    Raises:
        DepotError: If the place cannot be read.
        StorageError: If there is something else in its stead.
    """
    found = depot.look(POINTER)
    return None if found is None else (Pointer.from_bytes(found[0], depot.url), found[1])


class PackObject(NamedTuple):
    """The object of a pack.

    Args:
        pack: The pack's name.
        num_bytes: How many bytes of it were needed when it was sent.
        sender: Who sent it: the beginning of the owner's token. What one owner needs of a pack only ever becomes
            less, so its objects of one size are one; another owner may need other bytes.
    """

    pack: str
    num_bytes: int
    sender: str

    @classmethod
    def sent_by(cls, owner: str, pack: str, num_bytes: int) -> PackObject:
        """The object an owner makes."""
        return cls(pack, num_bytes, owner[:_SENDER_DIGITS])

    @classmethod
    def of_name(cls, name: str) -> PackObject | None:
        """What an object is; ``None`` if it is no pack."""
        found = _PACK_OBJECT.fullmatch(name)
        return None if found is None else cls(found["pack"], int(found["size"]), found["sender"])

    @property
    def name(self) -> str:
        """The object's name."""
        return f"{PACKS}/{self.pack}.{self.num_bytes}.{self.sender}"

    def is_of(self, owner: str) -> bool:
        """Whether this owner has sent it."""
        return self.sender == owner[:_SENDER_DIGITS]


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database as of one moment, whoever writes to it meanwhile; nobody waits for it.

    Args:
        source: The database.
        target: A new file.

    Raises:
        StorageError: If it cannot be read, or the copy cannot be written.
    """
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.execute("PRAGMA query_only = ON")
            writing.execute("PRAGMA synchronous = OFF")  # a copy that a power loss cuts short is made again
            # All pages in one step: a copy in several begins again whenever somebody has written meanwhile.
            reading.backup(writing, pages=-1)
    except sqlite3.Error as error:
        raise StorageError(f"The database {source} cannot be copied: {error}. It is unharmed.") from error


def end_leases(connection: Connection) -> None:
    """End the leases of all studies: this database is a copy, and whoever holds them is elsewhere."""
    begun = trials.c.phase.in_((TrialPhase.CLAIMED, TrialPhase.CLOSING))
    connection.execute(update(trials).where(begun).values(lease_expires_at=0.0))


def packed(connection: Connection) -> dict[str, list[Packed]]:
    """All blobs in packs that are not known to be damaged, by pack."""
    columns = (blobs.c.blob_id, blobs.c.hash, blobs.c.pack, blobs.c.pack_offset, blobs.c.num_bytes)
    found: dict[str, list[Packed]] = {}
    for row in connection.execute(select(*columns).where(blobs.c.pack.is_not(None), blobs.c.intact == 1)):
        # SQLite keeps whatever is put into a column; what cannot be a place is one where nothing is.
        place = Place(row.pack, row.pack_offset, row.num_bytes)
        if tuple(map(type, place)) != (str, int, int) or min(place[1:]) < 0:
            place = Place("", 0, 1)
        found.setdefault(place.pack, []).append(Packed(row.blob_id, row.hash, place))
    return found


def damaged_in(packs: PackFolder, contents: Mapping[str, Collection[Packed]]) -> list[Packed]:
    """Those blobs whose bytes are not, or no longer, what their names say.

    Raises:
        OSError: If a pack cannot be read for a reason that is not its own.
    """
    damaged: list[Packed] = []
    for name, some in contents.items():
        try:
            size = packs.file(name).stat().st_size
        except FileNotFoundError:
            size = 0
        for each in some:
            # Before reading: a damaged row may ask for more than there is memory.
            fits = 0 <= each.place.offset <= size - each.place.num_bytes
            if not fits or not is_named(packs.read(each.place), each.hash):
                damaged.append(each)
    return damaged
