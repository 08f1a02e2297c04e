"""Removing the checkpoints nobody asked to keep, while the study runs and afterwards.

Which ones is ``store.retention``'s pure decision; here is only what it has to be shown: the
trial at hand, and, when it has ended, the trials that may have lost their place among the
study's best to it; or, for who prunes by hand, every trial that is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Engine

from tunesafe.contracts import CheckpointInfo, Notice, Record, TrialPhase
from tunesafe.errors import DamagedError
from tunesafe.spec import StudySpec
from tunesafe.state.weights import weights_in
from tunesafe.store import claims, tallies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.engine import reading
from tunesafe.store.retention import TrialKeep, surplus, to_be_thinned
from tunesafe.store.saving import Surplus
from tunesafe.store.trial_rows import trial_row, trial_rows
from tunesafe.study.keeping import keep_of, objectives_of, trial_keep
from tunesafe.study.limiting import DiskLimit, Live
from tunesafe.study.opening import OpenStudy
from tunesafe.study.patience import Patience, patiently

__all__ = ["Retainer", "Unneeded", "unneeded_of_ended"]


class Retainer:
    """Keeps what the study file asks for, and removes the rest.

    Args:
        opened: The study.
        checkpoints: Its checkpoints.
        watch: Told of what is given up for want of room.
    """

    def __init__(
        self, opened: OpenStudy, checkpoints: CheckpointStore, watch: Callable[[Notice], None] = lambda notice: None
    ) -> None:
        self._engine, self._uuid, self._spec = opened.engine, opened.row.uuid, opened.spec
        self._checkpoints, self._patience = checkpoints, opened.patience
        self._keep = keep_of(opened.spec)
        self._limit = DiskLimit(opened, checkpoints, watch)

    def of_live(self, number: int, history: Sequence[Record]) -> Surplus:
        """What a live trial will not fall back on once it has a new checkpoint, for ``CheckpointStore.save``."""
        trial = TrialKeep(None, objectives=objectives_of(history, self._spec))
        return lambda infos: surplus(infos, {number: trial}, self._keep, self._spec.objective.direction)

    def after_save(self, patience: Patience, number: int, fence: int, history: Sequence[Record]) -> None:
        """A live trial has a new checkpoint: hold the study's ``disk_limit``; in the thread of that patience."""
        self._limit.hold(patience, Live(number, fence, history))

    def after_end(self, number: int) -> None:
        """A trial has been told: drop its surplus, and that of the trials it displaced; hold ``disk_limit``."""
        self._tidy(number)
        self._limit.hold(self._patience)

    @patiently
    def _tidy(self, number: int) -> None:
        with reading(self._engine) as connection:
            best = tallies.best_numbers(
                connection, self._uuid, self._spec.objective.direction, self._keep.study_best + 1
            )
            rows = [trial_row(connection, self._uuid, n) for n in {number, *best}]
            trials = {row.number: trial_keep(connection, self._uuid, self._spec, row) for row in rows if row}
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
            self._tidy(number)
        self._limit.hold(self._patience)

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
    keep, direction = keep_of(spec), spec.objective.direction
    infos = checkpoints.infos()
    with reading(engine) as connection:
        best = tallies.best_numbers(connection, uuid, direction, keep.study_best)
        shown = {info.number for info in infos}.union(best)
        rows = [row for row in trial_rows(connection, uuid) if row.number in shown]
        trials = {row.number: trial_keep(connection, uuid, spec, row) for row in rows}
    told = {row.number: trials[row.number] for row in rows if row.phase is TrialPhase.TOLD}
    infos = [info for info in infos if info.number in told]
    unwanted = surplus(infos, trials, keep, direction)
    kept = [info for info in infos if info.checkpoint_id not in unwanted]
    gone = (info for info in infos if info.checkpoint_id in unwanted)
    return Unneeded(tuple(gone), tuple(to_be_thinned(kept, told, keep)))
