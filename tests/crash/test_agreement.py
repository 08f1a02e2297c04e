"""A digit of Optuna's tables that is no longer what was written: Optuna keeps no hashes, ours find it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from tests.crash.harness import Laboratory, Study
from tests.crash.variations import BASE
from tunesafe.errors import ExitCode

# Slow: `make test` sees the same damage on every database, without a death before it, in tests/contract.
pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(600)]

DIGITS = [
    ("trials", "number", "{column} + 100"),
    ("trials", "state", "CASE {column} WHEN 'COMPLETE' THEN 'PRUNED' WHEN 'PRUNED' THEN 'COMPLETE' ELSE {column} END"),
    ("trial_values", "value", "{column} / 2"),
    ("trial_intermediate_values", "intermediate_value", "{column} * 2"),
    ("trial_params", "param_value", "{column} * 0.5"),
    ("trial_params", "param_name", "{column} || 'x'"),
]


@pytest.fixture(scope="module")
def killed(lab: Laboratory) -> Study:
    """A study that died in mid-training."""
    study = lab.study(BASE)
    study.run_and_die(lab.reference(BASE).passing("report.applied", "last"))
    with closing(sqlite3.connect(study.folder / "crash.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return study


@pytest.mark.parametrize(("table", "column", "way"), DIGITS, ids=[f"{table}.{column}" for table, column, _ in DIGITS])
@pytest.mark.parametrize("which", ["MIN", "MAX"])
def test_no_trial_goes_on_by_a_number_that_nobody_wrote(
    killed: Study, lab: Laboratory, table: str, column: str, way: str, which: str
) -> None:
    """One row is changed, of an early or of a late trial; the command says which trial's, and changes nothing."""
    folder = lab.folder / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(killed.folder, folder)
    with closing(sqlite3.connect(folder / "crash.db")) as database:
        if column == "state":  # a trial in mid-training has none that could be wrong
            where = "trial_id = (SELECT {}(trial_id) FROM trials WHERE state != 'RUNNING')"
        else:
            where = "rowid = (SELECT {}(rowid) FROM " + table + ")"
        database.execute(f"UPDATE {table} SET {column} = {way.format(column=column)} WHERE {where.format(which)}")
        database.commit()
        assert database.total_changes == 1
    ended = Study(lab, BASE, folder).run()
    assert ended.code == ExitCode.DAMAGED, ended.output
    assert "Traceback" not in ended.output
    assert "in Optuna's tables" in ended.output
    assert "Trial " in ended.output
