"""Large bytes beside the database: whole or not at all, found again or found damaged, and their space given back."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, make_url, text

from tests.unit.store.samples import claimed_study, on_disk, snapshot
from tunesafe import failpoints
from tunesafe.errors import DamagedError, LeaseLostError, StorageError
from tunesafe.store import blobs
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import reading, writing
from tunesafe.store.faults import TransientStorageError
from tunesafe.store.pack_file import Place
from tunesafe.store.packs import PackFolder, packs_beside
from tunesafe.store.saving import Saving

LARGE, PAGE = 3 << 20, 4096


@pytest.fixture
def store(engine: Engine) -> Iterator[CheckpointStore]:
    """A store of a study whose trial 0 is claimed under fence 1."""
    yield CheckpointStore(engine, claimed_study(engine)[0], packs_beside(engine.url))
    failpoints.arm(None)


def packs_of(store: CheckpointStore) -> list[Path]:
    """The files in its folder."""
    assert store._packs is not None
    return sorted(store._packs.path.iterdir()) if store._packs.path.exists() else []


def test_a_state_comes_back_in_aligned_memory_that_nothing_else_uses(store: CheckpointStore) -> None:
    """It becomes the tensors' own memory: what training writes into one must not show in another."""
    contents = [bytes([index]) * (LARGE if index == 3 else 1000 + index) for index in range(8)]
    info = store.save(snapshot(1, contents), number=0, fence=1)
    tensors = [np.frombuffer(tensor, np.uint8) for tensor in store.load(info).tensors]
    assert all(tensor.__array_interface__["data"][0] % 64 == 0 for tensor in tensors)
    for index, tensor in enumerate(tensors):
        tensor[:] = 100 + index
    assert [set(tensor) for tensor in tensors] == [{100 + index} for index in range(8)]


def test_only_what_changed_is_written_again(store: CheckpointStore) -> None:
    """An unchanged tensor is stored once, whatever trial or checkpoint it belongs to."""
    frozen, trained = os.urandom(4 * LARGE), os.urandom(LARGE)
    store.save(snapshot(1, [frozen, trained]), number=0, fence=1)
    (first,) = packs_of(store)
    info = store.save(snapshot(2, [frozen, os.urandom(LARGE)]), number=0, fence=1)
    (second,) = set(packs_of(store)) - {first}
    assert second.stat().st_size < LARGE + PAGE
    assert bytes(store.load(info).tensors[0]) == frozen


