"""Optuna's tables and ours, compared when a study is opened, on every database."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, MetaData, Table, delete, insert, select, text

from tests.plain_optuna import optuna_trials
from tests.unit.study.studies import LR, PRUNED, Desk, complete, opened
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


DAMAGE_OF_A_PRUNED_ONE = {
    "trial_values": (
        "UPDATE {rows} SET value = NULL",
        "UPDATE {rows} SET value = value + 1",
        "UPDATE {rows} SET value_type = 'INF_NEG'",
        "UPDATE {rows} SET value = NULL, value_type = 'INF_POS'",
        "UPDATE {rows} SET objective = 1",
        "UPDATE {rows} SET trial_id = {other}",
        "DELETE FROM {rows}",
    ),
    "trial_intermediate_values": (
        "UPDATE {rows} SET intermediate_value = NULL",
        "UPDATE {rows} SET intermediate_value = intermediate_value + 1",
        "UPDATE {rows} SET intermediate_value_type = 'INF_POS'",
        "UPDATE {rows} SET intermediate_value = NULL, intermediate_value_type = 'NAN'",
        "UPDATE {rows} SET step = step + 2",
        "UPDATE {rows} SET trial_id = {other}",
        "DELETE FROM {rows}",
    ),
}
"""Every column but the row's own number, which nothing refers to."""


@contextmanager
def put_back(connection: Connection, name: str) -> Iterator[None]:
    """Bring a table's rows back when the block ends."""
    table = Table(name, MetaData(), autoload_with=connection)
    rows = [dict(row) for row in connection.execute(select(table)).mappings()]
    connection.commit()
    yield
    connection.execute(delete(table))
    connection.execute(insert(table), rows)
    connection.commit()


@pytest.mark.parametrize("table", DAMAGE_OF_A_PRUNED_ONE)
def test_half_a_value_of_a_pruned_trial_is_damage(table: str, database_url: str) -> None:
    """Its value is its last report: gone, another, of another kind, or another trial's, it is noticed."""
    with opened(database_url) as study:
        desk = Desk(study)
        desk.run(PRUNED, [1.0, 2.0])
        desk.run(PRUNED)
        pruned, other = (trial._trial_id for trial in optuna_trials(database_url, "s"))
    unnoticed = []
    with opened(database_url) as study, study.engine.connect() as rows:
        for statement in DAMAGE_OF_A_PRUNED_ONE[table]:
            for row in ("step = 1", "step = 2") if "intermediate" in table else ("objective = 0",):
                with put_back(rows, table):
                    damage = statement.format(rows=table, other=other) + f" WHERE trial_id = {pruned} AND {row}"
                    rows.execute(text(damage))
                    rows.commit()
                    try:
                        with opened(database_url):
                            unnoticed.append(damage)
                    except DamagedError as error:
                        assert "in Optuna's tables" in str(error)  # noqa: PT017 - what is not raised is listed
    assert not unnoticed
    with opened(database_url):
        pass


def test_a_report_of_a_trial_at_work_that_nobody_made_is_damage(database_url: str) -> None:
    """Its pruner would judge it by that one; one that is gone is written again by whoever goes on."""
    with opened(database_url) as study:
        desk = Desk(study)
        desk.report(desk.claim(), 1.0, 2.0)
        with writing(study.engine) as connection:
            connection.execute(text("DELETE FROM trial_intermediate_values WHERE step = 1"))
        with opened(database_url), writing(study.engine) as connection:
            connection.execute(text("UPDATE trial_intermediate_values SET step = 3"))
    with pytest.raises(DamagedError, match="virtual epoch 3, of which there is no report"), opened(database_url):
        pass


def test_a_trial_that_diverged_and_one_that_another_program_has_pruned_are_whole(database_url: str) -> None:
    """Optuna gets finite reports only, and none once a trial has ended there."""
    with opened(database_url) as study:
        desk = Desk(study)
        desk.run(PRUNED, [1.0, math.nan])
        claim = desk.claim()
        desk.ledger.draw(claim)
        desk.report(claim, 1.0)
        with writing(study.engine) as connection:
            connection.execute(text("UPDATE trials SET state = 'PRUNED' WHERE number = 1"))
        desk.report(claim, 2.0)
        desk.ledger.finish(claim, PRUNED)
        desk.ledger.close(claim)
        assert desk.phases() == ["told", "told", "free"]
    with opened(database_url):
        pruned = optuna_trials(database_url, "s")
    assert [(trial.value, trial.intermediate_values) for trial in pruned] == [(1.0, {1: 1.0}), (None, {1: 1.0})]
