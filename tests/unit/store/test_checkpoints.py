from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from tests.unit.store.samples import ELSEWHERE, claim, claimed_study, new_study, open_ready, record, snapshot
from tunesafe import failpoints
from tunesafe.contracts import Position, Snapshot, TensorBytes
from tunesafe.errors import DamagedError, LeaseLostError, StorageError
from tunesafe.store import blobs, claims, records
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, reading, writing
from tunesafe.store.faults import TransientStorageError, UnreachableStorageError
from tunesafe.store.hashing import state_hash
from tunesafe.store.saving import Saving
from tunesafe.store.trial_rows import trial_row

BYTES_TABLES = ("blobs", "blob_chunks", "checkpoints", "checkpoint_blobs")
LARGE = 2 * blobs.CHUNK_BYTES + 5


@pytest.fixture
def store(engine: Engine) -> CheckpointStore:
    """A store of a study whose trial 0 is claimed under fence 1."""
    return CheckpointStore(engine, claimed_study(engine)[0], None)


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    """Makes the disk full at a failpoint, once."""
    yield lambda name: failpoints.arm(name, action="raise")
    failpoints.arm(None)


def execute(engine: Engine, statement: str, **values: object) -> None:
    """Change the database behind the store's back."""
    with writing(engine) as connection:
        connection.execute(text(statement), values)


