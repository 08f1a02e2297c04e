"""A number in an error is written as its author wrote it: whoever looks for it in the file finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.spec.texts import load, mapping, refusal, spoil
from tunesafe.errors import SpecError
from tunesafe.spec import spec_from_mapping


def test_a_number_that_is_found_wrong_later_is_echoed_as_it_is_written(tmp_path: Path) -> None:
    """Those who hold options against Optuna's constructors know its value, not its notation."""
    spec = load(spoil("{name: tpe}", "{name: tpe, n_startup_trials: 1.0e1, n_ei_candidates: 0x0}"), tmp_path)
    judges = (
        spec.error("sampler.n_startup_trials", "10.0 is not int."),
        spec.error("sampler.n_ei_candidates", "0 is few."),
    )
    assert [error.message for error in judges] == ["1.0e1 is not int.", "0x0 is few."]
    assert spec.error("sampler.n_startup_trials", "10 is not int.").message == "10 is not int."
    assert spec.error("sampler.name", "10.0 is not int.").message == "10.0 is not int."


NOTATIONS = [
    ("low: 1.0e-4", "low: 0", "found 0"),
    ("low: 1.0e-4", "low: 0.0", "found 0.0"),
    ("low: 1.0e-4", "low: -1.50E-4", "found -1.50E-4"),
    ("low: 1.0e-4", "low: 10", "found low 10 and high 1.0e-1"),
    ("low: 16,", "low: 1_000,", "found low 1_000 and high 256"),
    ("low: 0.0,", "low: 1,", "found low 1 and high 0.99"),
    ("step: 16", "step: 0x0", "found 0x0"),
    ("n_trials: 50", "n_trials: 5.00", "found 5.00; write 5"),
    ("n_trials: 50", "n_trials: 0o0", "found 0o0"),
    ("lr: 0.01", "lr: 1", "must be between 1.0e-4 and 1.0e-1, found 1"),
    ("lr: 0.01", "hidden: 17", "must be between 16 and 256 in steps of 16, found 17"),
    ("batch_size: 32}", "batch_size: 16.0}", "must be one of 16, 32, 64, 128, found 16.0"),
    ("when: {optimizer: sgd}", "when: {lr: 2e0}", "can never be 2e0: 'lr' is between 1.0e-4 and 1.0e-1"),
    ("when: {optimizer: sgd}", "when: {lr: [1.0e-2, 3]}", "can never be 3: 'lr' is between 1.0e-4 and 1.0e-1"),
    (
        "choices: [16,",
        "choices: [1.60e1, 16,",
        "is 16, which repeats 1.60e1, equal to it in Python; make one of them text",
    ),
    ("choices: [16,", "choices: [0x0,", "found 0x0"),
    ("passes: 14.3", "passes: 1E10", "found 1E10"),
    ("virtual_epochs: 15", "virtual_epochs: 21_000", "found 21_000"),
    ("timeout: 2h", "timeout: -0", "found -0"),
    ("min_delta: 0.0", "min_delta: -1", "found -1"),
    ("seed: 17", "seed: 99_999_999_999_999_999_999", "found 99_999_999_999_999_999_999"),
    ("seed: 17", "seed: -.INF", "found -.INF"),
    ("sampler: {name: tpe}", "sampler: 1e0", "found 1e0"),
    ("{name: tpe}", "{name: 1e0}", "found 1e0"),
    ("type: int", "type: 1e0", "found 1e0; types: float, int, categorical"),
    ("n_trials: 50\n", "n_trials: 0x0\n", "found 0x0"),
    ("initial_trials: [{lr: 0.01, batch_size: 32}]", "initial_trials: [{}" + ", {}" * 50 + "]", "trials (50)"),
]


@pytest.mark.parametrize(("old", "new", "end"), NOTATIONS, ids=[f"{new}" for _, new, _ in NOTATIONS])
def test_a_number_is_echoed_as_it_is_written(old: str, new: str, end: str, tmp_path: Path) -> None:
    """Whoever looks for it in the file finds it."""
    assert any(line.endswith(end) for line in refusal(spoil(old, new), tmp_path).splitlines())


def test_a_number_from_python_is_echoed_as_it_was_given() -> None:
    """A whole number is not shown as the real number it stands for."""
    parameters = {"lr": {"type": "float", "low": 0, "high": 1, "log": True}}
    with pytest.raises(SpecError, match=r"must be above 0 with log: true, found 0$"):
        spec_from_mapping(mapping(parameters=parameters), base=None)
    with pytest.raises(SpecError, match=r"lease must be above 0, found 0$"):
        spec_from_mapping(mapping(lease=0), base=None)
