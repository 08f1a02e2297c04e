"""Pruners asked on a rehearsal decide and write what they would in plain Optuna."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import BasePruner, HyperbandPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from tunesafe import options
from tunesafe.errors import MissingExtraError, SpecError
from tunesafe.schedulers.pruning import DEFAULT_PRUNER, build_pruner, judge

optuna.logging.set_verbosity(optuna.logging.ERROR)

STEPS = 9
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "median": ("median", {"n_startup_trials": 1}),
    "percentile": ("percentile", {"percentile": 25.0, "n_startup_trials": 2, "n_warmup_steps": 2, "interval_steps": 3}),
    "threshold": ("threshold", {"lower": -2, "upper": 2.0}),
    "wilcoxon": ("wilcoxon", {"p_threshold": 0.3}),
    "successive halving": ("successive_halving", {"reduction_factor": 2}),
    "bootstrapped": ("SuccessiveHalvingPruner", {"min_resource": 2, "reduction_factor": 2, "bootstrap_count": 2}),
    "hyperband": ("hyperband", {"reduction_factor": 2}),
    "hyperband, shorter": ("hyperband", {"max_resource": 4}),
    "patient": ("patient", {"wrapped_pruner": {"name": "median", "n_startup_trials": 1}, "patience": 1}),
    "patient, alone": ("patient", {"patience": 0, "min_delta": 0.5}),
    "patient hyperband": ("patient", {"wrapped_pruner": {"name": "hyperband"}, "patience": 0}),
    "nop": ("nop", {}),
}


def build(case: str) -> BasePruner:
    """As a new process would."""
    name, given = CASES[case]
    return build_pruner(name, given, max_resource=STEPS)


class Guarded(InMemoryStorage):
    """A storage that can be told to accept nothing."""

    closed = False

    def set_trial_system_attr(self, *args: Any) -> None:
        assert not self.closed
        super().set_trial_system_attr(*args)

    def set_study_system_attr(self, *args: Any) -> None:
        assert not self.closed
        super().set_study_system_attr(*args)

    def set_trial_intermediate_value(self, *args: Any) -> None:
        assert not self.closed
        super().set_trial_intermediate_value(*args)


def report_plainly(study: optuna.Study, trial: optuna.Trial, step: int, value: float) -> bool:
    """As in anyone's Optuna code."""
    trial.report(value, step)
    return trial.should_prune()


def report_rehearsed(study: optuna.Study, trial: optuna.Trial, step: int, value: float) -> bool:
    """Judge a copy, then write; a storage that is closed meanwhile shows that nothing came earlier."""
    storage = study._storage
    frozen = copy.deepcopy(storage.get_trial(trial._trial_id))
    before = copy.deepcopy(frozen)
    frozen.intermediate_values[step] = value
    storage.closed = True
    decision = judge(study, frozen)
    again = judge(study, frozen)
    storage.closed = False
    assert again == decision, "asking changes nothing"
    assert storage.get_trial(trial._trial_id) == before
    storage.set_trial_intermediate_value(trial._trial_id, step, value)
    for write in decision.writes:
        storage.set_trial_system_attr(trial._trial_id, write.key, write.value)
    return decision.prune


def run(case, curves, direction, together, report, new_process):
    """All trials, one after the other or a step each in turn; what Optuna then holds."""
    storage = Guarded()
    study = optuna.create_study(study_name="s", storage=storage, direction=direction, pruner=build(case))
    trials = [study.ask() for _ in curves] if together else []
    turns = (
        [(i, step) for step in range(1, STEPS + 1) for i in range(len(curves))]
        if together
        else [(i, step) for i in range(len(curves)) for step in range(1, STEPS + 1)]
    )
    for i, step in turns:
        if i == len(trials):
            trials.append(study.ask())
        if storage.get_trial(trials[i]._trial_id).state.is_finished():
            continue
        if new_process:
            study = optuna.load_study(study_name="s", storage=storage, pruner=build(case))
        if report(study, trials[i], step, curves[i][step - 1]):
            study.tell(trials[i].number, state=TrialState.PRUNED)
        elif step == STEPS:
            study.tell(trials[i].number, curves[i][-1])
    return [(t.number, t.state, t.value, t.intermediate_values, t.system_attrs) for t in study.trials]


values = st.integers(-3, 3).map(float) | st.floats(-3, 3)
curves_of = st.lists(st.lists(values, min_size=STEPS, max_size=STEPS), min_size=1, max_size=8)


@pytest.mark.filterwarnings("ignore")  # Wilcoxon's and scipy's, the same on both sides
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15)
@given(curves=curves_of, direction=st.sampled_from(["minimize", "maximize"]), together=st.booleans())
def test_a_rehearsed_pruner_decides_as_plain_optuna(case, curves, direction, together):
    """With a new process for every report: same trials pruned at the same step, same attributes written."""
    plain = run(case, curves, direction, together, report_plainly, new_process=False)
    assert run(case, curves, direction, together, report_rehearsed, new_process=True) == plain


