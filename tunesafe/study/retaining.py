"""Removing the checkpoints nobody asked to keep, while the study runs.

Which ones is ``store.retention``'s pure decision; here is only what it has to be shown: the
trial at hand, and, when it has ended, the trials that may have lost their place among the
study's best to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Connection

from tunesafe.contracts import Position, Record, TrialPhase
from tunesafe.spec import StudySpec
from tunesafe.store import claims, records, tallies
from tunesafe.store.checkpoints import CheckpointStore, Surplus
from tunesafe.store.engine import reading
from tunesafe.store.retention import Keep, TrialKeep, surplus
from tunesafe.study.opening import OpenStudy
from tunesafe.study.patience import patiently

__all__ = ["Retainer"]


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
        trial = TrialKeep(None, objectives=self._objectives(history))
        return lambda infos: surplus(infos, {number: trial}, self._keep, self._spec.objective.direction)

    @patiently
    def after_end(self, number: int) -> None:
        """A trial has been told: drop its surplus, and that of the trials it displaced."""
        with reading(self._engine) as connection:
            best = tallies.best_numbers(
                connection, self._uuid, self._spec.objective.direction, self._keep.study_best + 1
            )
            trials = {n: self._trial_keep(connection, n) for n in {number, *best}}
        infos = [info for number in trials for info in self._checkpoints.infos(number)]
        self._checkpoints.remove(surplus(infos, trials, self._keep, self._spec.objective.direction))

    def _trial_keep(self, connection: Connection, number: int) -> TrialKeep:
        row = claims.trial_row(connection, self._uuid, number)
        if row is None or row.outcome is None or row.phase is TrialPhase.HELD:
            return TrialKeep(None)
        history = records.records_of(connection, self._uuid, number)
        outcome = row.outcome
        return TrialKeep(outcome.ending, outcome.value, outcome.selected_virtual_epoch, self._objectives(history))

    def _objectives(self, history: Sequence[Record]) -> dict[Position, float]:
        return {
            Position(record.report.examples_seen, record.report.virtual_epoch): record.report.metrics.get(
                self._spec.objective.metric, math.nan
            )
            for record in history
        }


def _keep_of(spec: StudySpec) -> Keep:
    keep = spec.checkpoint.keep
    return Keep(keep.last, keep.best, keep.study_best, select_best=spec.objective.select == "best")
