"""What a study file may say about its sampler, and what the errors say."""

from __future__ import annotations

import inspect
import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from tunesafe import options
from tunesafe.errors import MissingExtraError, SpecError
from tunesafe.study.sampling import build_sampler, grid_size

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "width": IntDistribution(16, 64, step=16),
    "optimizer": CategoricalDistribution(["sgd", "adam"]),
}
FINITE = {"width": SPACE["width"], "optimizer": SPACE["optimizer"], "drop": FloatDistribution(0.1, 0.5, step=0.1)}


def build(name: str, space=None, **given):
    """A sampler with options as a study file would give them."""
    return build_sampler(name, given, seed=1, search_space=SPACE if space is None else space)


CONCRETE = [
    cls
    for name in optuna.samplers.__all__
    if inspect.isclass(cls := getattr(optuna.samplers, name)) and not inspect.isabstract(cls) and cls is not BaseSampler
]


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_sampler_of_optuna_has_a_name(cls):
    """New ones too: the table is read from Optuna."""
    given = {"base_sampler": "random", "fixed_params": {}} if cls is optuna.samplers.PartialFixedSampler else {}
    bare = cls.__name__.removesuffix("Sampler")
    for name in (cls.__name__, bare, bare.lower(), bare.upper(), "_".join(bare)):
        assert isinstance(build(name, FINITE, **given)._recipe(0), cls)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("tpee", {}, "sampler: 'tpee' is not one of Optuna's. Did you mean 'tpe'?"),
        ("tpe", {"n_startup": 3}, "sampler.n_startup: TPESampler has no such option. Did you mean 'n_startup_trials'?"),
        ("tpe", {"seed": 3}, "sampler.seed: the study's own seed is the one"),
        ("random", {"seed": 3}, "sampler.seed: the study's own seed is the one"),
        ("tpe", {"n_startup_trials": "ten"}, "sampler.n_startup_trials: 'ten' is not int"),
        ("tpe", {"n_startup_trials": True}, "sampler.n_startup_trials: True is not int"),
        ("tpe", {"n_startup_trials": -1}, "sampler.n_startup_trials: -1 is less than 0"),
        ("tpe", {"group": True, "multivariate": False}, "can only be enabled when"),
        ("tpe", {"gamma": 3}, "sampler.gamma: takes a Python object"),
        ("cmaes", {"restart_strategy": "ipop"}, "sampler.restart_strategy: Optuna ignores it"),
        ("cmaes", {"source_trials": []}, "sampler.source_trials: takes a Python object"),
        ("cmaes", {"use_separable_cma": True, "with_margin": True}, "do not support"),
        ("cmaes", {"popsize": 1}, "sampler.popsize: 1 is less than 2"),
        ("cmaes", {"independent_sampler": "tpee"}, "sampler.independent_sampler: 'tpee' is not one"),
        ("cmaes", {"independent_sampler": {"name": "tpe", "x": 1}}, "sampler.independent_sampler.x: TPESampler has no"),
        ("cmaes", {"independent_sampler": {"x": 1}}, "neither a name nor a mapping with one"),
        ("nsgaii", {"population_size": 1}, "sampler.population_size: 1 is less than 2"),
        ("nsgaii", {"crossover": "sbxx"}, "Did you mean 'sbx'?"),
        (
            "nsgaii",
            {"crossover": {"name": "sbx", "etaa": 1}},
            "sampler.crossover.etaa: SBXCrossover has no such option",
        ),
        ("nsgaiii", {"reference_points": [1, 2]}, "sampler.reference_points: [1, 2] is not a list of points"),
        ("qmc", {"qmc_type": "x"}, "is invalid"),
        ("partial_fixed", {}, "missing"),
        ("partial_fixed", {"fixed_params": {"lrr": 1}, "base_sampler": "tpe"}, "Did you mean 'lr'?"),
        (
            "partial_fixed",
            {"fixed_params": {"lr": 1}, "base_sampler": "tpe"},
            "sampler.fixed_params.lr: 1 is not a value",
        ),
        ("partial_fixed", {"fixed_params": 1, "base_sampler": "tpe"}, "is not a mapping"),
        ("grid", {}, "parameter 'lr' has infinitely many values. Give it a step"),
        ("brute_force", {}, "parameter 'lr' has infinitely many values. Give it a step"),
        (
            "grid",
            {"search_space": {"lrr": [1]}},
            "sampler.search_space.lrr: there is no such parameter. Did you mean 'lr'",
        ),
        ("grid", {"search_space": {"lr": [1]}}, "sampler.search_space.lr: 1 is not a value of FloatDistribution"),
        ("grid", {"search_space": {"lr": []}}, "sampler.search_space.lr: [] is not a list of values"),
        ("grid", {"search_space": 3}, "3 is not a mapping"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(name, given, words):
    """One error, before anything is started."""
    with pytest.raises(SpecError) as error:
        build(name, **given)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["cmaes", "gp", "qmc"])
def test_a_missing_library_names_its_extra(name, monkeypatch):
    """Before the first trial, not in the middle of it."""
    monkeypatch.setattr(options, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesafe\[(cmaes|gp)\]'"):
        build(name)


@given(
    low=st.integers(-50, 50),
    count=st.integers(1, 30),
    step=st.integers(1, 7),
    choices=st.lists(st.none() | st.booleans() | st.integers() | st.text(), min_size=1, max_size=5, unique_by=repr),
)
def test_a_grid_has_every_combination_once(low, count, step, choices):
    """Its size is known beforehand, and every value is one Optuna accepts."""
    space = {
        "i": IntDistribution(low, low + (count - 1) * step, step=step),
        "f": FloatDistribution(low / 10, (low + 3) / 10, step=0.1),
        "c": CategoricalDistribution(choices),
    }
    sampler = build("grid", space)._recipe(0)
    assert len(sampler._all_grids) == grid_size("grid", {}, space) == count * 4 * len(choices)
    for name, distribution in space.items():
        assert all(distribution._contains(distribution.to_internal_repr(v)) for v in sampler._search_space[name])
    assert all(isinstance(v, int) for v in sampler._search_space["i"])


def test_a_grid_takes_lists_for_what_has_no_step():
    """A list replaces the parameter's own values."""
    given = {"search_space": {"lr": [0.001, 0.01]}}
    assert grid_size("GridSampler", given, SPACE) == 2 * 4 * 2
    assert grid_size("tpe", {}, SPACE) is None
    assert math.prod(map(len, build("grid", **given)._recipe(0)._search_space.values())) == 16


def test_a_grid_too_large_is_refused_before_it_is_laid_out():
    """Its points are held in memory and its lists written to every trial."""
    with pytest.raises(SpecError, match="1,000,000 are possible"):
        build("grid", {f"x{i}": IntDistribution(0, 99) for i in range(10)})
    with pytest.raises(SpecError, match="Give larger steps"):
        build("grid", {"x": IntDistribution(0, 90_000)})


def test_a_deprecated_option_warns_once_when_built():
    """Not for every trial."""
    with pytest.warns(FutureWarning, match="sigma0"):
        sampler = build("cmaes", sigma0=0.1)
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        study.tell(study.ask({"lr": SPACE["lr"]}), 1.0)
