"""Workers that are stand-ins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.executors.stand_in import StandIn
from tests.unit.study.studies import opened


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """What is started instead of workers."""
    file = tmp_path / "stand_in.py"
    monkeypatch.setattr("tunesafe.executors.children._PROGRAM", ("-S", str(file)))
    return StandIn(file)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables: making them takes longer than most tests."""
    file = tmp_path_factory.mktemp("template") / "study.db"
    with opened(f"sqlite:///{file}", name="template") as study:
        study.engine.connect().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


@pytest.fixture
def sqlite_url(empty_database: Path, tmp_path: Path) -> str:
    """URL of an SQLite database with all tables."""
    shutil.copy(empty_database, tmp_path / "study.db")
    return f"sqlite:///{tmp_path / 'study.db'}"
