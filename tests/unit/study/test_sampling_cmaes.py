"""CMA-ES without pickles is bit for bit Optuna's."""

from __future__ import annotations

import json
import pickle

import cmaes
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import CmaEsSampler

from tunesafe.seeds import derive
from tunesafe.study.samplers.cmaes import JsonCmaEsSampler, decode_optimizer, encode_optimizer

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = {
    "x": FloatDistribution(-5, 5),
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "n": IntDistribution(1, 9),
    "s": FloatDistribution(0, 1, step=0.25),
}
VARIANTS = [
    {},
    {"use_separable_cma": True},
    {"with_margin": True},
    {"lr_adapt": True},
    {"consider_pruned_trials": True},
]


def run(make, options, num_trials, seed, direction="minimize"):
    """A fresh sampler for every trial, as a study uses them."""
    study = optuna.create_study(direction=direction)
    for number in range(num_trials):
        options = {**options, "warn_independent_sampling": False}
        study.sampler = make(seed=derive(seed, number), popsize=4, **options)
        trial = study.ask(SPACE)
        x, lr, n, s = trial.params.values()
        trial.report(x, 1)
        if number % 5 == 4:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, (x - 1) ** 2 + abs(np.log10(lr) + 3) + abs(n - 4) + s)
    return study


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**31 - 1), direction=st.sampled_from(["minimize", "maximize"]))
def test_suggestions_are_optunas(options, seed, direction):
    """Over several generations, every parameter of every trial is equal."""
    theirs = run(CmaEsSampler, options, 24, seed, direction)
    ours = run(JsonCmaEsSampler, options, 24, seed, direction)
    assert [t.params for t in ours.trials] == [t.params for t in theirs.trials]
    assert any("optimizer" in key for t in theirs.trials for key in t.system_attrs), "generations did pass"


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_no_pickle_is_written_and_none_is_read(options, monkeypatch):
    """Whoever can write to the database cannot run code in a worker."""
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("something was unpickled"))
    study = run(JsonCmaEsSampler, options, 14, 1)
    attributes = {key: value for t in study.trials for key, value in t.system_attrs.items()}
    assert any(key.startswith("tunesafe:") and "optimizer" in key for key in attributes)
    assert not any(str(value).startswith("8004") or str(value).startswith("8005") for value in attributes.values())


def test_what_optuna_pickled_before_is_not_looked_at(monkeypatch):
    """A study begun with plain Optuna goes on, from a new optimizer."""
    study = run(CmaEsSampler, {}, 14, 1)
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("something was unpickled"))
    study.sampler = JsonCmaEsSampler(seed=1, popsize=4)
    assert set(study.ask(SPACE).params) == set(SPACE)


def optimizers(dim, seed):
    """One of each kind, after a generation."""
    bounds = np.tile([0.0, 1.0], (dim, 1))
    common = {"mean": np.full(dim, 0.5), "sigma": 0.2, "bounds": bounds, "seed": seed, "population_size": 4}
    made = [
        cmaes.CMA(**common),
        cmaes.CMA(**common, lr_adapt=True),
        cmaes.SepCMA(**common),
        cmaes.CMAwM(**common, steps=np.array([0.25] + [0.0] * (dim - 1))),
    ]
    for optimizer in made:
        asked = [optimizer.ask() for _ in range(4)]
        points = [x[1] if isinstance(x, tuple) else x for x in asked]
        optimizer.tell([(x, float(np.sum(x**2))) for x in points])
    return made


@settings(max_examples=20)
@given(dim=st.integers(2, 6), seed=st.integers(0, 1000))
def test_an_optimizer_survives_json_as_it_survives_pickle(dim, seed):
    """Same types, same bits, same order in memory, same next points."""
    for optimizer in optimizers(dim, seed):
        text = encode_optimizer(optimizer)
        ours, theirs = decode_optimizer(text), pickle.loads(pickle.dumps(optimizer))
        assert encode_optimizer(ours) == text == encode_optimizer(theirs)
        assert type(ours) is type(theirs)
        assert ours.__getstate__().keys() == theirs.__getstate__().keys()
        for name, value in theirs.__getstate__().items():
            mine = ours.__getstate__()[name]
            assert type(mine) is type(value), name
            if isinstance(value, np.ndarray):
                assert mine.tobytes() == value.tobytes(), name
                assert (mine.dtype, mine.flags.writeable) == (value.dtype, True), name
                assert mine.flags.f_contiguous == value.flags.f_contiguous, name
        for each in (ours, theirs):
            each._rng.seed(3)
        assert np.array_equal(ours.ask(), theirs.ask())


def test_a_text_can_only_be_numbers():
    """Names of classes are looked up in a table of three."""
    document = json.loads(encode_optimizer(optimizers(2, 0)[0]))
    with pytest.raises(KeyError):
        decode_optimizer(json.dumps({**document, "optimizer": "os.system"}))
    with pytest.raises(ValueError, match="OBJECT"):
        decode_optimizer(json.dumps({"array": "object", "shape": [1], "order": "C", "data": "AAAAAAAAAAA="}))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_conditional_space_does_not_fail(options):
    """Optuna with margin fails when a generation spans two spaces; ours leaves the odd points out."""
    study = optuna.create_study()
    for number in range(24):
        study.sampler = JsonCmaEsSampler(seed=number, popsize=4, warn_independent_sampling=False, **options)
        trial = study.ask()
        total = sum(trial._suggest(name, SPACE[name]) for name in ("x", "n"))
        if trial.suggest_categorical("more", [True, False]) or number < 2:
            total += trial._suggest("s", SPACE["s"])
        trial.report(total, 1)
        study.tell(trial, None if number % 6 == 5 else total, state=None if number % 6 != 5 else PRUNED)
    assert len(study.trials) == 24


PRUNED = optuna.trial.TrialState.PRUNED


def test_choices_are_left_to_the_independent_sampler():
    """CMA-ES has none; they are part of the study all the same."""
    sampler = JsonCmaEsSampler(seed=1)
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        study.tell(study.ask({**SPACE, "c": CategoricalDistribution(["a", "b"])}), 1.0)
    assert all(t.params["c"] in ("a", "b") for t in study.trials)
