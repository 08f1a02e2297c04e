"""Optuna's tables and ours, compared when a study is opened, on every database."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.unit.study.studies import LR, Desk, complete, opened
from tunesafe.errors import DamagedError
from tunesafe.store.engine import writing

DAMAGE = {
    "trial_values": "UPDATE trial_values SET value = value / 2",
    "trial_intermediate_values": "UPDATE trial_intermediate_values SET intermediate_value = 7.5",
    "trial_params": "UPDATE trial_params SET param_value = param_value / 2",
    "distributions": "UPDATE trial_params SET distribution_json = REPLACE(distribution_json, 'name', 'nome')",
    "trials": "UPDATE trials SET number = number + 5",
    "states": "UPDATE trials SET state = 'FAIL'",
}


@pytest.mark.parametrize("table", DAMAGE)
def test_what_optuna_has_and_nobody_wrote_is_damage(table: str, database_url: str) -> None:
    """Before anything is trained by it; the sound study opens."""
    with opened(database_url) as study:
        Desk(study).run(complete(1.0), [1.0])
    with opened(database_url) as study, writing(study.engine) as connection:
        connection.execute(text(DAMAGE[table]))
    with pytest.raises(DamagedError, match="in Optuna's tables"), opened(database_url):
        pass


def test_a_value_drawn_before_parameters_changed_is_none(database_url: str) -> None:
    """A death in mid-draw, then an accepted change: some are drawn again, and Optuna keeps what it had."""
    with opened(database_url) as study:
        Desk(study).run(complete(1.0), [1.0])
    wider = {"lr": {**LR, "high": LR["high"] * 2}}
    with opened(database_url, accept=True, parameters=wider) as study, writing(study.engine) as connection:
        connection.execute(text(DAMAGE["trial_params"]))
    with opened(database_url, parameters=wider) as study:
        assert len(Desk(study).records(0)) == 1
