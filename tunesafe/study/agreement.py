"""Whether Optuna's tables still say what our sealed rows say, when a study is opened.

Optuna keeps no hashes: a digit that a failing disk has changed there would be another trial's best
value, another verdict, another draw, and nobody would know. What both sides hold of every trial is
compared: its parameters, its reports, how it ended and with which value. Ours can be behind or ahead
by a report while others work; what only one side has is no difference.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from optuna.trial import FrozenTrial
from sqlalchemy import Engine

from tunesafe.contracts import Ending, TrialPhase
from tunesafe.errors import DamagedError
from tunesafe.store import records
from tunesafe.store.decisions import Decided, decided
from tunesafe.store.engine import reading
from tunesafe.study.endings import STATES
from tunesafe.study.fenced import FencedStorage

__all__ = ["check_agreement"]

_LEAST = sys.float_info.min


def check_agreement(engine: Engine, storage: FencedStorage, study_id: int, uuid: str) -> None:
    """Compare all trials.

    Args:
        engine: Our connections.
        storage: Optuna's.
        study_id: Optuna's id of the study.
        uuid: Ours.

    Raises:
        DamagedError: If a row of Optuna's is not what was written, or one of ours says itself that it is not.
    """
    if not _first_difference(engine, storage, study_id, uuid):
        return
    # Others may be at work: what is different is looked at once more, as it is now.
    found = _first_difference(engine, storage, study_id, uuid, afresh=True)
    if found:
        raise DamagedError(
            f"{found}, in Optuna's tables: a row there is damaged, or a program other than tunesafe has changed it. No "
            "trial goes on by it, and all other rows are as they were. Restore the database from a backup, or begin "
            "under a new name."
        )


def _first_difference(engine: Engine, storage: FencedStorage, study_id: int, uuid: str, *, afresh: bool = False) -> str:
    with reading(engine) as connection:  # before Optuna's, so that what ours says is there already
        rows = decided(connection, uuid)
        reports = records.metrics_texts(connection, uuid)
    trials = {trial.number: trial for trial in storage.stored_trials(study_id, afresh=afresh)}
    for row in rows:
        trial = trials.get(row.number)
        found = "is not there" if trial is None else _difference(row, trial, reports.get(row.number, {}))
        if found:
            return f"Trial {row.number} {found}"
    return ""


def _difference(row: Decided, trial: FrozenTrial, reports: Mapping[int, str]) -> str:
    """What Optuna says of a trial that cannot be; empty if all of it can."""
    if row.params is not None:
        for name, value in trial.params.items():
            if name not in row.params or not _same(row.params[name], value):
                return f"has {name} = {value!r} instead of {row.params.get(name, 'none')!r}"
    for step, value in trial.intermediate_values.items():
        # Among all metrics: which of them is the objective may have changed since.
        own = records.numbers_in(reports[step], value) if step in reports else []
        if own and not any(_same(each, value) for each in own):
            return f"has {value!r} for virtual epoch {step}, which it did not report"
    if row.phase is not TrialPhase.TOLD or row.outcome is None:
        return ""
    if trial.state is not STATES[row.outcome.ending]:
        return f"is {trial.state.name} instead of {STATES[row.outcome.ending].name}"
    value = row.outcome.value if row.outcome.ending is Ending.COMPLETE else None
    return "" if value is None or _same(value, trial.value) else f"has the value {trial.value!r} instead of {value!r}"


def _same(own: object, stored: object) -> bool:
    """Whether two values are one, after Optuna has put it into a column.

    A whole number is a float there, beyond 2**53 not to the last digit; and not every server keeps what is
    smaller than a float's least normal number.

    Example:
        >>> _same(2**62 + 1, 2**62), _same(0.1, 0.2), _same("sgd", "sgd"), _same(None, 1.0)
        (True, False, True, False)
    """
    if isinstance(own, (int, float)) and isinstance(stored, (int, float)):
        return own == stored or abs(float(own) - float(stored)) <= _LEAST
    return own == stored
