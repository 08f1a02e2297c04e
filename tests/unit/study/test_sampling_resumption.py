"""A study whose process dies anywhere while sampling ends with the parameters of one that did not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner, _filter_study
from optuna.search_space import intersection
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import Trial, TrialState

from tunesafe.schedulers.pruning import build_pruner
from tunesafe.study.sampling import SeededSampler, build_sampler

optuna.logging.set_verbosity(optuna.logging.ERROR)

Space = Mapping[str, BaseDistribution]

MIXED: Space = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "width": IntDistribution(16, 256, step=16),
    "depth": IntDistribution(1, 8),
    "optimizer": CategoricalDistribution(["sgd", "adam", None]),
    "momentum": FloatDistribution(0.0, 0.99),  # only with sgd
    "fixed": IntDistribution(3, 3),
}
FINITE: Space = {
    "lr": FloatDistribution(0.1, 0.3, step=0.1),
    "width": IntDistribution(1, 4),
    "optimizer": CategoricalDistribution(["sgd", "adam"]),
    "momentum": FloatDistribution(0.0, 0.5, step=0.5),
}

CASES: dict[str, tuple[str, dict[str, Any], Space, int]] = {
    "random": ("random", {}, MIXED, 8),
    "tpe": ("tpe", {"n_startup_trials": 4}, MIXED, 12),
    "tpe, univariate": ("tpe", {"n_startup_trials": 4, "multivariate": False}, MIXED, 10),
    "tpe, group": ("tpe", {"n_startup_trials": 4, "multivariate": True, "group": True}, MIXED, 12),
    "cma-es": ("cmaes", {"popsize": 4}, MIXED, 20),
    "cma-es, separable": ("cmaes", {"popsize": 4, "use_separable_cma": True}, MIXED, 14),
    "cma-es, margin": ("cmaes", {"popsize": 4, "with_margin": True}, MIXED, 14),
    "cma-es, learning rate": ("cmaes", {"popsize": 4, "lr_adapt": True}, MIXED, 14),
    "cma-es, tpe": ("cmaes", {"popsize": 4, "independent_sampler": {"name": "tpe", "n_startup_trials": 3}}, MIXED, 10),
    "nsga-ii": ("nsgaii", {"population_size": 4, "crossover": {"name": "sbx"}}, MIXED, 16),
    "nsga-iii": ("nsgaiii", {"population_size": 4, "mutation": {"name": "polynomial", "eta": 10.0}}, MIXED, 16),
    "qmc": ("qmc", {}, MIXED, 8),
    "qmc, halton": ("qmc", {"qmc_type": "halton", "scramble": True}, MIXED, 8),
    "gp": ("gp", {"n_startup_trials": 3}, MIXED, 5),
    "grid": ("grid", {}, FINITE, 14),
    "brute force": ("brute_force", {}, FINITE, 14),
    "partial fixed": (
        "partial_fixed",
        {"fixed_params": {"width": 32}, "base_sampler": {"name": "tpe", "n_startup_trials": 3}},
        MIXED,
        8,
    ),
}


class Crash(BaseException):
    """The process is gone."""


class Mortal(InMemoryStorage):
    """A storage that outlives its process, which dies before its ``fuse``-th write."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = math.inf

    def _burn(self) -> None:
        if self.fuse <= 0:
            raise Crash
        self.fuse -= 1

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._burn()
        super().set_trial_system_attr(trial_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._burn()
        super().set_study_system_attr(study_id, key, value)

    def set_trial_param(self, trial_id: int, *args: Any, **kwargs: Any) -> None:
        self._burn()
        super().set_trial_param(trial_id, *args, **kwargs)

    def set_trial_state_values(self, trial_id: int, *args: Any, **kwargs: Any) -> bool:
        self._burn()
        return super().set_trial_state_values(trial_id, *args, **kwargs)


def suggest(trial: Trial, space: Space) -> float:
    """Draw what is active and rate it; conditional on ``optimizer``, which is drawn first."""
    order = ["optimizer", *(name for name in space if name != "optimizer")]
    for name in order:
        if name != "momentum" or trial.params["optimizer"] == "sgd":
            trial._suggest(name, space[name])
    numbers = [float(v) for v in trial.params.values() if isinstance(v, int | float)]
    return math.sin(sum(numbers)) + abs(math.log(trial.params["lr"] / 0.01))


def work(study: optuna.Study, trial_id: int, space: Space) -> None:
    """What one process does with one trial, begun or not."""
    trial = optuna.Trial(study, trial_id)
    study.tell(trial.number, suggest(trial, space))


def open_study(storage: BaseStorage, case: str, pruner: Callable[[], BasePruner]) -> optuna.Study:
    """All that a new process has."""
    name, options, space, _ = CASES[case]
    sampler = build_sampler(name, options, seed=17, search_space=space)
    return optuna.create_study(study_name="s", storage=storage, sampler=sampler, pruner=pruner(), load_if_exists=True)


def results(storage: BaseStorage) -> list[Any]:
    """All that may not differ."""
    study = optuna.load_study(study_name="s", storage=storage)
    return [(t.number, t.params, t.state, t.values, t.distributions) for t in study.trials]


def run_at_once(case: str, pruner: Callable[[], BasePruner] = NopPruner) -> list[Any]:
    """One process, one sampler, no deaths."""
    storage = InMemoryStorage()
    study = open_study(storage, case, pruner)
    for _ in range(CASES[case][3]):
        work(study, storage.create_new_trial(study._study_id), CASES[case][2])
    return results(storage)


def run_dying(case: str, fuses: Callable[[int], float], pruner: Callable[[], BasePruner] = NopPruner) -> list[Any]:
    """Every attempt is a new process; ``fuses(attempt)`` writes later it dies, and the next takes up the trial."""
    storage = Mortal()
    study_id = open_study(storage, case, pruner)._study_id
    for _ in range(CASES[case][3]):
        trial_id, attempt = storage.create_new_trial(study_id), 0
        while not storage.get_trial(trial_id).state.is_finished():
            storage.fuse = fuses(attempt)
            attempt += 1
            try:
                work(open_study(storage, case, pruner), trial_id, CASES[case][2])
            except Crash:
                continue
    return results(storage)


@pytest.mark.parametrize("case", CASES)
def test_a_study_that_dies_before_every_write_ends_like_one_that_never_died(case):
    """Attempt k of each trial dies before its k-th write; parameters, states and values come out the same."""
    whole = run_at_once(case)
    assert run_dying(case, lambda attempt: attempt) == whole
    assert len({str(row[1]) for row in whole}) > len(whole) / 2, "and the suggestions are not all one"


@pytest.mark.parametrize("case", ["tpe", "cma-es", "qmc", "grid"])
def test_a_process_for_every_trial_gives_the_same_study(case):
    """What a sampler remembers from trial to trial makes no difference."""
    assert run_dying(case, lambda attempt: math.inf) == run_at_once(case)


@settings(max_examples=10)
@given(case=st.sampled_from(["tpe, group", "cma-es, margin", "nsga-iii"]), seed=st.randoms(use_true_random=False))
def test_deaths_at_any_moments_change_nothing(case, seed):
    """Random fuses instead of every write in turn."""
    assert run_dying(case, lambda attempt: seed.randrange(12) + attempt) == run_at_once(case)


@pytest.mark.parametrize("case", ["tpe", "nsga-ii"])
def test_hyperband_brackets_are_the_same_in_a_new_process(case):
    """Brackets decide which trials a sampler sees, and exist before the first report."""

    def hyperband() -> BasePruner:
        return build_pruner("hyperband", {}, max_resource=27)

    assert run_dying(case, lambda attempt: attempt, hyperband) == run_at_once(case, hyperband)


@pytest.mark.parametrize("case", ["cma-es, tpe", "nsga-iii"])
def test_a_database_gives_what_memory_gives(case, tmp_path):
    """Values survive text columns and new connections, bit for bit."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    for trials in (1, 4, CASES[case][3] - 5):
        storage = RDBStorage(url)
        study = open_study(storage, case, NopPruner)
        for _ in range(trials):
            work(study, storage.create_new_trial(study._study_id), CASES[case][2])
        storage.engine.dispose()
    storage = RDBStorage(url)
    assert results(storage) == run_at_once(case)
    storage.engine.dispose()


@pytest.mark.parametrize("case", CASES)
def test_another_seed_is_another_study(case):
    """The study's seed decides, and nothing else does."""
    name, options, space, _ = CASES[case]

    def first(seed: int) -> list[Any]:
        study = optuna.create_study(sampler=build_sampler(name, options, seed=seed, search_space=space))
        for _ in range(3):
            work(study, study._storage.create_new_trial(study._study_id), space)
        return [t.params for t in study.trials]

    assert first(17) == first(17)
    assert first(17) != first(18)


def test_a_memo_outlives_a_history_that_has_moved_on():
    """With several workers, others finish trials between a death and the resumption."""
    storage = Mortal()
    study = open_study(storage, "tpe", NopPruner)
    for _ in range(6):
        work(study, storage.create_new_trial(study._study_id), MIXED)
    trial_id = storage.create_new_trial(study._study_id)
    trial = optuna.Trial(study, trial_id)
    expected = dict(trial.relative_params)

    for _ in range(3):
        work(study, storage.create_new_trial(study._study_id), MIXED)
    resumed = optuna.Trial(open_study(storage, "tpe", NopPruner), trial_id)
    assert resumed.relative_params == expected != {}
    assert set(resumed.relative_search_space) >= set(expected)


def test_a_memo_that_no_longer_fits_its_parameter_is_drawn_again():
    """After an accepted change of choices, the one parameter goes back to the sampler."""
    storage = InMemoryStorage()
    space = {"kind": CategoricalDistribution(["a", "b"]), "lr": FloatDistribution(0, 1)}
    changed = {**space, "kind": CategoricalDistribution(["c", "d"])}

    def resumed(trial_id: int, now: Space) -> Trial:
        sampler = build_sampler("tpe", {"n_startup_trials": 1}, seed=1, search_space=now)
        return optuna.Trial(optuna.load_study(study_name="s", storage=storage, sampler=sampler), trial_id)

    study_id = optuna.create_study(study_name="s", storage=storage)._study_id
    for _ in range(2):
        trial = resumed(storage.create_new_trial(study_id), space)
        for name, distribution in space.items():
            trial._suggest(name, distribution)
        trial.study.tell(trial.number, 1.0)
    trial_id = storage.create_new_trial(study_id)
    memoised = dict(resumed(trial_id, space).relative_params)
    assert set(memoised) == {"kind", "lr"}
    assert resumed(trial_id, changed).relative_params == {"lr": memoised["lr"]}


def test_reseeding_changes_nothing():
    """Optuna reseeds samplers from the operating system when it runs threads."""
    sampler = build_sampler("random", {}, seed=3, search_space={})
    study = optuna.create_study(sampler=sampler)
    trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    first = sampler.sample_independent(study, trial, "x", FloatDistribution(0, 1))
    sampler.reseed_rng()
    assert sampler.sample_independent(study, trial, "x", FloatDistribution(0, 1)) == first


@pytest.mark.parametrize(("case", "num_points"), [("grid", 48), ("brute force", 36)])
def test_a_finite_sampler_ends_without_an_error_and_a_new_process_knows(case, num_points):
    """Optuna's ``stop`` raises outside ``optimize``; here the sampler says that it is exhausted."""
    storage = InMemoryStorage()
    study = open_study(storage, case, NopPruner)
    assert isinstance(study.sampler, SeededSampler)
    assert not study.sampler.is_exhausted(study)
    for number in range(num_points):
        assert not study.sampler.exhausted, number
        work(study, storage.create_new_trial(study._study_id), FINITE)
    assert study.sampler.exhausted
    again = open_study(storage, case, NopPruner)
    assert isinstance(again.sampler, SeededSampler)
    assert not again.sampler.exhausted
    assert again.sampler.is_exhausted(again)
    assert len({str(sorted(t.params.items())) for t in study.trials}) == 36, "momentum counts for sgd only"


def test_an_exhausted_grid_stops_optimize():
    """With plain Optuna's loop it behaves as Optuna's grid."""
    sampler = build_sampler("grid", {}, seed=0, search_space={"x": IntDistribution(1, 3)})
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_int("x", 1, 3))
    assert sorted(t.params["x"] for t in study.trials) == [1, 2, 3]


