"""A study brought back from its second place, on a machine that has nothing but tunesafe.

The place is claimed before anything is fetched: from then on nothing in it changes, and the machine
it came from, should it still be alive, copies nothing there any more; if fetching fails, the place is
given back. Everything is fetched and verified in a folder of its own inside the new one, and moved to
its place last, the study file after all else: what is interrupted is done again, or to its end, by
the same command.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, Engine

from tunesafe.contracts import Event
from tunesafe.errors import DamagedError, SpecError, StorageError
from tunesafe.failpoints import failpoint
from tunesafe.spec import keys_of, resolve_place, resolve_storage, with_value
from tunesafe.store import backups, blobs, studies
from tunesafe.store.backups import Pointer
from tunesafe.store.depot_urls import open_depot
from tunesafe.store.depots import ConflictError, Depot
from tunesafe.store.engine import open_engine, reading, writing
from tunesafe.store.events import append_event
from tunesafe.store.hashing import file_hash
from tunesafe.store.migrations import upgrade
from tunesafe.store.pack_file import sync_folder
from tunesafe.store.packs import packs_beside
from tunesafe.store.parcels import unpack_parcel
from tunesafe.store.urls import canonical_url, sqlite_path
from tunesafe.study.copying import owning_event

__all__ = ["Restored", "restore"]

_STAGING, _COMPLETE, _STUDY_FILE = ".restoring", ".restoring.json", "study.yaml"
"""Where it is fetched to; what says that all of it was, from then until all is in its place."""
_CLAIM_ATTEMPTS = 5


class _Claim(NamedTuple):
    """The pointer before somebody makes the place theirs, and after."""

    former: Pointer
    claimed: Pointer


@dataclass(frozen=True, slots=True)
class Restored:
    """A study that was brought back.

    Args:
        name: The study.
        study_file: What ``tunesafe run`` continues.
        host: Where the copy was made.
        at: When [seconds since the epoch].
        num_bytes: How much was fetched [bytes].
        num_damaged: Pieces of checkpoints that are not what was written, or missing: trials go on without them.
        not_restored: Source files outside of the study's folder: they have to be there already.
        copied_on: Whether its study file names the place, so that it is copied there again.
    """

    name: str
    study_file: Path
    host: str
    at: float
    num_bytes: int
    num_damaged: int
    not_restored: tuple[str, ...]
    copied_on: bool


def restore(url: str, directory: Path, tell: Callable[[str], None] = lambda line: None) -> Restored:
    """Bring a study back, and take its second place over.

    Args:
        url: The second place; a relative path is relative to the working directory.
        directory: A new or empty folder, or one in which this was interrupted.
        tell: Told how far it is.

    Raises:
        SpecError: If URL or folder will not do.
        StorageError: If there is no backup, the place cannot be reached, or the disk fails.
        DamagedError: If the copy of the database is not what was written.
        MissingExtraError: If the library for the place is not installed.
    """
    place = resolve_place(url, Path.cwd())
    depot, directory = open_depot(place), directory.absolute()
    staging, complete = directory / _STAGING, directory / _COMPLETE
    with _usable(directory):
        if _is_complete(directory):
            tell("going on with what was interrupted")
        else:
            _look(depot)  # before a folder is made for nothing
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
    if not complete.exists():
        with _claimed(depot, staging, complete, tell) as pointer, _writable(directory):
            failpoint("fetch.claimed")
            tell(f"study {pointer.name!r} as of {time.time() - pointer.at:.0f} s ago, from {pointer.host}")
            restored = _fetch(depot, pointer, place, directory, staging, tell)
            _write(staging / _COMPLETE, json.dumps(_as_json(restored)))
            sync_folder(staging)
            (staging / _COMPLETE).rename(complete)
            sync_folder(directory)
        failpoint("fetch.verified")
    with _writable(directory):
        return _move(directory, staging, complete)


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpecError(
            f"The folder {directory} cannot be used: {error}. Nothing was fetched, and the second place was not taken "
            "over. Name another, or make this one writable."
        ) from error


@contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The study cannot be written to {directory}: {error}. What is in the second place is unharmed. Give the "
            "same command again when the disk is well, or name another folder."
        ) from error


def _is_complete(directory: Path) -> bool:
    """Whether all was fetched, and is only to be moved.

    Raises:
        SpecError: If the folder is used for something else.
        OSError: If it cannot be read.
    """
    if not directory.exists():
        return False
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else None
    if names is not None and _COMPLETE in names:
        return True
    if names is None or not names <= {_STAGING}:
        raise SpecError(f"{directory} is not an empty folder. Nothing was changed or fetched. Name another.")
    return False


@contextmanager
def _claimed(depot: Depot, staging: Path, complete: Path, tell: Callable[[str], None]) -> Iterator[Pointer]:
    """Own the place; if the block fails, as if nothing had been tried."""
    tried: list[_Claim] = []
    try:
        yield _claim(depot, tried)
    except BaseException:
        if _is_gone(complete):  # else all of it is here, and the next command goes on with it
            if tried and not _give_back(depot, tried[-1]):
                host = tried[-1].former.host
                tell(f"{depot.url} could not be given back: until it is restored, {host} may copy nothing there")
            shutil.rmtree(staging, ignore_errors=True)
        raise


def _is_gone(file: Path) -> bool:
    """Remove a file; whether it is not there. A disk that tells nothing any more holds nothing, either."""
    with suppress(OSError):
        file.unlink(missing_ok=True)
        sync_folder(file.parent)
    try:
        return not file.exists()
    except OSError:
        return True


def _give_back(depot: Depot, claim: _Claim) -> bool:
    """Make the copy its former owner's again, unless it is another's by now; ``False`` if nobody knows."""
    with suppress(StorageError):
        for _ in range(_CLAIM_ATTEMPTS):
            found = backups.look_up(depot)
            if found is None or found[0].owner != claim.claimed.owner:
                return True
            returned = replace(claim.former, generation=claim.claimed.generation + 1)
            with suppress(ConflictError):  # another's, or one's own put whose answer was lost: look
                depot.replace(backups.POINTER, returned.to_bytes(), found[1])
    return False


def _look(depot: Depot) -> tuple[Pointer, object]:
    found = backups.look_up(depot)
    if found is None:
        raise StorageError(
            f"There is no backup in {depot.url}. Nothing was changed. Check the address: it is the one that the "
            "study file names as backup."
        )
    return found


def _claim(depot: Depot, tried: list[_Claim]) -> Pointer:
    """Make the copy that counts ours; the machine it came from finds out when it next wants to write.

    Args:
        depot: The place.
        tried: Given every attempt before it is made: one whose answer is lost may have been heard.
    """
    for _ in range(_CLAIM_ATTEMPTS):
        pointer, version = _look(depot)
        claimed = replace(pointer, generation=pointer.generation + 1, owner=uuid4().hex, taken_by=socket.gethostname())
        tried.append(_Claim(pointer, claimed))
        with suppress(ConflictError):
            depot.replace(backups.POINTER, claimed.to_bytes(), version)
            return claimed
        again = backups.look_up(depot)
        if again is not None and again[0].owner == claimed.owner:  # the answer was lost
            return claimed
    raise StorageError(f"{depot.url} is being written to all the time. Nothing was changed. Try again.")


def _fetch(
    depot: Depot, pointer: Pointer, place: str, directory: Path, staging: Path, tell: Callable[[str], None]
) -> Restored:
    snapshot = staging / "snapshot.db"
    blocks = depot.blocks(pointer.database.name)
    if blocks is None or _save(blocks, snapshot) != pointer.database.hash:
        raise DamagedError(
            f"The copy of the database in {depot.url}/{pointer.database.name} is missing or is not what was written. "
            "Nothing can stand in for it. The folder was left empty."
        )
    with _engine(snapshot) as engine:
        upgrade(engine)
        with reading(engine) as connection:
            row = studies.find_study(connection, pointer.name)
            if row is None or row.uuid != pointer.study:
                raise DamagedError(f"The copy of the database in {depot.url} does not hold study {pointer.name!r}.")
            sources = studies.load_sources(connection, row.uuid, str(row.fingerprint["sources"]))
    text, database, copied_on = _study_file(row, place, directory)
    inside = {path: source for path, source in sources.items() if _is_inside(path)}
    contents = staging / "contents"
    target = contents / database.relative_to(directory)
    target.parent.mkdir(parents=True)
    snapshot.rename(target)
    with _engine(target) as engine:
        num_bytes, damaged = _fetch_packs(depot, pointer, engine, tell)
        with writing(engine) as connection:
            _take_over(connection, pointer, place, damaged)
    for path, source in inside.items():
        _write(contents / path, source)
    _write(contents / _STUDY_FILE, text)
    for folder in (contents, *(path for path in contents.rglob("*") if path.is_dir())):
        sync_folder(folder)
    return Restored(
        name=pointer.name,
        study_file=directory / _STUDY_FILE,
        host=pointer.host,
        at=pointer.at,
        num_bytes=num_bytes + pointer.database.num_bytes,
        num_damaged=len(damaged),
        not_restored=tuple(sorted(sources.keys() - inside.keys())),
        copied_on=copied_on,
    )


def _fetch_packs(
    depot: Depot, pointer: Pointer, engine: Engine, tell: Callable[[str], None]
) -> tuple[int, list[backups.Packed]]:
    """Fetch every pack, and verify what the database names in it; returns the bytes fetched, and what is damaged."""
    packs = packs_beside(engine.url)
    assert packs is not None, "a copy is a SQLite file"
    with reading(engine) as connection:
        contents = backups.packed(connection)
    if not contents:
        return 0, []
    packs.path.mkdir()
    num_bytes = 0
    for index, name in enumerate(pointer.packs, start=1):
        found, parcel = backups.PackObject.of_name(name), depot.blocks(name)
        if found is not None and parcel is not None:
            with suppress(ValueError):  # no parcel: then nothing of it is what it should be, and that is found below
                num_bytes += unpack_parcel(parcel, packs.file(found.pack))
        failpoint("fetch.pack")
        tell(f"fetched pack {index} of {len(pointer.packs)}")
    return num_bytes, backups.damaged_in(packs, contents)


def _take_over(connection: Connection, pointer: Pointer, place: str, damaged: list[backups.Packed]) -> None:
    backups.end_leases(connection)
    blobs.mark_damaged(connection, [each.blob_id for each in damaged])
    details = {"url": place, "generation": pointer.generation, "from_host": pointer.host, "damaged": len(damaged)}
    append_event(connection, pointer.study, Event("restored", None, {**details, "on": socket.gethostname()}))
    append_event(connection, pointer.study, owning_event(pointer.study, place, pointer.owner))


def _study_file(row: studies.StudyRow, place: str, directory: Path) -> tuple[str, Path, bool]:
    """The study file for its new place, where its database belongs, and whether it names its second place."""
    text, keys = row.source_text, keys_of(row.source_text)
    storage, backup = keys.get("storage"), keys.get("backup")
    file = None
    with suppress(SpecError):
        url = storage if isinstance(storage, str) and storage else f"sqlite:///{row.name}.db"
        file = sqlite_path(canonical_url(resolve_storage(url, directory)))
    if file is None or not file.is_relative_to(directory):
        file = directory / (f"{row.name}.db" if file is None else file.name)
        text = with_value(text, ("storage",), f"sqlite:///{file.name.replace('%', '%25')}") or text
    if backup is None:
        return text, file, False
    path = ("backup", "url") if isinstance(backup, Mapping) else ("backup",)
    named = backup.get("url") if isinstance(backup, Mapping) else backup
    if not isinstance(named, str) or _resolved(named, directory) != place:
        text = with_value(text, path, place) or text
    return text, file, True


def _resolved(url: str, directory: Path) -> str | None:
    with suppress(SpecError):
        return resolve_place(url, directory)
    return None


def _is_inside(path: str) -> bool:
    """Whether a source file belongs into the study's folder; paths come from the database, whatever they say."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and parts[0] not in (_STAGING, _COMPLETE)


