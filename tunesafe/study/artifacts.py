"""Files kept with a trial, in the form optuna-dashboard shows.

The file first, the attribute that names it second, under an id derived from trial, file name
and content: doing it again after a crash replaces what is there and adds nothing, and another
file of the same name is another artifact.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tunesafe.errors import StorageError

__all__ = ["Artifact", "store_artifact"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file.

    Args:
        attribute: Optuna's trial system attribute that names it.
        description: That attribute's value, as Optuna's artifact module writes it.
    """

    attribute: str
    description: str


def store_artifact(file: Path, folder: Path, *, owner: str) -> Artifact:
    """Copy a file into an artifact folder, durably and whole or not at all.

    Args:
        file: What to keep.
        folder: The artifact store's folder, for ``optuna-dashboard --artifact-dir``.
        owner: The trial it belongs to, unique over studies.

    Raises:
        OSError: If the file cannot be read.
        StorageError: If the folder cannot be written: a full disk is no fault of the trial's.
    """
    with file.open("rb") as source:
        content = hashlib.file_digest(source, "sha256").hexdigest()
        source.seek(0)
        artifact_id = hashlib.blake2b(f"{owner}/{file.name}/{content}".encode(), digest_size=16).hexdigest()
        try:
            _write(source, folder / artifact_id)
        except OSError as error:
            raise StorageError(
                f"{file.name} could not be kept in {folder}: {error.strerror or error}. No trial has ended over it, "
                "and all that was committed is unharmed. Free some space there (or make it writable), then run the "
                "same command: it continues."
            ) from error
    mimetype, encoding = mimetypes.guess_type(file.name)
    description = {
        "artifact_id": artifact_id,
        "filename": file.name,
        "mimetype": mimetype or "application/octet-stream",
        "encoding": encoding,
    }
    return Artifact(f"artifacts:{artifact_id}", json.dumps(description))


def _write(source: BinaryIO, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