def count(engine: Engine) -> dict[str, int]:
    """Rows of the tables that hold states."""
    with reading(engine) as connection:
        query = "SELECT COUNT(*) FROM tunesafe_"
        return {table: connection.execute(text(query + table)).scalar_one() for table in BYTES_TABLES}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_a_flipped_bit_anywhere_is_found(engine: Engine, data: st.DataObject, tensors: list[bytes]) -> None:
    """In any tensor, in the structure, in the manifest: never a wrong state, and the trial is named."""
    study, _ = claimed_study(engine)
    store = CheckpointStore(engine, study, None)
    info = store.save(snapshot(3, [*tensors, b"at least one byte"]), number=0, fence=1)
    with reading(engine) as connection:
        of_study = "WHERE blob_id IN (SELECT blob_id FROM tunesafe_blobs WHERE study = :study)"
        chunks = connection.execute(
            text(f"SELECT blob_id, data FROM tunesafe_blob_chunks {of_study}"), {"study": study}
        )
        choices = [(row.blob_id, row.data) for row in chunks]
        manifest = connection.execute(
            text("SELECT manifest_json FROM tunesafe_checkpoints WHERE checkpoint_id = :id"), {"id": info.checkpoint_id}
        ).scalar_one()
    where, found = data.draw(st.sampled_from([*choices, (None, manifest.encode())]))
    bit = data.draw(st.integers(0, 8 * len(found) - 1))
    flipped = bytearray(found)
    flipped[bit // 8] ^= 1 << (bit % 8)
    if where is None:
        # A text column may hold anything, too.
        statement = "UPDATE tunesafe_checkpoints SET manifest_json = :text WHERE checkpoint_id = :id"
        execute(engine, statement, text=flipped.decode("latin-1"), id=info.checkpoint_id)
    else:
        execute(engine, "UPDATE tunesafe_blob_chunks SET data = :d WHERE blob_id = :id", d=bytes(flipped), id=where)
    with pytest.raises(DamagedError, match=r"Checkpoint of trial 0 at example 30 is damaged: .*hash"):
        store.load(info)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM tunesafe_blobs WHERE num_bytes = 3",
        "DELETE FROM tunesafe_blob_chunks WHERE blob_id = (SELECT blob_id FROM tunesafe_blobs WHERE num_bytes = 3)",
        "DELETE FROM tunesafe_blob_chunks WHERE seq = 1",
        "UPDATE tunesafe_blob_chunks SET data = CAST(data || x'00' AS BLOB) WHERE seq = 2",
        "UPDATE tunesafe_blob_chunks SET data = 'text' WHERE seq = 2 OR length(data) = 3",
        "UPDATE tunesafe_checkpoints SET virtual_epoch = 7 WHERE virtual_epoch = 2",
        "UPDATE tunesafe_checkpoints SET digest = 'sha256:0' WHERE virtual_epoch = 2",
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_newest_intact_one_and_is_healed(
    engine: Engine, store: CheckpointStore, damage: str
) -> None:
    """Missing rows, missing or longer chunks, a row moved elsewhere; the same state saved again is whole again."""
    whole = snapshot(2, [b"new", bytes(LARGE)])
    store.save(snapshot(1, [b"older"]), number=0, fence=1)
    store.save(whole, number=0, fence=1)
    execute(engine, damage)
    damages: list[DamagedError] = []
    state = store.newest_intact(0, damages.append)
    assert state is not None
    assert [bytes(tensor) for tensor in state.tensors] == [b"older"]
    assert len(damages) == 1
    store.mark_damaged(damages)
    store.save(whole, number=0, fence=1)
    healed = next(
        info for info in store.infos(0) if info.position == whole.position and info.position.virtual_epoch == 2
    )
    assert [bytes(tensor) for tensor in store.load(healed).tensors] == [b"new", bytes(LARGE)]


def test_a_blob_found_damaged_is_healed_for_every_checkpoint_that_names_it(
    engine: Engine, store: CheckpointStore
) -> None:
    """Equal bytes saved later must not be taken for stored because their damaged copy is there."""
    first = store.save(snapshot(1, [b"frozen", b"1"]), number=0, fence=1)
    execute(engine, "UPDATE tunesafe_blob_chunks SET data = :d WHERE data = :old", d=b"frozzn", old=b"frozen")
    damages: list[DamagedError] = []
    assert store.newest_intact(0, damages.append) is None
    store.mark_damaged(damages)
    store.save(snapshot(2, [b"frozen", b"2"]), number=0, fence=1)
    assert bytes(store.load(first).tensors[0]) == b"frozen"


def test_a_trial_with_no_checkpoint_starts_at_the_beginning(store: CheckpointStore) -> None:
    """And nothing is said to be damaged."""
    assert store.newest_intact(0, lambda error: pytest.fail(str(error))) is None


def test_a_state_that_came_out_differently_replaces_the_one_at_its_position(store: CheckpointStore) -> None:
    """A virtual epoch trained again counts as it is now: later checkpoints continue from it."""
    store.save(snapshot(1, [b"before"]), number=0, fence=1)
    info = store.save(snapshot(1, [b"after"]), number=0, fence=1)
    assert store.infos(0) == [info]
    assert bytes(store.load(info).tensors[0]) == b"after"


def test_tensors_are_bytes_whatever_their_view_looks_like(store: CheckpointStore) -> None:
    """Several dimensions, other formats, a zero in the shape."""
    floats = memoryview(bytes(range(48))).cast("B").cast("f", (3, 4))
    views: tuple[memoryview[Any], ...] = (floats, memoryview(b"").cast("B"), memoryview(bytes(8)).cast("d"))
    tensors = tuple(TensorBytes(str(i), "float32", (3, 4), view) for i, view in enumerate(views))
    info = store.save(Snapshot(Position(10, 1), "{}", tensors), number=0, fence=1)
    assert [bytes(tensor) for tensor in store.load(info).tensors] == [bytes(range(48)), b"", bytes(8)]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["blob.written", "checkpoint.in_transaction"])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_half_of_the_new_one(
    engine: Engine, store: CheckpointStore, armed: Callable[[str], None], name: str, large: bool
) -> None:
    """Exit 3 with advice; with space again the same save succeeds."""
    first = store.save(snapshot(1, [b"older"]), number=0, fence=1)
    second = snapshot(2, [os.urandom(LARGE if large else 100)])
    armed(name)
    with pytest.raises(StorageError, match="no space left"):
        store.save(second, number=0, fence=1)
    assert store.infos() == [first]
    store.load(first)
    with reading(engine) as connection:
        row = trial_row(connection, store._uuid, 0)
        assert row is not None
        assert row.examples_seen == 10
    info = store.save(second, number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == bytes(second.tensors[0].data)
    store.remove([first.checkpoint_id, info.checkpoint_id])
    store.sweep_orphans(0)
    assert count(engine) == dict.fromkeys(BYTES_TABLES, 0)


SAVER = """
import sys
from tests.unit.store.samples import snapshot
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine

store = CheckpointStore(open_engine(sys.argv[1]), sys.argv[2], None)
tensors = [bytes([i]) * int(sys.argv[3]) for i in (1, 2, 3)]
store.save(snapshot(2, tensors), number=0, fence=1, surplus=lambda infos: [info.checkpoint_id for info in infos])
"""


SMALL, LARGER = 100, 3 << 20


@pytest.mark.parametrize(
    ("failpoint", "size"),
    [
        ("blob.written:1", SMALL),
        ("blob.written:3", LARGER),
        ("checkpoint.in_transaction", SMALL),
        ("checkpoint.in_transaction", LARGER),
        ("checkpoint.committed", SMALL),
        ("checkpoint.committed", LARGER),
        ("surplus.in_transaction", SMALL),
        ("surplus.in_transaction", LARGER),
        ("surplus.committed", LARGER),
        ("checkpoint.swept", LARGER),
    ],
)
def test_a_saver_killed_anywhere_leaves_whole_checkpoints_only(
    engine: Engine, sqlite_url: str, store: CheckpointStore, failpoint: str, size: int
) -> None:
    """SIGKILL in mid-save: the older checkpoint, or the newer one whole; what is left over can be swept."""
    store.save(snapshot(1, [b"older", bytes(size)]), number=0, fence=1)
    command = [sys.executable, "-c", SAVER, sqlite_url, store._uuid, str(size)]
    died = subprocess.run(command, env={**os.environ, "TUNESAFE_FAILPOINT": failpoint}, check=False, timeout=200)
    assert died.returncode == -9
    epochs = [info.position.virtual_epoch for info in store.infos(0)]
    assert epochs == [2] if failpoint in ("checkpoint.committed", "surplus.committed", "checkpoint.swept") else [1]
    for info in store.infos(0):
        store.load(info)
    subprocess.run(command, check=True, timeout=200)
    assert [info.position.virtual_epoch for info in store.infos(0)] == [2]
    store.sweep_orphans(0)
    assert [len(tensor) for tensor in store.load(store.infos(0)[0]).tensors] == [size] * 3
    # Two small tensors that have changed share a segment; the third is new.
    num_blobs = 3 if size == SMALL else 4
    assert count(engine) == dict.fromkeys(("blobs", "blob_chunks", "checkpoint_blobs"), num_blobs) | {"checkpoints": 1}


def test_bytes_swept_between_a_save_and_its_commit_are_written_again(
    engine: Engine, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit names only blobs whose rows it holds: a sweeper that was faster costs time, not state."""
    commit = Saving._commit

    def sweep_then_commit(*arguments: object) -> object:
        store.sweep_orphans(0)
        assert count(engine)["blob_chunks"] == 0
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Saving, "_commit", sweep_then_commit)
    info = store.save(snapshot(1, [bytes(LARGE)]), number=0, fence=1)
    assert bytes(store.load(info).tensors[0]) == bytes(LARGE)


@pytest.mark.parametrize("size", [SMALL, LARGER])
def test_a_save_removes_what_it_makes_superfluous_but_never_itself(
    engine: Engine, store: CheckpointStore, size: int
) -> None:
    """Rows go in the committing transaction, bytes with them or right after; shared bytes stay."""
    for epoch in (1, 2, 3):
        tensors = [bytes(size), bytes([epoch]) * size]
        info = store.save(
            snapshot(epoch, tensors), number=0, fence=1, surplus=lambda infos: [i.checkpoint_id for i in infos]
        )
        assert store.infos(0) == [info]
        assert [bytes(tensor) for tensor in store.load(info).tensors] == tensors
    assert count(engine) == {"blobs": 3, "blob_chunks": 3, "checkpoints": 1, "checkpoint_blobs": 3}


def test_bytes_of_a_checkpoint_that_came_out_differently_are_not_left_behind(
    engine: Engine, store: CheckpointStore
) -> None:
    """A position trained again replaces its checkpoint, and what only the old one named."""
    store.save(snapshot(1, [b"first"]), number=0, fence=1)
    store.save(snapshot(1, [b"again"]), number=0, fence=1)
    assert count(engine) == {"blobs": 2, "blob_chunks": 2, "checkpoints": 1, "checkpoint_blobs": 2}


def test_a_blob_that_another_checkpoint_has_begun_to_name_is_not_swept(engine: Engine, store: CheckpointStore) -> None:
    """Whatever candidates a sweep was given: it asks again under its locks."""
    first = store.save(snapshot(1, [b"shared"]), number=0, fence=1)
    with writing(engine) as connection:
        ids = list(blobs.find_known(connection, store._uuid, [state_hash(b"shared")]).values())
        assert blobs.delete_unreferenced(connection, ids).is_empty
    store.load(first)


def test_a_save_in_progress_is_too_young_to_be_swept(engine: Engine, store: CheckpointStore) -> None:
    """Only what has been unnamed for an hour is what a killed save left behind."""
    with writing(engine) as connection:
        data = memoryview(b"in progress")
        blobs.write_blobs(connection, store._uuid, [blobs.Content(state_hash(data), len(data), (data,))])
    store.sweep_orphans()
    assert count(engine)["blobs"] == 1
    store.sweep_orphans(0)
    assert count(engine)["blobs"] == 0


def test_a_save_that_loses_its_lease_on_the_way_makes_no_checkpoint(
    engine: Engine, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence is checked in the committing transaction, not only before the bytes are written."""
    commit = Saving._commit

    def lose_then_commit(*arguments: object) -> object:
        with writing(engine) as connection:
            (row,) = claims.claimable(connection, store._uuid)
            assert claims.retake(connection, store._uuid, row, ELSEWHERE, 60.0)
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Saving, "_commit", lose_then_commit)
    with pytest.raises(LeaseLostError):
        store.save(snapshot(1, [b"x"]), number=0, fence=1)
    assert store.infos() == []


def test_studies_share_no_bytes(engine: Engine) -> None:
    """Removing one study's checkpoint cannot take another's."""
    one, other = (CheckpointStore(engine, claimed_study(engine)[0], None) for _ in range(2))
    infos = [store.save(snapshot(1, [b"same"]), number=0, fence=1) for store in (one, other)]
    one.remove([infos[0].checkpoint_id])
    assert bytes(other.load(infos[1]).tensors[0]) == b"same"


def test_a_record_that_fails_takes_nothing_with_it(engine: Engine) -> None:
    """A duplicate found inside somebody else's transaction leaves that transaction usable."""
    with writing(engine) as connection:
        study = new_study(connection)
        claim(connection, study)
        records.insert_record(connection, study, 0, 1, record(1))
        with pytest.raises(records.DuplicateRecordError):
            records.insert_record(connection, study, 0, 1, record(1, loss=0.7))
        (found,) = records.records_of(connection, study, 0)
    assert found.report.metrics == {"loss": 0.5}


def test_a_damaged_database_page_is_a_damaged_checkpoint_or_a_storage_error(sqlite_url: str) -> None:
    """Whatever byte of the file is overwritten: a message, or the state as it was; nothing else."""
    path = sqlite_url.removeprefix("sqlite:///")
    engine = open_ready(sqlite_url)
    store = CheckpointStore(engine, claimed_study(engine)[0], None)
    tensors = [os.urandom(30_000), os.urandom(9000)]
    info = store.save(snapshot(1, tensors), number=0, fence=1)
    engine.dispose()
    with open(path, "rb") as file:
        content = file.read()
    for page in range(len(content) // 4096):
        with open(path, "r+b") as file:
            file.seek(4096 * page + 100)
            file.write(b"\xff" * 64)
        reader = open_engine(sqlite_url)
        try:
            state = CheckpointStore(reader, store._uuid, None).load(info)
            assert [bytes(tensor) for tensor in state.tensors] == tensors
        except (DamagedError, StorageError):
            pass
        finally:
            reader.dispose()
            with open(path, "wb") as file:
                file.write(content)


def test_a_save_does_not_wait_by_itself_for_a_database_that_is_away(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clash is tried again at once; what is gone is for whoever has the patience, and tells others that it waits."""
    commit, errors = Saving._commit, [UnreachableStorageError("away"), TransientStorageError("a clash")]

    def fail(*arguments: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return commit(*arguments)

    monkeypatch.setattr(Saving, "_commit", fail)
    with pytest.raises(UnreachableStorageError):
        store.save(snapshot(1, [b"tensor"]), number=0, fence=1)
    assert len(errors) == 1
    assert store.save(snapshot(1, [b"tensor"]), number=0, fence=1).position.virtual_epoch == 1
