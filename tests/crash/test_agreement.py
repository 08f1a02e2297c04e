"""A digit of Optuna's tables that is no longer what was written: Optuna keeps no hashes, ours find it."""

from __future__ import annotations

import pytest

from tests.crash.harness import Study
from tunesafe.errors import ExitCode

# Slow: `make test` sees the same damage on every database, without a death before it, in tests/contract.
pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(600)]

DIGITS = [
    ("trials", "number", "{column} + 100"),
    ("trials", "state", "CASE {column} WHEN 'COMPLETE' THEN 'PRUNED' WHEN 'PRUNED' THEN 'COMPLETE' ELSE {column} END"),
    ("trial_values", "value", "{column} / 2"),
    ("trial_intermediate_values", "intermediate_value", "{column} * 2"),
    ("trial_intermediate_values", "step", "{column} + 9"),
    ("trial_params", "param_value", "{column} * 0.5"),
    ("trial_params", "param_name", "{column} || 'x'"),
]

ENDED = ("COMPLETE", "PRUNED")
"""States of trials whose state says something that an outcome of ours says, too."""


@pytest.mark.parametrize(("table", "column", "way"), DIGITS, ids=[f"{table}.{column}" for table, column, _ in DIGITS])
@pytest.mark.parametrize("which", ["MIN", "MAX"])
def test_no_trial_goes_on_by_a_number_that_nobody_wrote(
    killed: Study, table: str, column: str, way: str, which: str
) -> None:
    """One row is changed, of an early or of a late trial; the command says which trial's, and changes nothing."""
    study = killed.copy()
    where = f"rowid = (SELECT {which}(rowid) FROM {table})"
    if column == "state":
        where = f"trial_id = (SELECT {which}(trial_id) FROM trials WHERE state IN {ENDED})"
    assert study.rewrite(f"UPDATE {table} SET {column} = {way.format(column=column)} WHERE {where}") == 1
    ended = study.run()
    assert ended.code == ExitCode.DAMAGED, ended.output
    assert "Traceback" not in ended.output
    assert "in Optuna's tables" in ended.output
    assert "Trial " in ended.output
