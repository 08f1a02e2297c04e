"""One address, one file: for our engines, for Optuna's, and for whoever gives Optuna the address that we print."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from tunesafe.spec import resolve_storage
from tunesafe.store.engine import open_engine, read_only_engine, reading, writing
from tunesafe.study.fenced import FencedStorage


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///a%20b.db", "a b.db"),
        ("sqlite:///a b.db", "a b.db"),
        ("sqlite:///100%.db", "100%.db"),
        ("sqlite:///%2541.db", "%41.db"),
        ("sqlite:///größe {x}.db", "größe {x}.db"),
    ],
)
def test_every_engine_opens_the_same_file(url: str, file: str, tmp_path: Path) -> None:
    """A character's code is one in the study file, and a percent sign of its folder's is none."""
    folder = tmp_path / "100%41 größer"
    folder.mkdir()
    full = resolve_storage(url, folder)
    storage = FencedStorage(full)
    with storage.guarded(lambda connection: None):
        storage.create_new_study([StudyDirection.MINIMIZE], "s")
    storage.close()
    engine = open_engine(full)
    with writing(engine) as connection:
        assert connection.execute(sa.text("SELECT study_name FROM studies")).scalars().all() == ["s"]
    engine.dispose()
    engine = read_only_engine(full)
    with reading(engine) as connection:
        assert connection.execute(sa.text("SELECT study_name FROM studies")).scalars().all() == ["s"]
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == [file]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_address_that_is_printed_can_be_given_to_optuna(tmp_path: Path) -> None:
    """Letters and spaces stand for themselves; only a percent sign is written as a code."""
    full = resolve_storage("sqlite:///größe 1.db", tmp_path)
    assert full == f"sqlite:///{tmp_path}/größe 1.db"
    storage = RDBStorage(full)
    storage.engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == ["größe 1.db"]
