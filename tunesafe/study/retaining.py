"""Removing the checkpoints nobody asked to keep, while the study runs and afterwards.

Which ones is ``store.retention``'s pure decision; here is only what it has to be shown: the
trial at hand, and, when it has ended, the trials that may have lost their place among the
study's best to it; or, for who prunes by hand, every trial that is over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from tunesafe.contracts import CheckpointInfo, Position, Record, TrialPhase, TrialRow
from tunesafe.spec import StudySpec
from tunesafe.store import claims, records, tallies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import reading
from tunesafe.store.retention import Keep, TrialKeep, surplus
from tunesafe.store.saving import Surplus
from tunesafe.study.opening import OpenStudy
from tunesafe.study.patience import patiently

__all__ = ["Retainer", "surplus_of_ended"]


class Retainer:
    """Keeps what the study file asks for, and removes the rest.

    Args:
        opened: The study.
        checkpoints: Its checkpoints.
    """

    def __init__(self, opened: OpenStudy, checkpoints: CheckpointStore) -> None:
        self._engine, self._uuid, self._spec = opened.engine, opened.row.uuid, opened.spec
        self._checkpoints, self._patience = checkpoints, opened.patience
        self._keep = _keep_of(opened.spec)

    def of_live(self, number: int, history: Sequence[Record]) -> Surplus:
        """What a live trial will not fall back on once it has a new checkpoint, for ``CheckpointStore.save``."""
        trial = TrialKeep(None, objectives=_objectives(history, self._spec))
        return lambda infos: surplus(infos, {number: trial}, self._keep, self._spec.objective.direction)

    @patiently
    def after_end(self, number: int) -> None:
        """A trial has been told: drop its surplus, and that of the trials it displaced."""
        with reading(self._engine) as connection:
            best = tallies.best_numbers(
                connection, self._uuid, self._spec.objective.direction, self._keep.study_best + 1
            )
            rows = [claims.trial_row(connection, self._uuid, n) for n in {number, *best}]
            trials = {row.number: _trial_keep(connection, self._uuid, self._spec, row) for row in rows if row}
        infos = [info for number in trials for info in self._checkpoints.infos(number)]
        self._checkpoints.remove(surplus(infos, trials, self._keep, self._spec.objective.direction))


def surplus_of_ended(engine: Engine, uuid: str, spec: StudySpec, checkpoints: CheckpointStore) -> list[CheckpointInfo]:
    """The checkpoints of trials that are over which the study does not ask to keep; of all others none.

    What this names may be removed at any later time: a trial that is over stays so, and one that
    has lost its place among the study's best does not get it back.
    """
    keep, direction = _keep_of(spec), spec.objective.direction
    infos = checkpoints.infos()
    with reading(engine) as connection:
        best = tallies.best_numbers(connection, uuid, direction, keep.study_best)
        shown = {info.number for info in infos}.union(best)
        rows = [row for row in claims.trial_rows(connection, uuid) if row.number in shown]
        trials = {row.number: _trial_keep(connection, uuid, spec, row) for row in rows}
    told = {row.number for row in rows if row.phase is TrialPhase.TOLD}
    unwanted = surplus([info for info in infos if info.number in told], trials, keep, direction)
    return [info for info in infos if info.checkpoint_id in unwanted]


def _trial_keep(connection: Connection, uuid: str, spec: StudySpec, row: TrialRow) -> TrialKeep:
    if row.outcome is None or row.phase is TrialPhase.HELD:
        return TrialKeep(None)
    outcome, history = row.outcome, records.records_of(connection, uuid, row.number)
    return TrialKeep(outcome.ending, outcome.value, outcome.selected_virtual_epoch, _objectives(history, spec))


def _objectives(history: Sequence[Record], spec: StudySpec) -> dict[Position, float]:
    return {
        Position(record.report.examples_seen, record.report.virtual_epoch): record.report.metrics.get(
            spec.objective.metric, math.nan
        )
        for record in history
    }


def _keep_of(spec: StudySpec) -> Keep:
    keep = spec.checkpoint.keep
    return Keep(keep.last, keep.best, keep.study_best, select_best=spec.objective.select == "best")
