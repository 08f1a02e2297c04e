"""Optuna on trial: its samplers and pruners run, and nothing they write is written.

A pruner writes before it decides, a sampler while it draws. To record a decision before
any of it shows, the algorithm is rehearsed: it sees a copy of the study in which one trial
is as the caller gives it, its attribute writes are kept (and visible to it), and any other
write is a bug. The caller records the writes with the decision and applies them afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any, NoReturn

import optuna
from optuna import pruners
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tunesafe.contracts import AttributeWrite

__all__ = ["Rehearsal", "RehearsalStorage", "root_study"]


def root_study(study: optuna.Study) -> optuna.Study:
    """The study behind the view of one Hyperband bracket that Optuna hands to samplers; else the study itself."""
    root = getattr(study, "_study", study)
    assert isinstance(root, optuna.Study)
    return root


class RehearsalStorage(BaseStorage):
    """A storage seen through one trial: reads fall through, attribute writes stay here.

    Args:
        storage: The real one; it is only read.
        trial: What the storage shows in place of that trial; not changed.
    """

    def __init__(self, storage: BaseStorage, trial: FrozenTrial) -> None:
        self._storage = storage
        self._trial = trial
        self.trial_writes: list[AttributeWrite] = []
        self.study_writes: list[AttributeWrite] = []

    @property
    def trial(self) -> FrozenTrial:
        """A fresh copy of the trial as it stands, with the attributes written so far."""
        trial = copy.copy(self._trial)
        trial.system_attrs = {**self._trial.system_attrs, **{w.key: w.value for w in self.trial_writes}}
        return trial

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep the write."""
        assert trial_id == self._trial._trial_id, f"{key!r} was to be written to another trial"
        self.trial_writes.append(AttributeWrite(key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep the write."""
        self.study_writes.append(AttributeWrite(key, value))

    def _refused(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a sampler or pruner wrote more than attributes; nothing of it was stored")

    create_new_study = _refused
    delete_study = _refused
    set_study_user_attr = _refused
    create_new_trial = _refused
    set_trial_param = _refused
    set_trial_state_values = _refused
    set_trial_intermediate_value = _refused
    set_trial_user_attr = _refused

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The rehearsed trial, or another as stored."""
        if trial_id == self._trial._trial_id:
            return copy.deepcopy(self.trial)
        return self._storage.get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials as stored, with the rehearsed one in its place."""
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        rehearsed = copy.deepcopy(self.trial) if deepcopy else self.trial
        return [rehearsed if t._trial_id == rehearsed._trial_id else t for t in trials]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As stored, with the attributes written so far."""
        return {**self._storage.get_study_system_attrs(study_id), **{w.key: w.value for w in self.study_writes}}

    # The rest falls through. The best trial is a finished one, and on a database a query of
    # its own whose ties must break as without a rehearsal.
    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """As stored."""
        return self._storage.get_best_trial(study_id)

    def get_study_id_from_name(self, study_name: str) -> int:
        """As stored."""
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """As stored."""
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """As stored."""
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As stored."""
        return self._storage.get_study_user_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        """As stored."""
        return self._storage.get_all_studies()


class _RehearsedStudy(optuna.Study):
    """A study on another storage, made without asking the database; stopping it stops nothing."""

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        self.__setstate__({**study.__getstate__(), "_storage": storage})
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class Rehearsal:
    """One run of a sampler or pruner in which nothing is written.

    Args:
        study: The study, or Optuna's view of one of its Hyperband brackets.
        trial: The trial it is about, as the algorithm shall see it.
    """

    def __init__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        root = root_study(study)
        self._storage = RehearsalStorage(root._storage, trial)
        self.study: _RehearsedStudy = _RehearsedStudy(root, self._storage)
        """What a pruner is given in place of the study."""

    @property
    def bracket(self) -> optuna.Study:
        """What a sampler is given in place of the study: the trial's Hyperband bracket, if there are any."""
        return pruners._filter_study(self.study, self._storage.trial)

    @property
    def trial(self) -> FrozenTrial:
        """A copy of the trial with what has been written to it."""
        return self._storage.trial

    @property
    def trial_writes(self) -> tuple[AttributeWrite, ...]:
        """Attributes of the trial that would have been written, in order."""
        return tuple(self._storage.trial_writes)

    @property
    def study_writes(self) -> tuple[AttributeWrite, ...]:
        """Attributes of the study that would have been written, in order."""
        return tuple(self._storage.study_writes)

    @property
    def stopped(self) -> bool:
        """Whether the algorithm called ``study.stop()``."""
        return self.study.stopped
