"""A checkpoint that has given up all but its weights: fewer bytes, the same hashes, nothing between whole and thin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy import Engine, text

from tests.unit.store.samples import claimed_study, snapshot
from tunesafe.errors import DamagedError
from tunesafe.store import blobs
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import reading, writing
from tunesafe.store.packs import packs_beside

LARGE = 1 << 20
WEIGHTS = {1}
THINNER = """
import sys
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine
from tunesafe.store.packs import packs_beside

engine = open_engine(sys.argv[1])
store = CheckpointStore(engine, sys.argv[2], packs_beside(engine.url))
for info in store.infos(0):
    store.keep_weights(info, lambda structure: {1})
"""


@pytest.fixture(params=["in packs", "in the database"])
def store(request: pytest.FixtureRequest, engine: Engine) -> CheckpointStore:
    """A store whose trial 0 is claimed under fence 1."""
    packs = packs_beside(engine.url) if request.param == "in packs" else None
    return CheckpointStore(engine, claimed_study(engine)[0], packs)


def state(seed: int) -> list[bytes]:
    """Optimizer, weights and generators."""
    return [bytes([seed, part]) * (LARGE // 2) for part in range(3)]


def stored(store: CheckpointStore) -> int:
    """How many bytes the study holds, in rows and on the disk."""
    with reading(store._engine) as connection:
        num_bytes = connection.execute(text("SELECT SUM(num_bytes) FROM tunesafe_blobs")).scalar_one()
    if store._packs is not None:
        on_disk = sum(file.stat().st_blocks * 512 for file in store._packs.path.iterdir())
        assert on_disk <= num_bytes + (1 << 16)
    return int(num_bytes)


def test_only_the_weights_stay_and_space_returns(store: CheckpointStore) -> None:
    """Under another id, at the same place, verified as before; asked again nothing happens."""
    info = store.save(snapshot(1, state(1)), number=0, fence=1)
    whole = store.load(info)
    before = stored(store)
    freed = store.keep_weights(info, lambda structure: WEIGHTS)
    (thin,) = store.infos(0)
    assert (thin.weights_only, thin.number, thin.position) == (True, 0, info.position)
    assert (thin.created_at, thin.num_bytes) == (info.created_at, LARGE + len(whole.structure))
    assert thin.checkpoint_id != info.checkpoint_id
    assert freed.in_database + freed.in_packs == 2 * LARGE
    assert stored(store) == before - 2 * LARGE
    loaded = store.load(thin)
    assert (loaded.structure, loaded.tensors[0], loaded.tensors[2]) == (whole.structure, None, None)
    assert loaded.tensors[1] == whole.tensors[1]
    assert store.keep_weights(thin, lambda structure: WEIGHTS).in_packs == 0
    assert store.infos(0) == [thin]
    with pytest.raises(RemovedError):
        store.load(info)


def test_bytes_that_a_whole_checkpoint_names_stay(store: CheckpointStore) -> None:
    """Thinned is one checkpoint, not what it shares."""
    frozen = state(1)
    first = store.save(snapshot(1, frozen), number=0, fence=1)
    second = store.save(snapshot(2, [*frozen[:2], state(2)[2]]), number=0, fence=1)
    store.keep_weights(first, lambda structure: WEIGHTS)
    assert [bytes(tensor or b"") for tensor in store.load(second).tensors] == [*frozen[:2], state(2)[2]]
    thin = store.infos(0)[1]
    store.remove([second.checkpoint_id])
    assert bytes(store.load(thin).tensors[1] or b"") == frozen[1]
    assert stored(store) == thin.num_bytes


def test_a_trial_never_goes_on_from_weights(store: CheckpointStore) -> None:
    """It falls back on the newest that is whole."""
    older = store.save(snapshot(1, state(1)), number=0, fence=1)
    newer = store.save(snapshot(2, state(2)), number=0, fence=1)
    store.keep_weights(newer, lambda structure: WEIGHTS)
    found = store.newest_intact(0, lambda error: pytest.fail(str(error)))
    assert found is not None
    assert found.info == older
    store.keep_weights(older, lambda structure: WEIGHTS)
    assert store.newest_intact(0, lambda error: pytest.fail(str(error))) is None


def test_a_row_that_calls_a_thin_state_whole_is_damaged(store: CheckpointStore, engine: Engine) -> None:
    """The mark is in a column; what counts is in the manifest, which has a hash."""
    store.keep_weights(store.save(snapshot(1, state(1)), number=0, fence=1), lambda structure: WEIGHTS)
    with writing(engine) as connection:
        connection.execute(text("UPDATE tunesafe_checkpoints SET weights_only = 0"))
    damage: list[DamagedError] = []
    assert store.newest_intact(0, damage.append) is None
    assert "its row says that it is whole" in str(damage[0])


def test_a_state_without_weights_and_a_damaged_one_stay_as_they_are(store: CheckpointStore, engine: Engine) -> None:
    """Nothing is given up that nobody could name."""
    info = store.save(snapshot(1, state(1)), number=0, fence=1)
    assert store.keep_weights(info, lambda structure: ()).in_database == 0
    assert store.infos(0) == [info]
    with writing(engine) as connection:
        other = "UPDATE tunesafe_checkpoints SET manifest_json = REPLACE(manifest_json, 'uint8', 'int8')"
        connection.execute(text(other))
    with pytest.raises(DamagedError, match="manifest no longer matches"):
        store.keep_weights(info, lambda structure: WEIGHTS)
    assert store.infos(0) == [info]


def test_one_that_is_removed_meanwhile_stays_removed(store: CheckpointStore) -> None:
    """Two workers tidy up after the same trial."""
    info = store.save(snapshot(1, state(1)), number=0, fence=1)

    def remove_then_name(structure: str) -> set[int]:
        CheckpointStore(store._engine, store._uuid, store._packs).remove([info.checkpoint_id])
        return WEIGHTS

    with pytest.raises(RemovedError):
        store.keep_weights(info, remove_then_name)
    assert store.infos(0) == []


@pytest.mark.parametrize("failpoint", ["forget.in_transaction", "forget.committed", "checkpoint.swept"])
def test_killed_anywhere_it_is_whole_or_thin(store: CheckpointStore, sqlite_url: str, failpoint: str) -> None:
    """SIGKILL in mid-thinning: every byte that is named is there; done again it is done."""
    store.save(snapshot(1, state(1)), number=0, fence=1)
    where = "packs_beside(engine.url)" if store._packs is not None else "None"
    program = THINNER.replace("packs_beside(engine.url))", f"{where})")
    command = [sys.executable, "-c", program, sqlite_url, store._uuid]
    died = subprocess.run(command, env={**os.environ, "TUNESAFE_FAILPOINT": failpoint}, check=False, timeout=200)
    assert died.returncode == -9
    (info,) = store.infos(0)
    assert info.weights_only == (failpoint != "forget.in_transaction")
    store.load(info)
    subprocess.run(command, check=True, timeout=200)
    store.sweep_orphans(-1)
    (thin,) = store.infos(0)
    assert bytes(store.load(thin).tensors[1] or b"") == state(1)[1]
    assert stored(store) == thin.num_bytes
    with reading(store._engine) as connection:
        assert blobs.chunkless(connection) == {}
