"""A depot in a folder. Ours, because no library makes files durable: written, synced, renamed, folder synced."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from tunesafe.store.depots import ConflictError, DepotError, Entry, UnreachableDepotError, unusable
from tunesafe.store.hashing import content_hash
from tunesafe.store.pack_file import sync_folder
from tunesafe.store.parcels import blocks_of

__all__ = ["FolderDepot"]

_UNFINISHED = ".unfinished"
_PASSING = (errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EAGAIN)
"""What a network file system says while its server is away."""


@dataclass(frozen=True, slots=True)
class FolderDepot:
    """A folder, on another disk or file system than the study's.

    Args:
        path: The folder; made at the first write if the one it is in exists (a disk that is not there must not be
            mistaken for an empty one).
    """

    path: Path

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.path)

    def put(self, name: str, content: bytes | Iterator[bytes]) -> None:
        """See ``Depot``."""
        with self._translated():
            file = self._file(name)
            self._make_folder(file.parent)
            self._write(file, [content] if isinstance(content, bytes) else content)

    def get(self, name: str) -> bytes | None:
        """See ``Depot``."""
        with self._translated(), suppress(FileNotFoundError):
            return self._file(name).read_bytes()
        return None

    def blocks(self, name: str) -> Iterator[bytes] | None:
        """See ``Depot``."""
        with self._translated(), suppress(FileNotFoundError):
            blocks = self._blocks(self._file(name).open("rb"))
            next(blocks)  # from here on it closes the file, even if nobody asks for a block
            return blocks
        return None

    def _blocks(self, file: BinaryIO) -> Iterator[bytes]:
        with self._translated(), file:
            yield b""
            yield from blocks_of(file)

    def part(self, name: str, start: int, num_bytes: int) -> memoryview | None:
        """See ``Depot``."""
        with self._translated(), suppress(FileNotFoundError), self._file(name).open("rb", buffering=0) as file:
            file.seek(start)
            return memoryview(file.read(num_bytes))
        return None

    def entries(self, folder: str) -> list[Entry]:
        """See ``Depot``."""
        found: list[Entry] = []
        with self._translated(), suppress(FileNotFoundError):
            for file in (self.path / folder).iterdir():
                with suppress(FileNotFoundError):  # somebody removes it at this moment
                    status = file.stat()
                    found.append(Entry(f"{folder}/{file.name}", status.st_size, status.st_mtime))
        return found

    def delete(self, names: Collection[str]) -> None:
        """See ``Depot``."""
        with self._translated():
            for name in names:
                self._file(name).unlink(missing_ok=True)

    def look(self, name: str) -> tuple[bytes, object] | None:
        """See ``Depot``."""
        content = self.get(name)
        return None if content is None else (content, content_hash(content))

    def replace(self, name: str, content: bytes, version: object | None) -> None:
        """See ``Depot``."""
        with self._translated():
            self._make_folder(self._file(name).parent)
            with self._locked():
                found = self.look(name)
                if (found and found[1]) != version:
                    raise ConflictError(f"{self.url}/{name} was replaced by somebody else; nothing was written.")
                for left in self.path.glob(f"*{_UNFINISHED}"):  # by one who was killed here, with the lock
                    left.unlink(missing_ok=True)
                self._write(self._file(name), [content])

    def _file(self, name: str) -> Path:
        if any(part in ("", ".", "..") for part in name.split("/")):  # names are also read from what is stored there
            raise DepotError(f"{name!r} is no name of an object in {self.url}. Nothing was changed.")
        return self.path / name

    def _make_folder(self, folder: Path) -> None:
        if not self.path.parent.is_dir():
            raise DepotError(f"the folder {self.path.parent} does not exist; is its disk there? Nothing was written")
        for each in (self.path, folder):
            if not each.is_dir():
                each.mkdir(exist_ok=True)
                sync_folder(each.parent)

    def _write(self, file: Path, blocks: Iterable[bytes]) -> None:
        unfinished = file.with_name(f"{uuid4().hex}{_UNFINISHED}")
        try:
            with unfinished.open("xb") as target:
                target.writelines(blocks)
                target.flush()
                os.fsync(target.fileno())
            unfinished.rename(file)
            sync_folder(file.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Between looking and replacing; nothing of the lock is left behind."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # some network file systems lock nothing: two who begin at one instant may clash
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = UnreachableDepotError if error.errno in _PASSING else DepotError
            raise kind(unusable(f"the folder {self.url}", error.strerror or error)) from error
