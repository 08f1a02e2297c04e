"""Removing the checkpoints nobody asked to keep, while the study runs and afterwards.

Which ones is ``store.retention``'s pure decision; here is only what it has to be shown: the
trial at hand, and, when it has ended, the trials that may have lost their place among the
study's best to it; or, for who prunes by hand, every trial that is over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from tunesafe.contracts import CheckpointInfo, Position, Record, TrialPhase, TrialRow
from tunesafe.errors import DamagedError
from tunesafe.spec import StudySpec
from tunesafe.state.weights import weights_in
from tunesafe.store import claims, records, tallies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import reading
from tunesafe.store.retention import Keep, TrialKeep, surplus, to_be_thinned
from tunesafe.store.saving import Surplus
from tunesafe.study.opening import OpenStudy
from tunesafe.study.patience import patiently

__all__ = ["Retainer", "Unneeded", "unneeded_of_ended"]


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
        unwanted = surplus(infos, trials, self._keep, self._spec.objective.direction)
        told = {row.number: trials[row.number] for row in rows if row and row.phase is TrialPhase.TOLD}
        for info in to_be_thinned([i for i in infos if i.checkpoint_id not in unwanted], told, self._keep):
            with suppress(DamagedError, RemovedError):  # a damaged one is left as it is: whoever reads it is told
                self._checkpoints.keep_weights(info, weights_in)
        self._checkpoints.remove(unwanted, lambda connection: claims.mark_tidied(connection, self._uuid, number))

    def tidy_up(self) -> None:
        """Do what is left to do for trials whose worker died between their end and ``after_end``."""
        for number in self._patience(self._untidied):
            self.after_end(number)

    def _untidied(self) -> list[int]:
        with reading(self._engine) as connection:
            return claims.untidied(connection, self._uuid)


@dataclass(frozen=True, slots=True)
class Unneeded:
    """What trials that are over need not keep.

    Args:
        surplus: Whole checkpoints.
        thinnable: All but the weights of these.
    """

    surplus: tuple[CheckpointInfo, ...]
    thinnable: tuple[CheckpointInfo, ...]


def unneeded_of_ended(engine: Engine, uuid: str, spec: StudySpec, checkpoints: CheckpointStore) -> Unneeded:
    """What the study does not ask to keep of trials that are over; of all others nothing.

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
    told = {row.number: trials[row.number] for row in rows if row.phase is TrialPhase.TOLD}
    infos = [info for info in infos if info.number in told]
    unwanted = surplus(infos, trials, keep, direction)
    kept = [info for info in infos if info.checkpoint_id not in unwanted]
    gone = (info for info in infos if info.checkpoint_id in unwanted)
    return Unneeded(tuple(gone), tuple(to_be_thinned(kept, told, keep)))


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
    return Keep(
        keep.last,
        keep.best,
        keep.study_best,
        select_best=spec.objective.select == "best",
        every=keep.every,
        weights_only=keep.finished == "weights",
    )