def _move(directory: Path, staging: Path, complete: Path) -> Restored:
    """Move what is complete to its place, the study file last; whatever is there already was moved before."""
    contents = staging / "contents"
    restored = _from_json(json.loads(complete.read_text(encoding="utf-8")), directory)
    left = contents.iterdir() if contents.exists() else ()  # the last thing one before did may be to remove it
    for path in sorted(left, key=lambda path: (path.name == _STUDY_FILE, path.name)):
        failpoint("fetch.moving")
        path.rename(directory / path.name)
    sync_folder(directory)
    failpoint("fetch.moved")
    if staging.exists():
        shutil.rmtree(staging)
        sync_folder(directory)
    failpoint("fetch.cleaned")
    complete.unlink()
    return restored


def _as_json(restored: Restored) -> dict[str, Any]:
    return {name: getattr(restored, name) for name in restored.__slots__ if name != "study_file"}


def _from_json(fields: dict[str, Any], directory: Path) -> Restored:
    return Restored(**{**fields, "not_restored": tuple(fields["not_restored"])}, study_file=directory / _STUDY_FILE)


@contextmanager
def _engine(file: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{str(file).replace('%', '%25')}")
    try:
        yield engine
    finally:
        engine.dispose()


def _save(blocks: Iterator[bytes], file: Path) -> str:
    """Write a new file, durably, and return the hash of what was written."""
    with file.open("xb") as target:
        target.writelines(blocks)
        target.flush()
        os.fsync(target.fileno())
    return file_hash(file)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as target:
        target.write(text)
        target.flush()
        os.fsync(target.fileno())
