"""How the copying of a study to a second place goes, kept beside its database for ``status``; and who may do it.

Not in the database: that would change with every copy of it, and never be the same as its copy.
One process on a host copies a study at a time, the one that holds the lock; it ends with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL

from tunesafe.store.urls import sqlite_path

__all__ = ["BackupFolder", "BackupState", "backups_beside"]


@dataclass(frozen=True, slots=True)
class BackupState:
    """How it went last.

    Args:
        url: The second place.
        at: When the newest copy was taken [seconds since the epoch]; ``None`` if there is none yet.
        generation: Of that copy.
        num_bytes: Its size, packs included [bytes].
        failing_since: Since when it fails [seconds since the epoch]; ``None`` while it works.
        why: Why it fails.
        lost: Whether the place belongs to somebody else now, for good.
    """

    url: str
    at: float | None = None
    generation: int = 0
    num_bytes: int = 0
    failing_since: float | None = None
    why: str | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class BackupFolder:
    """What the copying of one study keeps beside its database.

    Args:
        path: Where; made by the first copy.
        uuid: The study.
    """

    path: Path
    uuid: str

    @property
    def snapshot(self) -> Path:
        """The copy of the database that is on its way."""
        return self.path / f"{self.uuid}.db"

    def lock(self) -> int | None:
        """A descriptor that keeps every other process from copying until it is closed; ``None`` if one does.

        Raises:
            OSError: If nothing can be written here.
        """
        self.path.mkdir(exist_ok=True)
        descriptor = os.open(self.path / f"{self.uuid}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks
            pass
        return descriptor

    def state(self) -> BackupState | None:
        """How it went last; ``None`` if nothing was ever copied, or nobody can say."""
        with suppress(OSError, ValueError, TypeError):
            return BackupState(**json.loads(self._state_file.read_text(encoding="utf-8")))
        return None

    def keep(self, state: BackupState) -> None:
        """Keep how it went; a disk that is full must not stop anything."""
        unfinished = self.path / f"{uuid4().hex}.tmp"
        with suppress(OSError):
            try:
                unfinished.write_text(json.dumps(asdict(state)), encoding="utf-8")
                unfinished.rename(self._state_file)
            except OSError:
                unfinished.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.path / f"{self.uuid}.json"


def backups_beside(url: URL, uuid: str) -> BackupFolder | None:
    """What is kept beside a database; ``None`` of a server, which is not copied."""
    path = sqlite_path(url)
    if path is None:
        return None
    real = path.resolve()
    return BackupFolder(real.with_name(f"{real.name}.backup"), uuid)
