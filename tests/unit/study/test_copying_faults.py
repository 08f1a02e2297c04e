"""Copying and restoring on disks that are full or broken at one call after the other, here or in the second place."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.disk_faults import Fault, failing_disk, failing_sql, until_none_fails
from tests.unit.study.copies import LARGE, Bench
from tunesafe.api import restoring
from tunesafe.errors import DamagedError, SpecError, StorageError, TunesafeError
from tunesafe.store import backups
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import read_only_engine
from tunesafe.store.packs import packs_beside

ERRORS = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
LASTING = pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A study whose newest checkpoint is in its second place."""
    bench = Bench(tmp_path)
    bench.save(1, os.urandom(LARGE))
    bench.copy()
    yield bench
    bench.engine.dispose()


def fault(bench: Bench, where: str, error: int, *, lasting: bool) -> Fault:
    """What fails."""
    if where == "statements":
        return lambda at: failing_sql(at, error, lasting=lasting)
    folders = {
        "here": (bench.beside.path, bench.packs.path),
        "place": (bench.depot.path,),
        "new": (bench.depot.path.with_name("new"),),
    }[where]
    return lambda at: failing_disk(at, error, *folders, lasting=lasting)


@pytest.mark.parametrize("where", ["here", "place", "statements"])
@LASTING
@ERRORS
def test_a_copy_that_fails_anywhere_leaves_a_whole_one_and_an_unharmed_study(
    error: int, lasting: bool, where: str, bench: Bench
) -> None:
    """The one before counts, or the new one does; the next copy works, and nothing of the failed one stays."""
    epoch = 1
    least = {"here": 2, "place": 8, "statements": 0}[where]
    for failing in until_none_fails(fault(bench, where, error, lasting=lasting), least):
        epoch, newest = epoch + 1, os.urandom(LARGE)
        before, whole = bench.pointer, bench.check_whole()
        bench.save(epoch, newest)
        with bench.copier() as copier, failing, suppress(TunesafeError, OSError):
            copier.copy()
        assert bench.pointer.generation - before.generation in (0, 1)
        assert bench.check_whole() == (whole if bench.pointer == before else [newest])
        (info,) = bench.store.infos()
        assert bytes(bench.store.load(info).tensors[0] or b"") == newest
        pointer = bench.copy()
        assert bench.check_whole() == [newest]
        bench.copy()
        assert bench.names("databases") == {pointer.database.name}
        assert bench.names("packs") == set(pointer.packs)
        assert {file.suffix for file in bench.beside.path.iterdir()} <= {".lock"}
        bench.store.sweep_orphans(-1)  # a pin that could not be removed, too
        assert [file.suffix for file in bench.packs.path.iterdir()] == [".pack"]


def test_a_copy_of_the_database_that_finds_no_room_is_said_and_made_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own SQLITE_FULL."""
    bench.save(2, os.urandom(LARGE))
    before, connect = bench.pointer, sqlite3.connect

    def connect_to_full(database: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(database, *args, **kwargs)
        if database == bench.beside.snapshot:
            connection.execute("PRAGMA max_page_count = 10")
        return connection

    with monkeypatch.context() as patch, bench.copier() as copier:
        patch.setattr(sqlite3, "connect", connect_to_full)
        with pytest.raises(StorageError, match=r"cannot be copied: database or disk is full. It is unharmed"):
            copier.copy()
    assert bench.pointer == before
    assert not bench.beside.snapshot.exists()
    bench.copy()
    assert len(bench.check_whole()) == 1


@pytest.mark.parametrize("where", ["new", "place", "statements"])
@LASTING
@ERRORS
def test_a_restore_that_fails_anywhere_is_done_by_the_same_command(
    error: int, lasting: bool, where: str, bench: Bench, tmp_path: Path
) -> None:
    """One message; the place is its owner's again or the folder can be gone on with; and then all of it is there."""
    expected, new = bench.check_whole(), tmp_path / "new"
    least = {"new": 10, "place": 2, "statements": 3}[where]
    for failing in until_none_fails(fault(bench, where, error, lasting=lasting), least):
        before = bench.pointer
        failure: Exception | None = None
        with failing as disk:
            try:
                restoring.restore(str(bench.depot.path), new)
            except (StorageError, SpecError, DamagedError) as raised:
                failure = raised
        if failure is not None:
            done = (new / "study.yaml").exists() or (new / ".restoring.json").exists()
            # A place that fails for good cannot be given back either.
            assert done or bench.pointer.owner == before.owner or (lasting and where == "place"), disk.failed
            assert str(new) in str(failure) or bench.depot.url in str(failure)
            restoring.restore(str(bench.depot.path), new)
        assert (new / "study.yaml").exists()
        assert not list(new.glob(".*"))
        (database,) = new.glob("*.db")
        engine = read_only_engine(f"sqlite:///{database}")
        store = CheckpointStore(engine, bench.uuid, packs_beside(engine.url))
        assert [bytes(tensor or b"") for tensor in store.load(store.infos()[0]).tensors] == expected
        engine.dispose()
        shutil.rmtree(new)
    assert backups.look_up(bench.depot) is not None
