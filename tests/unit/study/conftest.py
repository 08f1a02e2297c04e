"""A database whose tables are there already: making them takes longer than most tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tests.unit.study.copies import Bench
from tests.unit.study.studies import opened

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, Optuna's and ours, and one study that no test uses."""
    file = tmp_path_factory.mktemp("template") / "study.db"
    with opened(f"sqlite:///{file}", name="template") as study:
        study.engine.connect().exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


@pytest.fixture
def sqlite_url(empty_database: Path, tmp_path: Path) -> str:
    """URL of an SQLite database with all tables."""
    shutil.copy(empty_database, tmp_path / "study.db")
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def fresh_url(tmp_path: Path) -> str:
    """URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'fresh.db'}"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A study without a checkpoint, and its second place."""
    bench = Bench(tmp_path)
    yield bench
    bench.engine.dispose()
