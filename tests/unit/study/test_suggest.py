"""A trial's parameters: which there are, of what type, and that a death while drawing changes none."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tests.unit.study.studies import DEAD, Desk, complete, dying_at, opened, spec_of
from tunesafe.contracts import Parameter
from tunesafe.study.suggest import distributions

SPACE: dict[str, Any] = {
    "width": {"type": "int", "low": 8, "high": 64, "step": 8},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.1, "when": {"optimizer": "sgd"}},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "bias": {"type": "categorical", "choices": [True, False, None, 2, 0.5, "2"]},
    "decay": 1e-4,
}


def test_distributions_are_optunas_parents_first() -> None:
    """What ``when`` names comes before what depends on it; constants are not Optuna's."""
    found = distributions(spec_of("sqlite:///x.db", parameters=SPACE))
    assert found == {
        "width": IntDistribution(8, 64, step=8),
        "optimizer": CategoricalDistribution(["sgd", "adam"]),
        "momentum": FloatDistribution(0.0, 0.9, step=0.1),
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
        "bias": CategoricalDistribution([True, False, None, 2, 0.5, "2"]),
    }
    assert list(found).index("optimizer") < list(found).index("momentum")


def test_a_step_that_does_not_divide_the_range_ends_below_its_bound() -> None:
    """Optuna would warn about it, once for every trial."""
    found = distributions(spec_of("sqlite:///x.db", parameters={"x": {"type": "int", "low": 0, "high": 10, "step": 4}}))
    assert found == {"x": IntDistribution(0, 8, step=4)}


def test_params_are_in_file_order_with_constants_and_without_the_inactive(sqlite_url: str) -> None:
    """And Optuna has exactly the searched ones among them."""
    with opened(sqlite_url, n_trials=12, parameters=SPACE) as study:
        desk = Desk(study)
        seen = set()
        for _ in range(12):
            claim = desk.claim()
            params = desk.ledger.draw(claim)
            seen.add(params["optimizer"])
            assert ("momentum" in params) == (params["optimizer"] == "sgd")
            assert [*params] == [name for name in SPACE if name in params]
            assert params["decay"] == 1e-4
            told = desk.plain().trials[claim.number].params
            assert _typed(told) == _typed({name: value for name, value in params.items() if name != "decay"})
        assert seen == {"sgd", "adam"}


def test_types_survive_being_sealed(sqlite_url: str) -> None:
    """``True`` is not ``1.0``, ``2`` not ``"2"``, and None is a value; the same when read back."""
    entries = [{"bias": choice} for choice in SPACE["bias"]["choices"]] + [{"lr": 0.05, "width": 16}, {"lr": 0.01}]
    with opened(sqlite_url, n_trials=8, parameters=SPACE, initial_trials=entries) as study:
        desk = Desk(study)
        for entry in entries:
            claim = desk.claim()
            drawn = desk.ledger.draw(claim)
            assert _typed(drawn).items() >= _typed(entry).items()
            assert _typed(desk.ledger.draw(claim)) == _typed(drawn)
            assert _typed(dict(desk.row(claim.number).params or {})) == _typed(drawn)


def test_initial_trials_may_decide_which_parameters_there_are(sqlite_url: str) -> None:
    """A given parent switches its dependents on, a whole number given for a float is a float."""
    entries = [{"optimizer": "sgd", "momentum": 0}, {"optimizer": "adam"}]
    with opened(sqlite_url, parameters=SPACE, initial_trials=entries) as study:
        desk = Desk(study)
        first, second = (desk.ledger.draw(desk.claim()) for _ in entries)
        assert repr(first["momentum"]) == "0.0"
        assert "momentum" not in second


def test_what_is_sealed_is_never_drawn_again(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever continues a trial asks no sampler."""
    with opened(sqlite_url) as study:
        drawn = Desk(study, DEAD).ledger.draw(Desk(study, DEAD).claim())
        monkeypatch.setattr("tunesafe.study.suggest.draw", None)
        desk = Desk(study)
        assert desk.ledger.draw(desk.claim()) == drawn


def _draws(url: str, sampler: dict[str, Any], deaths: list[tuple[str, int]], patch: Any) -> list[dict[str, Parameter]]:
    """The parameters of three trials, after as many deaths while drawing the last of them."""
    keys: dict[str, Any] = {"n_trials": 3, "parameters": SPACE, "sampler": sampler}
    drawn = []
    for number in range(3):
        for point, passing in deaths if number == 2 else ():
            with opened(url, **keys) as study, dying_at(patch, point, passing):
                desk = Desk(study, DEAD)
                desk.ledger.draw(desk.claim())
        with opened(url, **keys) as study:
            desk = Desk(study)
            claim = desk.claim()
            drawn.append(desk.ledger.draw(claim))
            desk.ledger.finish(claim, complete(1.0 / (1 + number)))
            desk.ledger.close(claim)
    return drawn


@pytest.mark.parametrize(
    "sampler", [{"name": "random"}, {"name": "tpe", "n_startup_trials": 1}], ids=lambda sampler: str(sampler["name"])
)
def test_a_draw_that_was_cut_off_anywhere_ends_in_the_same_parameters(
    sampler: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead before the memo, after it, between two parameters and at the seal: suggestion n is suggestion n."""
    points = [
        ("claim.after", 1),
        ("sample.memo", 1),
        ("sample.memoised", 1),
        ("sample.parameter", 2),
        ("sample.sealed", 1),
    ]
    undisturbed = _draws(f"sqlite:///{tmp_path / 'a.db'}", sampler, [], monkeypatch)
    disturbed = _draws(f"sqlite:///{tmp_path / 'b.db'}", sampler, points, monkeypatch)
    assert [_typed(params) for params in disturbed] == [_typed(params) for params in undisturbed]
    trials = [
        optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / name}").trials for name in ("a.db", "b.db")
    ]
    assert [trial.params for trial in trials[0]] == [trial.params for trial in trials[1]]
    assert [trial.system_attrs for trial in trials[0]] == [trial.system_attrs for trial in trials[1]]


def _typed(params: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Values with their types, which equality forgets."""
    return {name: (type(value).__name__, value) for name, value in params.items()}