def test_a_rung_is_written_with_the_decision():
    """The write of SuccessiveHalving that gets lost when a process dies before it tells."""
    study = optuna.create_study(pruner=build_pruner("successive_halving", {"min_resource": 1}, max_resource=9))
    for value in (1.0, 2.0):
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        trial.intermediate_values[1] = value
        decision = judge(study, trial)
        assert [(w.key, w.value) for w in decision.writes] == [("completed_rung_0", value)]
        assert decision.prune == (value == 2.0)
        for write in decision.writes:
            study._storage.set_trial_system_attr(trial._trial_id, write.key, write.value)


def test_a_database_study_is_judged_without_a_write(tmp_path):
    """The overlay stands on Optuna's cached database storage as well."""
    storage = RDBStorage(f"sqlite:///{tmp_path / 's.db'}")
    pruner = build_pruner("hyperband", {"min_resource": 1}, max_resource=3)
    study = optuna.create_study(study_name="s", storage=storage, pruner=pruner)
    trial = study._storage.get_trial(study.ask()._trial_id)
    trial.intermediate_values[3] = 1.0
    assert judge(study, trial).writes
    assert study.trials[0].intermediate_values == {}
    assert study.trials[0].system_attrs == {}
    storage.engine.dispose()


CONCRETE = [
    cls
    for name in optuna.pruners.__all__
    if inspect.isclass(cls := getattr(optuna.pruners, name)) and not inspect.isabstract(cls)
]


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_pruner_of_optuna_has_a_name(cls):
    """New ones too: the table is read from Optuna."""
    needed = {"PatientPruner": {"patience": 1}, "PercentilePruner": {"percentile": 9}, "ThresholdPruner": {"upper": 1}}
    bare = cls.__name__.removesuffix("Pruner")
    for name in (cls.__name__, bare, bare.lower(), "_".join(bare).upper()):
        assert type(build_pruner(name, needed.get(cls.__name__, {}), max_resource=5)) is cls


@given(max_resource=st.integers(1, 1000))
def test_resources_are_numbers_before_the_first_trial(max_resource):
    """What Optuna calls auto depends on which trials had finished when a process started."""
    halving = build_pruner("successive_halving", {}, max_resource=max_resource)
    assert isinstance(halving, SuccessiveHalvingPruner)
    assert halving._min_resource == max(max_resource // 100, 1)
    hyperband = build_pruner("hyperband", {"max_resource": "auto"}, max_resource=max_resource)
    assert isinstance(hyperband, HyperbandPruner)
    assert hyperband._max_resource == max_resource
    assert len(hyperband._pruners) == math.floor(math.log(max_resource, 3)) + 1


def test_the_default_is_the_median():
    """As in Optuna."""
    assert isinstance(build_pruner(DEFAULT_PRUNER, {}, max_resource=1), type(optuna.create_study().pruner))


def test_a_wrapped_pruner_may_be_named_only():
    """``wrapped_pruner: median`` is ``{name: median}``."""
    pruner = build_pruner("patient", {"wrapped_pruner": "median", "patience": 2}, max_resource=5)
    assert isinstance(pruner, PatientPruner)
    assert type(pruner._wrapped_pruner) is optuna.pruners.MedianPruner


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("medain", {}, "pruner: 'medain' is not one of Optuna's. Did you mean 'median'?"),
        (
            "median",
            {"n_startup": 3},
            "pruner.n_startup: MedianPruner has no such option. Did you mean 'n_startup_trials'?",
        ),
        ("nop", {"x": 1}, "pruner.x: NopPruner has no such option. There are none."),
        ("median", {"n_startup_trials": 2.5}, "pruner.n_startup_trials: 2.5 is not int"),
        ("median", {"n_startup_trials": -1}, "cannot be negative"),
        ("percentile", {}, "percentile"),
        ("threshold", {}, "pruner: "),
        ("patient", {"patience": -1}, "patience cannot be negative"),
        (
            "patient",
            {"patience": 1, "wrapped_pruner": {"name": "medain"}},
            "pruner.wrapped_pruner: 'medain' is not one",
        ),
        ("patient", {"patience": 1, "wrapped_pruner": 3}, "pruner.wrapped_pruner: 3 is neither"),
        ("hyperband", {"max_resource": "much"}, "should be integer or 'auto'"),
        ("hyperband", {"min_resource": 9}, "min_resource 9 and max_resource 5 leave no bracket"),
        ("hyperband", {"min_resource": 0}, "leave no bracket"),
        ("hyperband", {"reduction_factor": 1}, "pruner.reduction_factor: 1 is less than 2"),
        ("hyperband", {"bootstrap_count": -1}, "bootstrap_count"),
        ("successive_halving", {"min_resource": 0}, "`min_resource` is 0"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(name, given, words):
    """One error, before anything is started."""
    with pytest.raises(SpecError) as error:
        build_pruner(name, given, max_resource=5)
    assert words in str(error.value)


def test_a_missing_library_names_its_extra(monkeypatch):
    """Before the first report, not in the middle of a trial."""
    monkeypatch.setattr(options, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesafe\[gp\]'"):
        build_pruner("wilcoxon", {}, max_resource=5)
