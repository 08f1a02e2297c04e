"""Optuna's own judges: a finished study, opened by plain Optuna, is an ordinary and complete one."""

from __future__ import annotations

import inspect
import math
from types import ModuleType
from typing import Any

import optuna
import pytest
import torch
from optuna import importance, visualization
from optuna.trial import TrialState

import tunesafe
from tunesafe.api import Study

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
matplotlib.use("agg")
pytestmark = pytest.mark.timeout(300)

N_TRIALS = 24
PARAMETERS: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "width": {"type": "int", "low": 1, "high": 4},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
    "decay": 0.01,
}


def train(trial: tunesafe.Trial) -> None:
    """Trials of every ending: complete, pruned, diverged, failed; with ties for the best."""
    params = trial.params
    trial.track(notes={})
    for epoch in trial.virtual_epochs((torch.zeros(10, 1),), batch_size=5):
        for _ in epoch:
            pass
        if trial.number == 1 and epoch.index == 2:
            raise ValueError("a mistake that only shows in trial 1")
        loss = abs(math.log10(params["lr"]) + 2) + params.get("momentum", 0.3) / params["width"] + 1 / epoch.index
        if trial.number in (9, 12):
            loss = -1.0
        trial.report(loss=math.nan if trial.number == 2 and epoch.index == 3 else loss, width=params["width"])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study, as tunesafe has it."""
    study = Study(
        name="judged",
        trainable=train,
        parameters=PARAMETERS,
        budget={"examples": 40, "virtual_epochs": 4},
        objective={"metric": "loss", "direction": "minimize", "select": "best"},
        n_trials=N_TRIALS,
        threads_per_worker=1,
        seed=3,
        sampler={"name": "tpe", "n_startup_trials": 6},
        pruner={"name": "median", "n_startup_trials": 4, "n_warmup_steps": 1},
        folder=tmp_path_factory.mktemp("judged"),
    )
    result = study.run()
    assert result.exit_code == 0, result.message
    return study


@pytest.fixture(scope="module")
def study(ours: Study) -> optuna.Study:
    """The same study, opened by plain Optuna by nothing but its address."""
    return optuna.load_study(study_name=None, storage=ours.spec.storage)


def test_it_is_complete_and_has_every_kind_of_trial(study: optuna.Study) -> None:
    """Numbered without gaps, all finished, conditional parameters where they hold, constants nowhere."""
    assert [trial.number for trial in study.trials] == list(range(N_TRIALS))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for trial in study.trials:
        expected = {"lr", "width", "optimizer"} | ({"momentum"} if trial.params["optimizer"] == "sgd" else set())
        assert trial.params.keys() == expected
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        assert trial.datetime_start <= trial.datetime_complete
    assert study.metric_names == ["loss"]
    assert study.direction.name == "MINIMIZE"


def test_every_curve_is_whole_and_ours(study: optuna.Study, ours: Study) -> None:
    """Step is the virtual epoch; the value is the selected one; what is not finite never gets there."""
    for trial, view in zip(study.trials, ours.trials, strict=True):
        curve = {epoch: metrics["loss"] for epoch, metrics in view.metrics.items()}
        assert trial.intermediate_values == {epoch: loss for epoch, loss in curve.items() if math.isfinite(loss)}
        assert trial.state.name.lower().startswith(str(view.state)[:4])
        if trial.state is TrialState.COMPLETE:
            assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
            assert trial.value == view.value == min(curve.values())
    assert study.trials[2].state is TrialState.PRUNED
    assert sorted(study.trials[2].intermediate_values) == [1, 2]


def test_user_attributes_say_what_tunesafe_knows(study: optuna.Study, ours: Study) -> None:
    """Examples seen, attempts, virtual epoch of the selected checkpoint; and why a trial ended early."""
    for trial, view in zip(study.trials, ours.trials, strict=True):
        attributes = trial.user_attrs
        assert attributes["examples_seen"] == view.examples_seen
        assert attributes["attempts"] == view.attempts == 1
        if trial.state is TrialState.COMPLETE:
            assert attributes["examples_seen"] == 40
            assert attributes["selected_virtual_epoch"] == view.selected_virtual_epoch
            assert trial.intermediate_values[attributes["selected_virtual_epoch"]] == trial.value
    assert study.trials[1].user_attrs["reason"] == "ValueError: a mistake that only shows in trial 1"


def test_both_name_the_same_best_trial(study: optuna.Study, ours: Study) -> None:
    """Two trials tie: the lower number it is, and Optuna agrees."""
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    tied = [trial.number for trial in complete if trial.value == -1.0]
    assert tied == [9, 12]
    assert ours.best_trial is not None
    assert study.best_trial.number == ours.best_trial.number == 9
    assert study.best_value == ours.best_trial.value == -1.0
    assert study.best_params == {name: value for name, value in ours.best_trial.params.items() if name != "decay"}


def test_the_data_frame_has_a_row_for_every_trial(study: optuna.Study) -> None:
    """With parameters (absent ones as NaN), times, states and user attributes; values are named after the metric."""
    frame = study.trials_dataframe()
    assert list(frame["number"]) == list(range(N_TRIALS))
    columns = {"value_loss", "params_lr", "params_momentum", "user_attrs_examples_seen", "user_attrs_attempts", "state"}
    assert columns <= set(frame.columns)
    assert frame["params_lr"].notna().all()
    assert frame["params_momentum"].isna().any()


# --- figures ---------------------------------------------------------------------------------------

ONE_OBJECTIVE = {
    "plot_contour",
    "plot_edf",
    "plot_intermediate_values",
    "plot_optimization_history",
    "plot_parallel_coordinate",
    "plot_param_importances",
    "plot_rank",
    "plot_slice",
    "plot_terminator_improvement",
    "plot_timeline",
}
SEVERAL_OBJECTIVES = {"plot_hypervolume_history", "plot_pareto_front"}
NO_FIGURES = {"is_available", "matplotlib"}


@pytest.mark.parametrize("module", [visualization, visualization.matplotlib], ids=["plotly", "matplotlib"])
def test_every_figure_of_optuna_is_known_here(module: ModuleType) -> None:
    """A new one fails this test until it is said whether it applies to a single objective."""
    assert set(module.__all__) - NO_FIGURES == ONE_OBJECTIVE | SEVERAL_OBJECTIVES


@pytest.mark.parametrize("name", sorted(ONE_OBJECTIVE))
def test_every_figure_for_one_objective_can_be_drawn(name: str, study: optuna.Study) -> None:
    """By plotly with data in it, and by matplotlib."""
    figure = getattr(visualization, name)(study)
    assert len(figure.data) >= 1
    assert figure.to_json()
    assert getattr(visualization.matplotlib, name)(study) is not None
    matplotlib.pyplot.close("all")


def test_the_curves_figure_has_the_whole_curves(study: optuna.Study) -> None:
    """One for each trial that reported and did not fail, in order of steps."""
    curves = visualization.plot_intermediate_values(study).data
    assert len(curves) == sum(trial.state is not TrialState.FAIL for trial in study.trials)
    assert all(list(curve.x) == sorted(curve.x) for curve in curves)


# --- importances -----------------------------------------------------------------------------------


def evaluators() -> list[type[importance.BaseImportanceEvaluator]]:
    """Every evaluator Optuna exports."""
    exported = (getattr(importance, name) for name in importance.__all__)
    classes = [each for each in exported if inspect.isclass(each)]
    return [each for each in classes if not inspect.isabstract(each)]


@pytest.mark.parametrize("evaluator", evaluators(), ids=lambda each: each.__name__)
def test_every_importance_evaluator_judges_the_study(evaluator: Any, study: optuna.Study) -> None:
    """Over the parameters that all trials have, and those of a condition where they are asked for."""
    extra = {} if "seed" not in inspect.signature(evaluator).parameters else {"seed": 0}
    found = importance.get_param_importances(study, evaluator=evaluator(**extra))
    assert found.keys() >= {"lr", "width", "optimizer"}
    assert sum(found.values()) == pytest.approx(1.0)
    conditional = importance.get_param_importances(study, evaluator=evaluator(**extra), params=["lr", "momentum"])
    assert conditional.keys() == {"lr", "momentum"}
