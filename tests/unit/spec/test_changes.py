from __future__ import annotations

from typing import Any

import pytest

from tests.unit.spec.texts import small
from tunesafe.spec import ChangeKind, Settled, StudySpec, classify, render_diff

HARMLESS, EXTENDING, BREAKING = ChangeKind
LR = {"type": "float", "low": 0.001, "high": 1.0, "log": True}
UNITS = {"type": "int", "low": 16, "high": 256, "step": 16}
KIND = {"type": "categorical", "choices": ["sgd", "adam"]}


def study(**changes: Any) -> StudySpec:
    """A study with one parameter of each type; keys under ``parameters`` replace or, if None, remove some."""
    parameters = {"lr": LR, "units": UNITS, "kind": KIND, "decay": 0.1} | changes.pop("parameters", {})
    kept = {name: value for name, value in parameters.items() if value is not ...}
    return small(**{"trainable": "a.py:f", "n_trials": 10, "parameters": kept} | changes)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"n_trials": 11}, HARMLESS),
        ({"n_trials": 9}, BREAKING),
        ({"n_workers": 2}, HARMLESS),
        ({"threads_per_worker": 2}, HARMLESS),
        ({"timeout": "2h"}, HARMLESS),
        ({"lease": 5}, HARMLESS),
        ({"grace": 5}, HARMLESS),
        ({"stall_timeout": "1h"}, HARMLESS),
        ({"storage_timeout": 5}, HARMLESS),
        ({"retries": 5}, HARMLESS),
        ({"max_failures": 2}, HARMLESS),
        ({"trackers": ["tensorboard"]}, HARMLESS),
        ({"backup": "s3://bucket/small"}, HARMLESS),
        ({"blobs": "s3://bucket/small"}, BREAKING),
        ({"checkpoint": {"mid_epoch": True, "every": {"seconds": 60}}}, HARMLESS),
        ({"checkpoint": {"every": "auto"}}, HARMLESS),
        ({"disk_limit": "20GB"}, HARMLESS),
        ({"checkpoint": {"keep": {"last": 3}}}, HARMLESS),
        ({"checkpoint": {"keep": {"every": 2, "finished": "weights"}}}, HARMLESS),
        ({"storage": "sqlite:///moved.db"}, HARMLESS),
        ({"name": "other", "storage": "sqlite:///small.db"}, BREAKING),
        ({"trainable": "b.py:f"}, BREAKING),
        ({"seed": 1}, BREAKING),
        ({"objective": {"metric": "loss", "direction": "maximize"}}, BREAKING),
        ({"objective": {"metric": "accuracy", "direction": "minimize"}}, BREAKING),
        ({"objective": {"metric": "loss", "direction": "minimize", "select": "best"}}, BREAKING),
        ({"sampler": {"name": "random"}}, BREAKING),
        ({"sampler": {"name": "tpe", "n_startup_trials": 5}}, BREAKING),
        ({"pruner": {"name": "nop"}}, BREAKING),
        ({"early_stopping": {"patience": 3}}, BREAKING),
        ({"initial_trials": [{"lr": 0.1}]}, BREAKING),
        ({"budget": {"examples": 2000, "virtual_epochs": 4}}, BREAKING),
        ({"budget": {"examples": 1000, "virtual_epochs": 5}}, BREAKING),
        ({"budget": {"examples": 1000, "virtual_epochs": 4, "batching": "whole"}}, BREAKING),
        ({"budget": {"examples": 1000, "virtual_epochs": 4, "examples_per_pass": 10}}, HARMLESS),
        ({"budget": {"passes": 2.5, "virtual_epochs": 4, "examples_per_pass": 400}}, HARMLESS),
        ({"budget": {"passes": 2.5, "virtual_epochs": 4}}, BREAKING),
        ({"parameters": {"lr": LR | {"high": 2.0}}}, EXTENDING),
        ({"parameters": {"lr": LR | {"low": 0.0001}}}, EXTENDING),
        ({"parameters": {"lr": LR | {"high": 0.5}}}, BREAKING),
        ({"parameters": {"lr": LR | {"low": 0.0001, "high": 0.5}}}, BREAKING),
        ({"parameters": {"lr": LR | {"log": False}}}, BREAKING),
        ({"parameters": {"lr": LR | {"high": 2.0, "log": False}}}, BREAKING),
        ({"parameters": {"lr": LR | {"when": {"kind": "sgd"}}}}, BREAKING),
        ({"parameters": {"lr": 0.1}}, BREAKING),
        ({"parameters": {"units": UNITS | {"high": 512}}}, EXTENDING),
        ({"parameters": {"units": UNITS | {"high": 257}}}, EXTENDING),
        ({"parameters": {"units": UNITS | {"low": 0}}}, EXTENDING),
        ({"parameters": {"units": UNITS | {"low": 8}}}, BREAKING),
        ({"parameters": {"units": UNITS | {"step": 8}}}, BREAKING),
        ({"parameters": {"units": UNITS | {"type": "float"}}}, BREAKING),
        ({"parameters": {"kind": KIND | {"choices": ["sgd", "adam", "lion"]}}}, BREAKING),
        ({"parameters": {"kind": KIND | {"choices": ["adam", "sgd"]}}}, BREAKING),
        ({"parameters": {"decay": 0.2}}, BREAKING),
        ({"parameters": {"decay": "0.1"}}, BREAKING),
        ({"parameters": {"new": 1}}, BREAKING),
        ({"parameters": {"decay": ...}}, BREAKING),
    ],
)
def test_every_change_has_its_kind(changes: dict[str, Any], kind: ChangeKind) -> None:
    """The strictest thing that can be meant, as long as nothing is known of the study."""
    found = classify(study(), study(**changes))
    assert found
    assert {change.kind for change in found} == {kind}


