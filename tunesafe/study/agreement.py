"""Whether Optuna's tables still say what our sealed rows say, when a study is opened.

Optuna keeps no hashes: a digit that a failing disk has changed there would be another trial's best
value, another verdict, another draw, and nobody would know. What both sides hold of every trial is
compared: its parameters, its reports, how it ended and with which value. What Optuna lacks of a trial
that has not been told is no difference: whoever goes on with it writes it again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from optuna.trial import FrozenTrial
from sqlalchemy import Engine

from tunesafe.contracts import Ending, Outcome, Parameter, TrialPhase
from tunesafe.errors import DamagedError
from tunesafe.store import records
from tunesafe.store.decisions import Decided, decided
from tunesafe.store.engine import reading
from tunesafe.study.endings import STATES, TOLD_WITH
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
            f"{found}, in Optuna's tables: a row is damaged, or a program other than tunesafe has changed it. No "
            "trial goes on by it, and all other rows are as they were. Restore the database from a backup, or begin "
            "under a new name."
        )


def _first_difference(engine: Engine, storage: FencedStorage, study_id: int, uuid: str, *, afresh: bool = False) -> str:
    # Whatever stands in Optuna's tables was in ours before or at once: ends are read before them, reports after.
    with reading(engine) as connection:
        rows = decided(connection, uuid)
    trials = {trial.number: trial for trial in storage.stored_trials(study_id, afresh=afresh)}
    with reading(engine) as connection:
        reports = records.metrics_texts(connection, uuid)
    for row in rows:
        trial = trials.get(row.number)
        found = "is not there" if trial is None else _difference(row, trial, reports.get(row.number, {}))
        if found:
            return f"Trial {row.number} {found}"
    return ""


def _difference(row: Decided, trial: FrozenTrial, reports: Mapping[int, str]) -> str:
    """What Optuna says of a trial that cannot be; empty if all of it can."""
    found = _drawn_otherwise(row.params, trial) or _reported_otherwise(trial, reports)
    if found or row.phase is not TrialPhase.TOLD or row.outcome is None:
        return found
    return _ended_otherwise(row.outcome, trial) or (_lost(row.outcome, trial, reports) if _told_by_us(trial) else "")


def _drawn_otherwise(params: Mapping[str, Parameter] | None, trial: FrozenTrial) -> str:
    if params is not None:
        for name, value in trial.params.items():
            if name not in params or not _same(params[name], value):
                return f"has {name} = {value!r} instead of {params.get(name, 'none')!r}"
    return ""


def _reported_otherwise(trial: FrozenTrial, reports: Mapping[int, str]) -> str:
    for step, value in trial.intermediate_values.items():
        if step not in reports:
            return f"has {value!r} for virtual epoch {step}, of which there is no report"
        # Among all metrics: which of them is the objective may have changed since.
        own = records.numbers_in(reports[step], value)
        if own and not any(_same(each, value) for each in own):
            return f"has {value!r} for virtual epoch {step}, which it did not report"
    return ""


def _ended_otherwise(outcome: Outcome, trial: FrozenTrial) -> str:
    if trial.state is not STATES[outcome.ending]:
        return f"is {trial.state.name} instead of {STATES[outcome.ending].name}"
    value = outcome.value if outcome.ending is Ending.COMPLETE else None
    return "" if value is None or _same(value, trial.value) else f"has the value {trial.value!r} instead of {value!r}"


def _told_by_us(trial: FrozenTrial) -> bool:
    """Whether no other program has ended a trial: one that has may stop reports on their way, and give any value."""
    return TOLD_WITH in trial.user_attrs


def _lost(outcome: Outcome, trial: FrozenTrial, reports: Mapping[int, str]) -> str:
    """What Optuna has no more of a trial that we told it: a report, or the value of a pruned one, its last report."""
    for step, text in reports.items():
        if step in trial.intermediate_values:
            continue
        # One that is not finite Optuna does not get, and which metric was the objective then is not known.
        own = records.numbers_in(text)
        if own and all(map(math.isfinite, own)):
            return f"has no value for virtual epoch {step}, which it reported"
    if outcome.ending is not Ending.PRUNED or trial.last_step is None:
        return ""
    last = trial.intermediate_values[trial.last_step]
    return "" if _same(last, trial.value) else f"has the value {trial.value!r} instead of {last!r}, its last report"


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
