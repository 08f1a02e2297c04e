from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunesafe.errors import SpecError
from tunesafe.store.first_open import first_open_lock

FIRST_OPENER = """
import sys
from tests.unit.store.samples import new_study, open_ready
from tunesafe.store.engine import writing
from tunesafe.store.first_open import first_open_lock

url = sys.argv[1]
with first_open_lock(url):
    engine = open_ready(url)
with writing(engine) as connection:
    new_study(connection)
"""


def test_the_lock_leaves_nothing_behind(sqlite_url: str, tmp_path: Path) -> None:
    """Neither while it is held nor afterwards."""
    with first_open_lock(sqlite_url):
        assert not list(tmp_path.iterdir())
    with first_open_lock(sqlite_url):
        assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """As a usage error, before anything is locked."""
    with pytest.raises(SpecError, match="does not exist"), first_open_lock(f"sqlite:///{tmp_path}/no/x.db"):
        pass


def test_processes_that_open_one_database_first_at_the_same_time_all_succeed(sqlite_url: str) -> None:
    """Without the lock, 5 of 18 such opens failed."""
    command = [sys.executable, "-c", FIRST_OPENER, sqlite_url]
    openers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(opener.communicate(timeout=200)[1], opener.returncode) for opener in openers] == [("", 0)] * 4
