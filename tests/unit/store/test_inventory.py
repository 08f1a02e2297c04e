"""How many bytes checkpoints are, and where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.unit.store.samples import claimed_study, snapshot
from tunesafe.contracts import CheckpointInfo
from tunesafe.store import blobs, inventory
from tunesafe.store.blobs import StoredBytes
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import reading, writing
from tunesafe.store.hashing import state_hash
from tunesafe.store.packs import PackFolder

LARGE = 3 << 20


@pytest.fixture
def packs(tmp_path: Path) -> PackFolder:
    """A folder of packs beside the database."""
    return PackFolder(tmp_path / "packs")


@pytest.fixture
def store(engine: Engine, packs: PackFolder) -> CheckpointStore:
    """A store of a study whose trial 0 is claimed under fence 1."""
    return CheckpointStore(engine, claimed_study(engine)[0], packs)


def three(store: CheckpointStore) -> list[CheckpointInfo]:
    """Two checkpoints that share 100 bytes, and one with 7 and a large tensor of its own; all share a structure."""
    tensors = ([b"s" * 100, b"a" * 10], [b"s" * 100, b"b" * 20], [b"c" * 7, os.urandom(LARGE)])
    return [store.save(snapshot(epoch, each), number=0, fence=1) for epoch, each in enumerate(tensors, start=1)]


def test_what_is_shared_is_nobodys_own(engine: Engine, store: CheckpointStore) -> None:
    """Of one trial or of the whole study; another study's bytes do not count."""
    first, second, third = three(store)
    other = CheckpointStore(engine, claimed_study(engine)[0], None)
    other.save(snapshot(1, [b"a" * 10]), number=0, fence=1)
    expected = {first.checkpoint_id: 10, second.checkpoint_id: 20, third.checkpoint_id: 7 + LARGE}
    with reading(engine) as connection:
        assert inventory.bytes_of_each_alone(connection, store._uuid) == expected
        assert inventory.bytes_of_each_alone(connection, store._uuid, 0) == expected
        assert inventory.bytes_of_each_alone(connection, store._uuid, 1) == {}


def test_what_is_stored_counts_each_content_once_where_it_is(engine: Engine, store: CheckpointStore) -> None:
    """A large state's bytes go into a pack together, small ones into the database."""
    with reading(engine) as connection:
        assert inventory.stored_bytes(connection, store._uuid) == StoredBytes()
    three(store)
    with reading(engine) as connection:
        assert inventory.stored_bytes(connection, store._uuid) == StoredBytes(2 + 100 + 10 + 20, 7 + LARGE)


@pytest.mark.parametrize("chosen", [(), (0,), (0, 1), (1, 2), (0, 1, 2)])
def test_removing_frees_what_was_counted(engine: Engine, store: CheckpointStore, chosen: tuple[int, ...]) -> None:
    """Told before, told by the removal, and missing afterwards: one number."""
    infos = three(store)
    ids = [infos[index].checkpoint_id for index in chosen]
    with reading(engine) as connection:
        before = inventory.stored_bytes(connection, store._uuid)
        promised = inventory.bytes_of_these_alone(connection, ids)
    assert store.remove(ids) == promised
    with reading(engine) as connection:
        assert inventory.stored_bytes(connection, store._uuid) + promised == before


def test_what_is_left_behind_is_counted_as_it_is_swept(
    engine: Engine, store: CheckpointStore, packs: PackFolder
) -> None:
    """Rows nobody names, chunks without a row, packs without a name, halves of packs; all of it gone after a sweep."""
    kept = three(store)[2]
    data = memoryview(b"unnamed")
    with writing(engine) as connection:
        blobs.write_blobs(connection, store._uuid, [blobs.Content(state_hash(data), len(data), (data,))])
        connection.exec_driver_sql("INSERT INTO tunesafe_blob_chunks VALUES (12345, 0, X'010203')")
    packs.write([[memoryview(os.urandom(LARGE))]])
    (packs.path / f"{'0' * 32}.tmp").write_bytes(os.urandom(LARGE))
    with reading(engine) as connection:
        assert inventory.left_behind(connection, store._uuid, packs, 3600) == StoredBytes(in_database=3)
        promised = inventory.left_behind(connection, store._uuid, packs, -1)
    assert promised.in_database == 3 + len(data)
    assert 2 * LARGE <= promised.in_packs < 2.1 * LARGE
    assert store.sweep_orphans(-1) == promised
    assert store.sweep_orphans(-1) == StoredBytes()
    store.load(kept)


def test_a_running_sum_counts_what_is_new_and_never_too_little(engine: Engine, store: CheckpointStore) -> None:
    """What others remove it sees when it counts all again."""
    seen = inventory.StoredSum(store._uuid)
    other = CheckpointStore(engine, claimed_study(engine)[0], None)

    def at_most() -> int:
        with reading(engine) as connection:
            return seen.at_most(connection)

    def exactly() -> int:
        with reading(engine) as connection:
            stored = inventory.stored_bytes(connection, store._uuid)
            assert inventory.StoredSum(store._uuid).exactly(connection) == stored.in_database + stored.in_packs
            return stored.in_database + stored.in_packs

    assert at_most() == 0
    first, *_ = three(store)
    other.save(snapshot(1, [b"somebody else's"]), number=0, fence=1)
    assert at_most() == exactly() == 2 + 100 + 10 + 20 + 7 + LARGE
    store.remove([first.checkpoint_id])
    assert at_most() == exactly() + 10
    assert at_most() == exactly() + 10
    for _ in range(64):
        last = at_most()
    assert last == exactly()