def test_no_change_is_no_change() -> None:
    """However it is spelt."""
    assert classify(study(), study(sampler="TPESampler", lease="1m", pruner={"name": "Median"})) == []


def test_the_order_of_parameters_is_harmless() -> None:
    """Names decide what is drawn."""
    old = small(parameters={"a": KIND, "b": KIND})
    (change,) = classify(old, small(parameters={"b": KIND, "a": KIND}))
    assert (change.kind, change.old, change.new) == (HARMLESS, "a, b", "b, a")


def test_a_wider_range_breaks_a_grid() -> None:
    """Its points are numbered: trial 7 would be another point."""
    wider = {"parameters": {"units": UNITS | {"high": 512}}, "sampler": "grid"}
    (change,) = classify(study(sampler="grid"), study(**wider))
    assert (change.kind, change.key, change.old, change.new) == (BREAKING, "parameters.units.high", "256", "512")


@pytest.mark.parametrize(
    ("old", "new", "settled", "kind"),
    [
        ({"n_trials": 10}, {"n_trials": 6}, Settled(num_trials=6), HARMLESS),
        ({"n_trials": 10}, {"n_trials": 5}, Settled(num_trials=6), BREAKING),
        ({}, {"initial_trials": [{"lr": 0.1}]}, Settled(num_trials=0), HARMLESS),
        ({}, {"initial_trials": [{"lr": 0.1}]}, Settled(num_trials=1), BREAKING),
        ({"initial_trials": [{"lr": 0.1}]}, {"initial_trials": [{"lr": 0.1}, {"lr": 0.2}]}, Settled(1), HARMLESS),
        ({"initial_trials": [{"lr": 0.1}]}, {"initial_trials": [{"lr": 0.1}, {"lr": 0.2}]}, Settled(2), BREAKING),
        ({"initial_trials": [{"lr": 0.1}]}, {"initial_trials": [{"lr": 0.2}]}, Settled(1), BREAKING),
        ({}, {"threads_per_worker": 2}, Settled(threads_per_worker=2), HARMLESS),
        ({}, {"threads_per_worker": 1}, Settled(threads_per_worker=2), BREAKING),
        ({"threads_per_worker": 2}, {}, Settled(threads_per_worker=2), HARMLESS),
    ],
)
def test_what_the_study_has_settled_decides(
    old: dict[str, Any], new: dict[str, Any], settled: Settled, kind: ChangeKind
) -> None:
    """Trials that have not begun can still be anything."""
    assert {change.kind for change in classify(study(**old), study(**new), settled)} == {kind}


PASSES = {"passes": 2.5, "virtual_epochs": 4}


@pytest.mark.parametrize(
    ("old", "new", "settled", "kind"),
    [
        (PASSES, PASSES | {"examples_per_pass": 400}, Settled(examples_per_pass=400), HARMLESS),
        (PASSES, PASSES | {"examples_per_pass": 500}, Settled(examples_per_pass=400), BREAKING),
        (PASSES, PASSES | {"examples_per_pass": 500}, Settled(num_trials=0), HARMLESS),
        (PASSES | {"examples_per_pass": 400}, PASSES, Settled(examples_per_pass=400), HARMLESS),
        (PASSES, {"examples": 1000, "virtual_epochs": 4}, Settled(examples_per_pass=400), HARMLESS),
        (PASSES, {"examples": 1001, "virtual_epochs": 4}, Settled(examples_per_pass=400), BREAKING),
        (PASSES, PASSES | {"passes": 2.5001}, Settled(examples_per_pass=400), HARMLESS),
        (PASSES, PASSES | {"passes": 2.51}, Settled(examples_per_pass=400), BREAKING),
        (PASSES, PASSES | {"passes": 2.51}, Settled(), BREAKING),
    ],
)
def test_a_budget_may_be_said_differently_if_it_is_provably_the_same(
    old: dict[str, Any], new: dict[str, Any], settled: Settled, kind: ChangeKind
) -> None:
    """The length of a trial counts, not the words for it."""
    found = classify(study(budget=old), study(budget=new), settled)
    assert {change.kind for change in found} == {kind}


def test_the_diff_says_what_breaks_first_and_what_to_do() -> None:
    """It is all that somebody whose study was refused will read."""
    changes = classify(
        study(), study(n_trials=20, seed=5, parameters={"lr": LR | {"high": 2.0}, "decay": ..., "new": UNITS})
    )
    assert render_diff(changes) == (
        "breaking   parameters.decay: 0.1 -> (absent) (past trials have it)\n"
        "breaking   parameters.new: (absent) -> {low: 16, high: 256, step: 16, type: int} (past trials lack it)\n"
        "breaking   seed: 0 -> 5 (every trial derives its randomness from it)\n"
        "extending  parameters.lr.high: 1.0 -> 2.0 (a wider range: past trials stay valid)\n"
        "harmless   n_trials: 10 -> 20 (the study ends with 20 trials)\n"
        "What to do: undo the change, give the study a new name, or accept the change (--accept-changes)."
    )


def test_a_diff_shows_no_password() -> None:
    """Changes are recorded and shown."""
    old, new = study(), study(storage="postgresql://me:secret@host/db")
    assert "secret" not in render_diff(classify(old, new))


def test_a_diff_of_sources_is_indented_below_its_line() -> None:
    """Whoever compares sources adds them as one more change."""
    (change,) = classify(study(), study(seed=1))
    sources = type(change)("trainable", "", "-old\n+new", BREAKING, "changed code")
    assert render_diff([sources]).splitlines()[:3] == [
        "breaking   trainable: changed (changed code)",
        "           -old",
        "           +new",
    ]
    assert sources.harmless().kind is HARMLESS