def test_space_returns_as_checkpoints_go(store: CheckpointStore) -> None:
    """A long trial of which one state is kept takes the space of little more than one state."""
    frozen = os.urandom(LARGE)
    for epoch in range(1, 12):
        tensors = [frozen, os.urandom(LARGE)]
        store.save(snapshot(epoch, tensors), number=0, fence=1, surplus=lambda infos: [i.checkpoint_id for i in infos])
    assert on_disk(packs_of(store)) <= 1.2 * 2 * LARGE
    assert [bytes(tensor) for tensor in store.load(store.infos(0)[0]).tensors] == tensors
    store.remove([info.checkpoint_id for info in store.infos(0)])
    assert packs_of(store) == []


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    with file.open("r+b") as pack:
        pack.seek(LARGE // 2)
        (byte,) = pack.read(1)
        pack.seek(LARGE // 2)
        pack.write(bytes([byte ^ 4]))


DAMAGES = {
    "a flipped bit": flip,
    "a truncated pack": lambda file: os.truncate(file, LARGE // 2),
    "an empty pack": lambda file: os.truncate(file, 0),
    "a missing pack": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_gives_way_to_the_older_state_and_is_healed(store: CheckpointStore, damage: str) -> None:
    """The trial and the tensor are named; the same bytes saved again heal every checkpoint that names them."""
    older, whole = snapshot(1, [b"older"]), snapshot(2, [b"new", os.urandom(LARGE)])
    store.save(older, number=0, fence=1)
    info = store.save(whole, number=0, fence=1)
    (pack,) = packs_of(store)
    DAMAGES[damage](pack)
    with pytest.raises(DamagedError, match=r"Checkpoint of trial 0 at example 20 is damaged: tensor .*hash"):
        store.load(info)
    damages: list[DamagedError] = []
    state = store.newest_intact(0, damages.append)
    assert state is not None
    assert [bytes(tensor) for tensor in state.tensors] == [b"older"]
    assert len(damages) == 1
    store.mark_damaged(damages)
    later = store.save(snapshot(3, [bytes(whole.tensors[1].data), b"new", b"later"]), number=0, fence=1)
    assert bytes(store.load(later).tensors[0]) == bytes(whole.tensors[1].data)
    assert bytes(store.load(info).tensors[1]) == bytes(whole.tensors[1].data)


@pytest.mark.parametrize(
    "values", ["pack_offset = -5", "pack_offset = 'text'", "pack = '../x'", "pack_offset = 9999999999", "pack = 7"]
)
def test_a_damaged_row_is_a_damaged_checkpoint(engine: Engine, store: CheckpointStore, values: str) -> None:
    """Whatever it says about where the bytes are."""
    info = store.save(snapshot(1, [os.urandom(LARGE)]), number=0, fence=1)
    with writing(engine) as connection:
        connection.execute(text(f"UPDATE tunesafe_blobs SET {values} WHERE num_bytes > 1000"))
    with pytest.raises(DamagedError, match="trial 0"):
        store.load(info)


@pytest.mark.parametrize("failpoint", ["pack.written", "pack.durable", "checkpoint.in_transaction"])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_half_of_the_new_one(
    store: CheckpointStore, failpoint: str
) -> None:
    """With space again the same save succeeds, and nothing is left of the one that failed."""
    first = store.save(snapshot(1, [b"older"]), number=0, fence=1)
    second = snapshot(2, [os.urandom(LARGE)])
    failpoints.arm(failpoint, action="raise")
    with pytest.raises(StorageError, match="no space left"):
        store.save(second, number=0, fence=1)
    assert store.infos() == [first]
    if failpoint.startswith("pack"):
        assert packs_of(store) == []
    info = store.save(second, number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == bytes(second.tensors[0].data)
    store.sweep_orphans(-1)
    assert len(packs_of(store)) == 1
    store.load(info)


SAVER = """
import sys
from tests.unit.store.samples import snapshot
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine
from tunesafe.store.packs import packs_beside

engine = open_engine(sys.argv[1])
store = CheckpointStore(engine, sys.argv[2], packs_beside(engine.url))
tensors = [bytes([i]) * int(sys.argv[3]) for i in (1, 2, 3)]
store.save(snapshot(2, tensors), number=0, fence=1, surplus=lambda infos: [info.checkpoint_id for info in infos])
"""


@pytest.mark.parametrize(
    "failpoint",
    [
        "pack.written",
        "pack.durable",
        "surplus.in_transaction",
        "checkpoint.in_transaction",
        "checkpoint.committed",
        "surplus.committed",
        "checkpoint.swept",
    ],
)
def test_a_saver_killed_anywhere_leaves_whole_checkpoints_only(
    engine: Engine, sqlite_url: str, store: CheckpointStore, failpoint: str
) -> None:
    """SIGKILL in mid-save: the older checkpoint, or the newer one whole; what is left over is swept."""
    store.save(snapshot(1, [b"older", bytes(LARGE)]), number=0, fence=1)
    command = [sys.executable, "-c", SAVER, sqlite_url, store._uuid, str(LARGE)]
    died = subprocess.run(command, env={**os.environ, "TUNESAFE_FAILPOINT": failpoint}, check=False, timeout=200)
    assert died.returncode == -9
    epochs = [info.position.virtual_epoch for info in store.infos(0)]
    assert epochs == [2] if failpoint in ("checkpoint.committed", "surplus.committed", "checkpoint.swept") else [1]
    for info in store.infos(0):
        store.load(info)
    subprocess.run(command, check=True, timeout=200)
    assert [info.position.virtual_epoch for info in store.infos(0)] == [2]
    store.sweep_orphans(-1)
    assert [len(tensor) for tensor in store.load(store.infos(0)[0]).tensors] == [LARGE] * 3
    assert on_disk(packs_of(store)) <= 1.2 * 3 * LARGE
    with reading(engine) as connection:
        assert set(blobs.needed_places(connection)) == {file.stem for file in packs_of(store)}


def test_a_pack_in_the_making_is_not_swept_by_another_worker(
    engine: Engine, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its rename and its row it looks like an orphan; it is younger than one."""
    commit = Saving._commit

    def sweep_then_commit(*arguments: object) -> object:
        CheckpointStore(engine, store._uuid, store._packs).sweep_orphans()
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Saving, "_commit", sweep_then_commit)
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)


def test_two_savers_of_the_same_bytes_keep_one_copy(
    engine: Engine, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who commits second names what the first has stored, and gives its own copy back."""
    data, commit = os.urandom(LARGE), Saving._commit
    other = CheckpointStore(engine, store._uuid, store._packs)

    def be_overtaken(*arguments: object) -> object:
        monkeypatch.undo()
        other.save(snapshot(1, [data]), number=0, fence=1)
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Saving, "_commit", be_overtaken)
    info = store.save(snapshot(2, [data, b"and"]), number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == data
    assert on_disk(packs_of(store)) < 1.2 * LARGE


def test_a_database_has_one_folder_whatever_link_leads_to_it(tmp_path: Path) -> None:
    """SQLite follows links, so the same database is opened by several names."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "x.db").symlink_to(tmp_path / "real" / "x.db")
    (tmp_path / "real" / "x.db").touch()
    folders = {packs_beside(make_url(f"sqlite:///{tmp_path}/{where}/x.db")) for where in ("real", "link")}
    assert folders == {PackFolder(tmp_path / "real" / "x.db.packs")}
    assert packs_beside(make_url("postgresql+psycopg://u@h/d")) is None


def test_a_database_without_its_folder_is_no_damage(store: CheckpointStore) -> None:
    """Moved without it: the folder is named, nothing is marked, and put back it is as it was."""
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    assert store._packs is not None
    away = store._packs.path.rename(store._packs.path.with_name("forgotten"))
    with pytest.raises(StorageError, match=r"(?s)The folder .*\.packs is not there.*moved and copied together"):
        store.newest_intact(0, lambda error: pytest.fail(str(error)))
    away.rename(store._packs.path)
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)


def test_a_pack_that_cannot_be_opened_just_now_is_no_damage(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file descriptor left, no permission: an error, and no trial begins at 0 over it."""
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)

    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StorageError, match="Too many open files"):
            store.newest_intact(0, lambda error: pytest.fail(str(error)))
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)


def test_a_saver_held_up_until_its_pack_was_swept_writes_it_again(
    engine: Engine, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that slept for an hour between the pack and its row."""
    commit = Saving._commit

    def sleep_then_commit(*arguments: object) -> object:
        monkeypatch.undo()
        CheckpointStore(engine, store._uuid, store._packs).sweep_orphans(-1)
        assert packs_of(store) == []
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Saving, "_commit", sleep_then_commit)
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)


def test_a_save_that_fails_leaves_no_pack_behind(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk every try would otherwise take more of it; and a lost trial's bytes are nobody's."""
    for error in (StorageError("the disk is full"), LeaseLostError("another worker has it")):

        def fail(*arguments: object, error: Exception = error) -> object:
            raise error

        monkeypatch.setattr(Saving, "_commit", fail)
        with pytest.raises(type(error)):
            store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
        assert packs_of(store) == []


def test_bytes_that_are_named_are_not_given_back_whoever_asks(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose confirmation was lost has named them."""
    commit, calls = Saving._commit, 0

    def lose_the_reply(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        result = commit(*arguments)  # type: ignore[arg-type]
        if calls == 1:
            raise TransientStorageError("the reply was lost")
        return result

    monkeypatch.setattr(Saving, "_commit", lose_the_reply)
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    assert calls == 2
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)


def test_a_checkpoint_that_goes_while_it_is_read_is_not_called_damaged(
    engine: Engine, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export beside a study that goes on: it was removed, and the next try takes what there is now."""
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    read = PackFolder.read

    def remove_then_read(folder: PackFolder, place: Place, into: memoryview | None = None) -> memoryview:
        monkeypatch.undo()
        CheckpointStore(engine, store._uuid, store._packs).remove([info.checkpoint_id])
        return read(folder, place, into)

    monkeypatch.setattr(PackFolder, "read", remove_then_read)
    with pytest.raises(RemovedError, match="was removed while it was being read"):
        store.load(info)


def test_a_folder_that_cannot_be_synced_is_used_all_the_same(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shared folders refuse it; SQLite does not mind either."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)
