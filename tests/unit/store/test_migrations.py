from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import pytest
from sqlalchemy import Connection, Engine, make_url, text

from tests.golden import make_schema_1 as golden
from tests.golden import make_schema_6
from tests.unit.store.samples import COMPLETE, claim, new_study, open_ready
from tunesafe.api.running import _exists
from tunesafe.api.stored import StoredStudy
from tunesafe.contracts import LogChunk, TrialPhase
from tunesafe.errors import DamagedError, StorageError
from tunesafe.spec import StudySpec
from tunesafe.store import claims, events, logs, migrations, records, studies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, reading, writing
from tunesafe.store.migrations import SCHEMA_VERSION, STEPS, is_ours, schema_version, upgrade
from tunesafe.store.packs import packs_beside
from tunesafe.store.reading import summarise
from tunesafe.store.trial_rows import trial_rows
from tunesafe.study.opening import _is_foreign

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("schema_*.db"))


def version(engine: Engine) -> int:
    """The schema a database has."""
    with reading(engine) as connection:
        return schema_version(connection)


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A copy of each released schema's database, upgraded."""
    engine = open_engine(f"sqlite:///{shutil.copy(request.param, tmp_path / 'old.db')}")
    packs = packs_beside(make_url(f"sqlite:///{request.param}"))
    if packs is not None and packs.path.exists():
        shutil.copytree(packs.path, tmp_path / "old.db.packs")
    upgrade(engine)
    yield engine
    engine.dispose()


def test_there_is_a_golden_database_of_every_released_schema() -> None:
    """A new schema is not released before its database is kept."""
    assert [path.stem for path in GOLDEN] == [f"schema_{n}" for n in range(1, SCHEMA_VERSION + 1)]


def test_a_study_of_every_released_schema_is_read_as_it_was_left(old: Engine) -> None:
    """Every table has something in it, and all of it comes back."""
    assert version(old) == SCHEMA_VERSION
    store = CheckpointStore(old, golden.STUDY, packs_beside(old.url))
    with reading(old) as c:
        study = studies.find_study(c, "golden")
        assert study is not None
        assert (study.uuid, study.examples_per_pass, study.threads_per_worker) == (golden.STUDY, 1437, 1)
        assert (study.live_seconds, study.fingerprint) == (30.0, {"sources": "abc"})
        assert studies.load_sources(c, golden.STUDY, "abc") == {"digits.py": "def train(trial): ...\n"}
        told, held, claimed, free = trial_rows(c, golden.STUDY)
        assert [row.phase for row in (told, held, claimed, free)] == [
            TrialPhase.TOLD,
            TrialPhase.HELD,
            TrialPhase.CLAIMED,
            TrialPhase.FREE,
        ]
        assert (told.params, told.owner, str(told.outcome)) == (golden.PARAMS, golden.OWNER, str(golden.OUTCOME))
        assert held.outcome == golden.FAILED
        (record,) = records.records_of(c, golden.STUDY, 0)
        assert replace(record, recorded_at=0.0) == golden.RECORD
        assert [event.kind for event in events.events_of(c, golden.STUDY)] == ["claimed"]
        assert logs.logs_of(c, golden.STUDY, 0) == [LogChunk(0, 1, "epoch 1\n")]
        summary = summarise(c, "golden")
        assert summary.best is not None
        assert summary.best.value == 0.25
    (info,) = store.infos()
    state = store.load(info)
    assert (info.position, state.structure) == (golden.SNAPSHOT.position, golden.SNAPSHOT.structure)
    assert [bytes(tensor) for tensor in state.tensors] == [bytes(tensor.data) for tensor in golden.SNAPSHOT.tensors]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_study_of_every_released_schema_is_known_for_ours_before_it_is_upgraded(path: Path, tmp_path: Path) -> None:
    """Beside Optuna's study of its name, as a real one is; who only reads says what to do."""
    url = f"sqlite:///{shutil.copy(path, tmp_path / 'old.db')}"
    optuna.create_study(storage=url, study_name="golden")
    engine = open_engine(url)
    with reading(engine) as connection:
        assert not _is_foreign(connection, "golden")
    engine.dispose()
    # `run` continues it: its own backup is not somebody else's in the way.
    there, other = (cast("StudySpec", SimpleNamespace(storage=url, name=name)) for name in ("golden", "other"))
    assert _exists(there)
    assert not _exists(other)
    if path.stem == f"schema_{SCHEMA_VERSION}":
        assert StoredStudy(url, "golden").row().name == "golden"
    else:
        with pytest.raises(StorageError, match="upgrades it"):
            StoredStudy(url, "golden").row()


@pytest.mark.parametrize("version", [3, 4, 5])
def test_workers_of_an_older_version_lose_what_they_hold(version: int, tmp_path: Path) -> None:
    """They would write rows without seals, or take for damaged what they cannot verify, or do not find."""
    engine = open_engine(f"sqlite:///{shutil.copy(GOLDEN[version - 1], tmp_path / 'old.db')}")
    with reading(engine) as connection:
        query = text("SELECT number, phase, fence FROM tunesafe_trials ORDER BY number")
        before = connection.execute(query).all()
        revision = connection.execute(text("SELECT revision FROM tunesafe_studies")).scalar_one()
    upgrade(engine, STEPS[: version + 1])
    with reading(engine) as connection:
        after = connection.execute(query).all()
        assert studies.revision_of(connection, golden.STUDY) == revision + 1
        assert all(row.lease_expires_at == 0 for row in claims.claimable(connection, golden.STUDY))
    raised = {"claimed": 1, "closing": 1, "held": 1}
    assert [row.fence for row in after] == [row.fence + raised.get(row.phase, 0) for row in before]
    engine.dispose()


