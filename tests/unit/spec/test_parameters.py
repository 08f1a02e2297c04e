from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spec.texts import small
from tunesafe.errors import SpecError
from tunesafe.spec import FloatParameter, IntParameter, Searched, StudySpec


def study(**parameters: Any) -> StudySpec:
    """A small study with these parameters."""
    return small(parameters=parameters)


def choice(*choices: object, **rest: object) -> dict[str, object]:
    """A categorical parameter as the file has it."""
    return {"type": "categorical", "choices": list(choices), **rest}


def test_a_condition_follows_what_it_depends_on_and_file_order_otherwise() -> None:
    """`when` may name parameters that come later in the file."""
    spec = study(c=choice(1, 2, when={"b": "x"}), a=choice(1), b=choice("x", "y", when={"d": 5}), d=5)
    assert spec.sampling_order() == ("a", "b", "c")


def test_a_parameter_exists_while_all_its_conditions_hold() -> None:
    """One that waits for an absent one is absent too."""
    spec = study(
        kind=choice("sgd", "adam"),
        nesterov=choice(True, False, when={"kind": "sgd"}),
        momentum={"type": "float", "low": 0, "high": 1, "when": {"nesterov": [True], "kind": ["sgd", "adam"]}},
    )
    assert spec.active_parameters({"kind": "adam"}) == ("kind",)
    assert spec.active_parameters({"kind": "sgd", "nesterov": False}) == ("kind", "nesterov")
    assert spec.active_parameters({"kind": "sgd", "nesterov": True}) == ("kind", "nesterov", "momentum")


def test_a_condition_on_a_constant_can_wait_for_another_value() -> None:
    """`--set parameters.optimizer=adam` must not need a second edit."""
    spec = study(optimizer="adam", momentum={"type": "float", "low": 0, "high": 1, "when": {"optimizer": "sgd"}})
    assert spec.active_parameters({}) == ()


def test_true_and_one_are_two_values_for_a_condition() -> None:
    """And 1 and 1.0 are one, as for a user."""
    spec = study(flag=choice(True, False), a={"type": "int", "low": 0, "high": 9, "when": {"flag": True}})
    assert spec.is_active("a", {"flag": True})
    assert not spec.is_active("a", {"flag": 1})
    real = study(x={"type": "float", "low": 0, "high": 2}, a={"type": "int", "low": 0, "high": 9, "when": {"x": 1}})
    assert real.is_active("a", {"x": 1.0})


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ({"type": "float", "low": 0, "high": 1, "step": -0.1}, "parameters.x.step must be above 0, found -0.1"),
        (
            {"type": "float", "low": 1, "high": 9, "log": True, "step": 1.0},
            "parameters.x.step cannot be given together",
        ),
        ({"type": "int", "low": 0, "high": 9, "log": True}, "parameters.x.low must be above 0 with log: true, found 0"),
        ({"type": "int", "low": 0.5, "high": 9}, "parameters.x.low must be a whole number, found 0.5"),
        ({"type": "int", "low": 0, "high": 2**60}, "parameters.x.high must be at most 9007199254740992"),
        ({"type": "int", "low": 1}, "parameters.x has no 'high', which it needs"),
        ({"low": 1, "high": 2}, "parameters.x has no 'type', which it needs; types: float, int, categorical"),
        (choice("a", "a"), "parameters.x.choices.1 is 'a', which repeats 'a'"),
        (choice(0, 0.0), "parameters.x.choices.1 is 0.0, which repeats 0, equal to it in Python"),
        (choice([1]), "parameters.x.choices.0 must be a single value, found a list"),
        (choice(1, when={"y": 3}), "parameters.x.when.y can never be 3: 'y' is between 0 and 8 in steps of 2"),
        (choice(1, when={"y": True}), "parameters.x.when.y can never be true"),
        (choice(1, when={"y": []}), "parameters.x.when.y must not be empty, found an empty list"),
        (choice(1, when={"z": 3}), "unknown parameter 'parameters.x.when.z'"),
    ],
)
def test_an_impossible_parameter_is_refused(parameter: dict[str, object], error: str) -> None:
    """Ranges, steps, choices and conditions are checked before anything runs."""
    with pytest.raises(SpecError) as caught:
        study(x=parameter, y={"type": "int", "low": 0, "high": 8, "step": 2})
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("batch_size", "error"),
    [
        (0, "parameters.batch_size must be a whole number of at least 1, found 0"),
        (True, "parameters.batch_size must be a whole number of at least 1, found true"),
        (16.0, "parameters.batch_size must be a whole number of at least 1, found 16.0"),
        (
            {"type": "int", "low": 0, "high": 9},
            "parameters.batch_size.low must be a whole number of at least 1, found 0",
        ),
        (choice(8, "16"), "parameters.batch_size.choices.1 must be a whole number of at least 1, found '16'"),
        (
            {"type": "float", "low": 1, "high": 9},
            "parameters.batch_size.type must be int or categorical: batch sizes are whole numbers, found float",
        ),
    ],
)
def test_batch_sizes_are_whole_and_positive(batch_size: object, error: str) -> None:
    """Known before the first trial, not in the middle of the study."""
    with pytest.raises(SpecError) as caught:
        study(batch_size=batch_size)
    assert str(caught.value) == error


