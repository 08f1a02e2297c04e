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


def test_parameters_are_compared_after_they_have_changed_too(database_url: str) -> None:
    """Every trial with its own: what it was drawn by then is what both sides have."""
    wider = {"lr": {**LR, "high": LR["high"] * 2}}
    with opened(database_url) as study:
        Desk(study).run(complete(1.0), [1.0])
    with opened(database_url, accept=True, parameters=wider) as study:
        Desk(study).run(complete(1.0), [1.0])
    with opened(database_url, parameters=wider) as study, writing(study.engine) as connection:
        connection.execute(text(DAMAGE["trial_params"]))
    with pytest.raises(DamagedError, match="in Optuna's tables"), opened(database_url, parameters=wider):
        pass