def test_merged_tensors_of_schema_6_come_back(tmp_path: Path) -> None:
    """In rows and in packs; beside them what was never merged, and what has stayed in an older segment."""
    there = Path(shutil.copy(GOLDEN[5], tmp_path / "old.db"))
    shutil.copytree(f"{GOLDEN[5]}.packs", f"{there}.packs")
    engine = open_engine(f"sqlite:///{there}")
    upgrade(engine)
    store = CheckpointStore(engine, make_schema_6.MERGED, packs_beside(engine.url))
    for number in (0, 1):
        infos = store.infos(number)
        assert [info.position.virtual_epoch for info in infos] == [3, 2, 1]
        for info in infos:
            tensors = make_schema_6.state(info.position.virtual_epoch).tensors
            assert [bytes(tensor or b"") for tensor in store.load(info).tensors] == [bytes(t.data) for t in tensors]
    engine.dispose()


def test_a_damaged_copy_of_a_value_makes_no_other_trial_the_best(engine: Engine) -> None:
    """The copy ranks in SQL, where no seal is looked at."""
    with writing(engine) as connection:
        study = new_study(connection, name="digits")
        for number, value in enumerate((0.5, 0.25, 0.75)):
            claimed = claim(connection, study, number)
            claims.record_outcome(connection, study, number, claimed.fence, replace(COMPLETE, value=value))
    with reading(engine) as connection:
        best = summarise(connection, "digits").best
        assert best is not None
        assert (best.number, best.value) == (1, 0.25)
    with writing(engine) as connection:
        connection.execute(text("UPDATE tunesafe_trials SET value = 7e9 WHERE number = 1"))
    with reading(engine) as connection, pytest.raises(DamagedError, match="Trial 1"):
        summarise(connection, "digits")


def test_a_study_of_every_released_schema_goes_on(old: Engine) -> None:
    """Its trials can be claimed, reported and saved under this version."""
    with writing(old) as c:
        (row,) = claims.claimable(c, golden.STUDY)
        claim = claims.retake(c, golden.STUDY, row, golden.OWNER, 60.0)
        assert claim is not None
        records.insert_record(c, golden.STUDY, claim.number, claim.fence, golden.RECORD)
    CheckpointStore(old, golden.STUDY, packs_beside(old.url)).save(
        golden.SNAPSHOT, number=claim.number, fence=claim.fence
    )


def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    """It is asked at every start."""
    with writing(engine) as connection:
        new_study(connection, name="digits")
    upgrade(engine)
    assert version(engine) == SCHEMA_VERSION
    with reading(engine) as connection:
        assert studies.study_names(connection) == ["digits"]


def add_colour(connection: Connection) -> None:
    """A step as a later version may bring one."""
    connection.execute(text("ALTER TABLE tunesafe_studies ADD COLUMN colour VARCHAR(8) DEFAULT 'blue' NOT NULL"))


def test_later_steps_run_once_and_in_order_and_data_stay(engine: Engine) -> None:
    """From any version on, one transaction a step."""
    with writing(engine) as connection:
        new_study(connection, name="digits")
    ran: list[int] = []
    steps = [*STEPS, add_colour, lambda connection: ran.append(1)]
    for _ in range(2):
        upgrade(engine, steps)
    assert (version(engine), ran) == (SCHEMA_VERSION + 2, [1])
    with reading(engine) as connection:
        assert connection.execute(text("SELECT name, colour FROM tunesafe_studies")).all() == [("digits", "blue")]


def test_a_step_that_fails_leaves_the_version_before_it(engine: Engine) -> None:
    """And can be run again."""

    def fail(connection: Connection) -> None:
        add_colour(connection)
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="no space left"):
        upgrade(engine, [*STEPS, fail])
    assert version(engine) == SCHEMA_VERSION
    upgrade(engine, [*STEPS, add_colour])
    assert version(engine) == SCHEMA_VERSION + 1


def test_a_newer_schema_is_refused_with_advice_and_left_alone(sqlite_url: str) -> None:
    """An old tunesafe does not guess at a new one's tables."""
    engine = open_ready(sqlite_url)
    upgrade(engine, [*STEPS, add_colour])
    with pytest.raises(StorageError, match=r"(?s)newer tunesafe.*Nothing was changed.*pip install"):
        upgrade(engine)
    assert version(engine) == SCHEMA_VERSION + 1
    with pytest.raises(StorageError, match="newer tunesafe"), reading(engine) as connection:
        is_ours(connection)
    engine.dispose()


def test_a_reader_tells_our_databases_from_others_and_from_old_ones(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot upgrade: it says who can."""
    plain = open_engine(f"sqlite:///{tmp_path}/plain.db")
    with reading(plain) as connection:
        assert not is_ours(connection)
    plain.dispose()
    with reading(engine) as connection:
        assert is_ours(connection)
        monkeypatch.setattr(migrations, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        with pytest.raises(StorageError, match="upgrades it"):
            is_ours(connection)