@settings(max_examples=60)
@given(low=st.decimals(-5, 5, places=3), width=st.decimals(0, 5, places=3), step=st.decimals("0.001", 2, places=3))
def test_the_highest_value_is_optunas(low: Any, width: Any, step: Any) -> None:
    """So that Optuna has nothing to adjust and warn about."""
    from optuna.distributions import FloatDistribution

    parameter = FloatParameter(type="float", low=float(low), high=float(low + width), step=float(step))
    assert FloatDistribution(parameter.low, parameter.highest, step=parameter.step).high == parameter.highest
    assert parameter.accepts(parameter.highest)
    assert parameter.low <= parameter.highest <= parameter.high < low + width + step


@given(low=st.integers(-50, 50), width=st.integers(0, 50), step=st.integers(1, 9), value=st.integers(-60, 110))
def test_an_int_accepts_exactly_its_steps(low: int, width: int, step: int, value: int) -> None:
    """From low, in steps, up to high."""
    parameter = IntParameter(type="int", low=low, high=low + width, step=step)
    grid = range(low, low + width + 1, step)
    assert parameter.accepts(value) == (value in grid)
    assert parameter.highest == grid[-1]
    assert not parameter.accepts(float(value))


def test_initial_trials_give_floats_to_float_parameters() -> None:
    """Whole numbers in the file are real numbers in the range."""
    spec = small(initial_trials=[{"lr": 1}, {}])
    assert repr(spec.initial_params(0)["lr"]) == "1.0"
    assert spec.initial_params(1) == spec.initial_params(2) == {}


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([{}] * 6, "initial_trials has 6 entries, more than the study has trials (5)"),
        ([{"batch_size": 10}], "initial_trials.0.batch_size is a constant; initial trials give values to searched"),
        ([{"lr": "1"}], "initial_trials.0.lr must be between 0.001 and 1.0, found '1'"),
        ([{"lr": True}], "initial_trials.0.lr must be between 0.001 and 1.0, found true"),
        ({"lr": 1}, "initial_trials must be a list, found a mapping"),
        ([5], "initial_trials.0 must be a mapping, found 5"),
    ],
)
def test_initial_trials_are_checked_against_the_parameters(entries: object, error: str) -> None:
    """A typing mistake in a starting point would only show at the end."""
    with pytest.raises(SpecError) as caught:
        small(initial_trials=entries)
    assert str(caught.value).startswith(error)


@given(st.permutations(range(5)), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_the_sampling_order_puts_every_condition_first(order: list[int], pairs: list[tuple[int, int]]) -> None:
    """For every acyclic set of conditions, in every file order."""
    when: dict[int, dict[str, int]] = {index: {} for index in range(5)}
    for one, other in pairs:
        if one != other:
            when[max(one, other)][f"p{min(one, other)}"] = 0
    spec = study(**{f"p{index}": choice(0, 1, when=when[index]) for index in order})
    found = spec.sampling_order()
    assert sorted(found) == [f"p{index}" for index in range(5)]
    for position, name in enumerate(found):
        parameter = spec.parameters[name]
        assert isinstance(parameter, Searched)
        assert set(parameter.when) <= set(found[:position])