def test_a_grid_takes_initial_trials_beside_its_points():
    """What such a trial leaves open is drawn, and no point of the grid is lost to it."""
    space = {"x": IntDistribution(1, 3), "y": IntDistribution(1, 2)}
    sampler = build_sampler("grid", {}, seed=0, search_space=space)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"x": 2})
    while not sampler.exhausted:
        trial = study.ask(space)
        study.tell(trial, 0.0)
    assert len(study.trials) == 1 + 6
    assert len({(t.params["x"], t.params["y"]) for t in study.trials[1:]}) == 6


@pytest.mark.parametrize(
    ("case", "pruner"), [("tpe", "nop"), ("cma-es", "nop"), ("nsga-ii", "nop"), ("gp", "nop"), ("tpe", "hyperband")]
)
@given(ends=st.lists(st.tuples(st.booleans(), st.sampled_from(["complete", "pruned", "fail"])), max_size=12))
@settings(max_examples=25)
def test_the_common_parameters_are_those_a_new_process_finds(case, pruner, ends):
    """Going on from what earlier trials had in common saves looking through all of them, and changes nothing.

    Whatever the trials' parameters, in whatever order and however they end, some of them while others run.
    """
    storage = InMemoryStorage()
    study = open_study(storage, case, lambda: build_pruner(pruner, {}, max_resource=9))
    running = []
    for has_momentum, end in ends:
        trial = study.ask()
        frozen = storage.get_trial(trial._trial_id)
        seen = _filter_study(study, frozen)
        found = study.sampler.infer_relative_search_space(seen, frozen)
        fresh = open_study(storage, case, NopPruner).sampler
        assert found == fresh.infer_relative_search_space(seen, frozen)
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        if has_momentum:
            trial.suggest_float("momentum", 0.0, 0.99)
        running.append((trial, end))
        if end != "fail":  # the longest at work ends first, or only much later
            first, how = running.pop(0 if has_momentum else -1)
            study.tell(first, 1.0 if how == "complete" else None, state=TrialState[how.upper()])


def test_a_later_draw_goes_on_where_the_last_one_stopped(monkeypatch):
    """A sampler made for one trial does not compare the parameters of all trials before it."""
    looked_from = []
    calculate = intersection._calculate

    def look(trials, include_pruned, space, since):
        looked_from.append(since)
        return calculate(trials, include_pruned, space, since)

    monkeypatch.setattr(intersection, "_calculate", look)
    study = open_study(InMemoryStorage(), "tpe", NopPruner)
    for _ in range(4):
        work(study, study.ask()._trial_id, MIXED)
    assert looked_from == [-1, 0, 1, 2]
