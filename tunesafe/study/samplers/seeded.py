"""Suggestions that a restart cannot change.

Optuna's samplers keep a random generator, and some keep more, from trial to trial; a process
that dies takes it along. ``SeededSampler`` makes a fresh sampler for every trial, seeded from
the study's seed and the trial's number, and another for every parameter drawn by itself. The
joint draw is rehearsed, memoised in the trial and only then used, so that whoever continues
the trial finds it. Suggestion n depends on (seed, n, the trials it may see) and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.pruners import HyperbandPruner
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, PartialFixedSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from tunesafe.failpoints import failpoint
from tunesafe.rehearsal import Rehearsal, root_study
from tunesafe.seeds import derive
from tunesafe.study.samplers.memo import Draw

__all__ = ["Recipe", "SeededSampler"]

Recipe = Callable[[int], BaseSampler]
"""Makes a sampler from the seed of one draw."""

_COMMON = ("_search_space", "_intersection_search_space")
"""Where Optuna's samplers keep the parameters that all finished trials have in common."""


class SeededSampler(BaseSampler):
    """Any sampler of Optuna's, made fresh for every trial.

    Works with any ``optuna.Study``, its ``optimize`` included.

    Args:
        recipe: Makes the sampler for one draw.
        seed: The study's seed.
        search_space: The parameters as the study file has them now; a memoised value that no
            longer fits its parameter is drawn again.
    """

    def __init__(self, recipe: Recipe, *, seed: int, search_space: Mapping[str, BaseDistribution]) -> None:
        self._recipe = recipe
        self._seed = seed
        self._search_space = search_space
        self._lock = threading.Lock()
        self._current: dict[tuple[int, int], BaseSampler] = {}
        self._common: dict[int, IntersectionSearchSpace] = {}
        self.exhausted = False
        """Whether a finite sampler has said, after a trial, that every point has been tried."""

    def __repr__(self) -> str:
        return f"SeededSampler({type(self._recipe(0)).__name__}, seed={self._seed})"

    def _fresh(self, number: int, *name: str) -> BaseSampler:
        return self._recipe(derive(self._seed, "sampler", number, *name))

    def _sampler(self, study: optuna.Study, trial: FrozenTrial) -> BaseSampler:
        """The sampler of one trial: grouped samplers keep the space they inferred until they draw."""
        with self._lock:
            key = (study._study_id, trial.number)
            if key not in self._current:
                self._current[key] = self._fresh(trial.number)
            return self._current[key]

    def reseed_rng(self) -> None:
        """Does nothing: Optuna would take a seed from the operating system."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Also called when a trial is taken up again; what it writes is the same again."""
        _prepare(study)
        with self._lock:  # a draw that the database interrupted begins anew, not where its generator stood
            self._current.pop((study._study_id, trial.number), None)
        self._sampler(study, trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space of the joint draw: as memoised if the trial has one, else inferred."""
        draw = Draw.read(trial.system_attrs)
        if draw is not None:
            return dict(draw.space)
        sampler = self._sampler(study, trial)
        with self._going_on(sampler, study):
            return sampler.infer_relative_search_space(study, trial)

    @contextmanager
    def _going_on(self, sampler: BaseSampler, study: optuna.Study) -> Iterator[None]:
        """Let a fresh sampler go on from the common parameters that the last one found among the finished trials.

        They are what it would find by itself, in a Hyperband bracket, too (Optuna looks at all trials for them);
        but comparing the parameters of thousands of trials anew takes longer than the draw.
        """
        name = next((n for n in _COMMON if isinstance(getattr(sampler, n, None), IntersectionSearchSpace)), None)
        if name is None:
            yield
            return
        with self._lock:
            found = self._common.get(study._study_id)
        if found is not None:
            setattr(sampler, name, copy(found))
        yield
        with self._lock:
            self._common[study._study_id] = copy(getattr(sampler, name))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The joint draw: as memoised if the trial has one, else drawn, memoised, then used."""
        draw = Draw.read(trial.system_attrs)
        storage = study._storage
        if draw is None:
            draw = self._rehearse(study, trial, search_space)
            failpoint("sample.memo")
            for write in draw.writes():
                storage.set_trial_system_attr(trial._trial_id, write.key, write.value)
            failpoint("sample.memoised")
        for write in draw.trial_writes:
            storage.set_trial_system_attr(trial._trial_id, write.key, write.value)
        for write in draw.study_writes:
            storage.set_study_system_attr(study._study_id, write.key, write.value)
        return {name: value for name, value in draw.params.items() if self._fits(name, draw.space[name])}

    def _rehearse(self, study: optuna.Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> Draw:
        rehearsal = Rehearsal(study, trial)
        params = self._sampler(study, trial).sample_relative(rehearsal.bracket, rehearsal.trial, space)
        # Through the internal form and back, as a value read from the memo would come.
        params = {name: space[name].to_external_repr(space[name].to_internal_repr(v)) for name, v in params.items()}
        return Draw(space, params, rehearsal.trial_writes, rehearsal.study_writes)

    def _fits(self, name: str, distribution: BaseDistribution) -> bool:
        try:
            check_distribution_compatibility(distribution, self._search_space.get(name, distribution))
        except ValueError:
            return False
        return True

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter by itself, whatever was drawn before it."""
        sampler = self._fresh(trial.number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the sampler see the end; a finite one that has tried every point sets ``exhausted``."""
        sampler = self._sampler(study, trial)
        with self._lock:
            self._current.pop((study._study_id, trial.number))
        if not _is_finite(sampler):
            sampler.after_trial(study, trial, state, values)
            return
        self.exhausted = _stops_after(sampler, study, trial, state, values)
        if self.exhausted and root_study(study)._thread_local.in_optimize_loop:
            study.stop()

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether a finite sampler has tried every point, found out from the trials; for a new process.

        Running trials count as not tried: wait for them, or cap the number of trials.
        """
        finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if finished and not self.exhausted:
            last = finished[-1]
            sampler = self._fresh(last.number)
            self.exhausted = _is_finite(sampler) and _stops_after(sampler, study, last, last.state, last.values)
        return self.exhausted


def _prepare(study: optuna.Study) -> None:
    """Bring a study object to where it is the same in a new process and in an old one."""
    root = root_study(study)
    root._thread_local.cached_all_trials = None
    pruner = root.pruner
    if isinstance(pruner, HyperbandPruner) and not pruner._pruners and pruner._max_resource != "auto":
        pruner._try_initialization(root)


def _is_finite(sampler: BaseSampler) -> bool:
    if isinstance(sampler, PartialFixedSampler):
        return _is_finite(sampler._base_sampler)
    return isinstance(sampler, GridSampler | BruteForceSampler)


def _stops_after(
    sampler: BaseSampler,
    study: optuna.Study,
    trial: FrozenTrial,
    state: TrialState,
    values: Sequence[float] | None,
) -> bool:
    """Whether the sampler would stop the study; outside ``optimize``, Optuna's stop is a RuntimeError."""
    rehearsal = Rehearsal(study, trial)
    sampler.after_trial(rehearsal.bracket, rehearsal.trial, state, values)
    return rehearsal.stopped
