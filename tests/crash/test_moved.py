"""A study whose machine is gone: its files continue elsewhere."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.crash.harness import Check, Kill, Laboratory, Study
from tests.crash.variations import BASE, Variation

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

SHORT_LEASE = Variation("short lease", {"lease": 1})
FILES = ("crash.db", "crash.db-wal", "study.yaml", "train.py", "batches.log")


def move(study: Study, lab: Laboratory, folder: Path) -> Study:
    """Copy what a study consists of into another folder; SQLite's shared memory is not part of it."""
    folder.mkdir()
    for name in FILES:
        shutil.copy(study.folder / name, folder / name)
    shutil.copytree(study.folder / "crash.db.packs", folder / "crash.db.packs")
    assert (folder / "crash.db-wal").stat().st_size > 0, "nothing was left in the log: this copy would prove little"
    shutil.rmtree(study.folder)
    return Study(lab, study.variation, folder)


def test_a_killed_study_copied_to_another_folder_continues_there(lab: Laboratory, survived: Check) -> None:
    """The database, its write-ahead log and its packs are the study; where they lie is not part of it."""
    lab.reference(BASE)
    study = lab.study(BASE)
    study.run_and_die(Kill("report.recorded", 7))
    moved = move(study, lab, lab.folder / "moved")
    moved.run_and_die(Kill("checkpoint.in_transaction", 3))
    survived(lab.conclude(moved, ["report.recorded", "checkpoint.in_transaction"]))


@pytest.mark.slow
def test_a_trial_of_a_vanished_machine_is_taken_up_when_its_lease_is_over(lab: Laboratory, survived: Check) -> None:
    """Nobody can prove a process of another machine dead: a single worker waits for its lease, and changes nothing."""
    lab.reference(SHORT_LEASE)
    study = lab.study(SHORT_LEASE)
    study.run_and_die(Kill("train.batch", 20))
    database = sqlite3.connect(study.folder / "crash.db")
    (owner,) = database.execute("SELECT owner_json FROM tunesafe_trials WHERE phase = 'claimed'").fetchone()
    elsewhere = json.dumps({**json.loads(owner), "host": "elsewhere", "machine_id": "another"})
    change = (
        "UPDATE tunesafe_trials SET owner_json = ?, lease_expires_at = lease_expires_at + 1 WHERE phase = 'claimed'"
    )
    with database:
        database.execute(change, (elsewhere,))
    database.close()
    survived(lab.conclude(study, ["train.batch"]))
