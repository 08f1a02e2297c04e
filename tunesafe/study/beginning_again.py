"""Trials that an accepted change of the study file finds on their way: what of them begins again.

Where the budget or the objective changes, virtual epochs, values and verdicts mean something else, so
neither a record nor a checkpoint of a trial in mid-training can be continued; its parameters stay.
Where what trials are drawn by changes, a trial in mid-draw has no parameters yet: the rest of them
would not go with those that are there, nor Optuna's table with what is sealed. Numbers stay, and so do
trials that have ended. All of it happens in the transaction that accepts the change.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from tunesafe.contracts import Event
from tunesafe.store import checkpoint_rows, claims, records
from tunesafe.store.events import append_event

__all__ = ["begin_again", "draw_again"]

_STUDIES = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
_TRIALS = sa.table("trials", sa.column("trial_id"), sa.column("study_id"), sa.column("number"))
_PARAMS = sa.table("trial_params", sa.column("trial_id"))
_VALUES = sa.table("trial_intermediate_values", sa.column("trial_id"))
_ATTRIBUTES = sa.table("trial_system_attributes", sa.column("trial_id"), sa.column("key"))


def begin_again(connection: Connection, uuid: str, name: str) -> list[int]:
    """Forget what trials without an end have reported and saved, here and in Optuna.

    Whoever works on one of them loses its lease, also where nothing is durable yet: what it holds
    is of the old study.

    Args:
        connection: In a write transaction.
        uuid: The study.
        name: Of the study in Optuna's tables.

    Returns:
        The numbers of the trials that had come some way.
    """
    numbers = []
    for row in claims.unended(connection, uuid):
        # First of all, for it takes the row's lock: who was about to commit has, and nobody else will.
        if not claims.restart(connection, uuid, row.number):
            continue  # it has ended meanwhile
        known = records.records_of(connection, uuid, row.number)
        saved = checkpoint_rows.forget_trial(connection, uuid, row.number)
        if not known and not saved:
            continue
        numbers.append(row.number)
        records.forget_trial(connection, uuid, row.number)
        trial = _optuna_id(name, row.number)
        connection.execute(sa.delete(_VALUES).where(_VALUES.c.trial_id == trial))
        keys = sorted({write.key for record in known for write in record.writes})
        connection.execute(sa.delete(_ATTRIBUTES).where(_ATTRIBUTES.c.trial_id == trial, _ATTRIBUTES.c.key.in_(keys)))
        details = {"examples_seen": row.examples_seen, "reports": len(known)}
        append_event(connection, uuid, Event("begun_again", row.number, details), again=True)
    return numbers


def draw_again(connection: Connection, uuid: str, name: str) -> None:
    """Forget what Optuna has of trials whose parameters are not sealed: the parameters so far, and what led to them.

    Whoever draws them loses its lease.

    Args:
        connection: In a write transaction.
        uuid: The study.
        name: Of the study in Optuna's tables.
    """
    for row in claims.unended(connection, uuid):
        if row.params is None and claims.restart(connection, uuid, row.number, unsealed_only=True):
            trial = _optuna_id(name, row.number)
            for table in (_PARAMS, _ATTRIBUTES):  # nobody but its sampler has written to it
                connection.execute(sa.delete(table).where(table.c.trial_id == trial))


def _optuna_id(name: str, number: int) -> sa.ScalarSelect[int]:
    query = sa.select(_TRIALS.c.trial_id).join_from(_TRIALS, _STUDIES, _TRIALS.c.study_id == _STUDIES.c.study_id)
    return query.where(_STUDIES.c.study_name == name, _TRIALS.c.number == number).scalar_subquery()
