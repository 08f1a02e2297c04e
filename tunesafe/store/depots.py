"""Places for bytes outside of a database: a folder, or an object store. One small interface for both.

A *depot* keeps objects by name, each whole or not at all, and one of them can be replaced on the
condition that nobody replaced it before: who writes to it is decided there, between machines that
know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from tunesafe.errors import StorageError, TunesafeError
from tunesafe.store.faults import UnreachableStorageError

__all__ = ["ConflictError", "Depot", "DepotError", "Entry", "UnreachableDepotError", "unusable"]


class DepotError(StorageError):
    """The place cannot be read or written at the moment; what is there is unharmed."""


class UnreachableDepotError(DepotError, UnreachableStorageError):
    """It cannot for a reason that may pass: trying again may help."""


class ConflictError(TunesafeError):
    """Somebody else replaced the object first. Nothing was written."""


def unusable(what: str, cause: object) -> str:
    """What to say of a place that cannot be used: in its first line why, for who tries again by himself."""
    return (
        f"{what} cannot be used: {str(cause).rstrip('. ')}\n"
        "What is there is unharmed. Look after the place (space, access, network), then give the same command again."
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in a list.

    Args:
        name: Its name.
        num_bytes: Its size.
        modified_at: When it was written, by the place's clock [seconds since the epoch].
    """

    name: str
    num_bytes: int
    modified_at: float


class Depot(Protocol):
    """A place that keeps objects by name. Names are ``folder/file``, or ``file``.

    Every method raises ``DepotError`` if the place cannot be reached, read or written.
    """

    @property
    def url(self) -> str:
        """Where it is, as it may be shown."""
        ...

    def put(self, name: str, content: bytes | Iterator[bytes]) -> None:
        """Make bytes durable under a name; a reader finds all of them or none.

        Args:
            name: The object's; one that is there is replaced.
            content: All at once, or block by block; blocks are asked for as they are sent.
        """
        ...

    def get(self, name: str) -> bytes | None:
        """The bytes of a name; ``None`` if there are none."""
        ...

    def blocks(self, name: str) -> Iterator[bytes] | None:
        """The bytes of a name, block by block; ``None`` if there are none. The blocks, too, raise ``DepotError``."""
        ...

    def part(self, name: str, start: int, num_bytes: int) -> memoryview | None:
        """Bytes from the middle of an object; fewer where it ends before, ``None`` if it is not there."""
        ...

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder; what killed writers left may be among it."""
        ...

    def delete(self, names: Collection[str]) -> None:
        """Remove objects; those that are not there are none."""
        ...

    def look(self, name: str) -> tuple[bytes, object] | None:
        """The bytes of a name, and their version, for ``replace``; ``None`` if there are none."""
        ...

    def replace(self, name: str, content: bytes, version: object | None) -> None:
        """Put bytes in place of a version; with ``None`` only where there are none.

        Raises:
            ConflictError: If another version is there, or one that should not be. After a lost answer
                that version may be one's own: look.
        """
        ...
