"""What a claimed trial leaves behind: written ahead, fenced, and harmless to repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.unit.study.studies import (
    DEAD,
    PRUNED,
    RAISED,
    Desk,
    complete,
    dying_at,
    everything,
    keep_going,
    opened,
    report_of,
)
from tunesafe.contracts import AttributeWrite, Claim, Ending, Outcome, TrialPhase, Verdict
from tunesafe.errors import LeaseLostError, SpecError
from tunesafe.study.ledger import Decision
from tunesafe.study.lifecycle import Tally


@pytest.fixture
def desk(sqlite_url: str) -> Iterator[Desk]:
    """A study of three trials."""
    with opened(sqlite_url) as study:
        yield Desk(study)


def writing_judge(study: optuna.Study, trial: Any, values: Any) -> Decision:
    """A judge that wants something written, as successive halving does."""
    return Decision(Verdict.CONTINUE, (AttributeWrite(f"rung_{len(values)}", values[-1]),))


def at(desk: Desk, number: int) -> Any:
    """A trial as plain Optuna sees it."""
    return desk.plain().trials[number]


# --- reports -------------------------------------------------------------------------------------


def test_a_report_is_in_both_tables_and_judged_once(desk: Desk) -> None:
    """The judge sees a copy of the trial that already holds the new value, and all values so far."""
    seen: list[Any] = []

    def judge(study: optuna.Study, trial: Any, values: Any) -> Decision:
        seen.append((dict(trial.intermediate_values), list(values)))
        return keep_going(study, trial, values)

    working = Desk(desk.study, judge=judge)
    claim = working.claim()
    first, second = working.report(claim, 0.5, 0.25)
    assert seen == [({1: 0.5}, [0.5]), ({1: 0.5, 2: 0.25}, [0.5, 0.25])]
    assert [(record.report, record.verdict, record.improved) for record in working.records(0)] == [
        (first.report, Verdict.CONTINUE, True),
        (second.report, Verdict.CONTINUE, True),
    ]
    assert at(desk, 0).intermediate_values == {1: 0.5, 2: 0.25}
    assert desk.row(0).examples_seen == 20


@pytest.mark.parametrize(
    ("direction", "values", "improved"),
    [
        ("minimize", [3.0, 3.0, 2.0, math.nan, 2.5, 1.0], [True, False, True, False, False, True]),
        ("maximize", [3.0, 4.0, math.inf, 3.5, 4.5, 4.5], [True, True, False, False, True, False]),
    ],
)
def test_a_report_improves_on_the_best_finite_value_before(
    direction: str, values: list[float], improved: list[bool], sqlite_url: str
) -> None:
    """Strictly; what is not finite is never the best."""
    with opened(sqlite_url, objective={"metric": "loss", "direction": direction}) as study:
        desk = Desk(study)
        assert [record.improved for record in desk.report(desk.claim(), *values)] == improved


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_ends_the_trial_and_never_reaches_optuna(value: float, desk: Desk) -> None:
    """The real value is in our record; no judge is asked."""
    claim = desk.claim()
    *_, record = Desk(desk.study, judge=writing_judge).report(claim, 0.5, value)
    assert record.verdict is Verdict.DIVERGED
    assert repr(desk.records(0)[1].report.metrics["loss"]) == repr(value)
    assert at(desk, 0).intermediate_values == {1: 0.5}
    desk.ledger.finish(claim, replace(PRUNED, reason="diverged"))
    desk.ledger.close(claim)
    assert (at(desk, 0).state, at(desk, 0).user_attrs["reason"]) == (TrialState.PRUNED, "diverged")


@pytest.mark.parametrize(
    ("point", "durable"),
    [("report.judged", 0), ("report.in_transaction", 0), ("report.recorded", 1), ("report.applied", 1)],
)
def test_a_death_in_a_report_leaves_all_of_it_or_nothing(
    point: str, durable: int, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record and intermediate value are one commit; what the pruner wanted written follows on resumption."""
    dead = Desk(desk.study, DEAD, judge=writing_judge)
    claim = dead.claim()
    dead.ledger.draw(claim)
    with dying_at(monkeypatch, point):
        dead.report(claim, 0.5)
    assert len(desk.records(0)) == len(at(desk, 0).intermediate_values) == durable
    known = desk.ledger.records(desk.claim())
    assert len(known) == durable
    assert ("rung_1" in at(desk, 0).system_attrs) == bool(durable)


def test_replaying_records_changes_nothing(desk: Desk) -> None:
    """However often a trial is resumed."""
    working = Desk(desk.study, judge=writing_judge)
    claim = working.claim()
    known = working.report(claim, 0.5, math.nan)
    before = everything(desk)
    for _ in range(2):
        assert [r.report.virtual_epoch for r in working.ledger.records(claim)] == [
            r.report.virtual_epoch for r in known
        ]
    assert everything(desk) == before


# --- fences --------------------------------------------------------------------------------------


ACTS: dict[str, Any] = {
    "draw": lambda desk, claim: desk.ledger.draw(claim),
    "report": lambda desk, claim: desk.ledger.report(claim, report_of(1, 0.5), ()),
    "a report that diverged": lambda desk, claim: desk.ledger.report(claim, report_of(1, math.nan), ()),
    "finish": lambda desk, claim: desk.ledger.finish(claim, PRUNED),
    "an exception": lambda desk, claim: desk.ledger.finish(claim, RAISED),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_worker_whose_trial_another_has_claimed_writes_nothing_anywhere(act: Any, desk: Desk) -> None:
    """Neither to our tables nor to Optuna's."""
    old = Desk(desk.study, DEAD)
    stale = old.claim()
    desk.claim()
    before = everything(desk)
    with pytest.raises(LeaseLostError, match="Trial 0 has been claimed by another worker"):
        act(old, stale)
    assert everything(desk) == before


def test_a_stale_worker_can_neither_tell_nor_attach(desk: Desk, tmp_path: Path) -> None:
    """Nor write what its records say once more."""
    old = Desk(desk.study, DEAD, judge=writing_judge)
    stale = old.claim()
    old.report(stale, 0.5)
    old.ledger.finish(stale, PRUNED)
    desk.claim()
    before = everything(desk)
    file = tmp_path / "figure.png"
    file.write_bytes(b"x")
    with pytest.raises(LeaseLostError):
        old.ledger.close(stale)
    with pytest.raises(LeaseLostError):
        attach(old, stale, file, tmp_path)
    assert everything(desk) == before


def attach(desk: Desk, claim: Claim, file: Path, folder: Path) -> None:
    """Attach a file through a ledger whose artifacts are in a test's folder."""
    desk.ledger._artifacts = folder / "artifacts"
    desk.ledger.attach(claim, file)


# --- endings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "value"),
    [
        (complete(0.5), TrialState.COMPLETE, 0.5),
        (PRUNED, TrialState.PRUNED, 0.25),  # Optuna's own rule: the last report
        (Outcome(Ending.FAILED, None, None, 20, reason="three deaths"), TrialState.FAIL, None),
    ],
)
def test_what_optuna_is_told(outcome: Outcome, state: TrialState, value: float | None, desk: Desk) -> None:
    """State, value, curve, and as user attributes what tunesafe knows beside them."""
    claim = desk.claim()
    params = desk.ledger.draw(claim)
    desk.report(claim, 0.75, 0.25)
    desk.ledger.finish(claim, replace(outcome, result={"test_loss": 0.125}))
    desk.ledger.close(claim)
    trial = at(desk, 0)
    assert (trial.state, trial.value, trial.params, trial.intermediate_values) == (
        state,
        value,
        params,
        {1: 0.75, 2: 0.25},
    )
    expected = {"examples_seen": outcome.examples_seen, "attempts": 1, "result:test_loss": 0.125}
    if outcome.selected_virtual_epoch is not None:
        expected["selected_virtual_epoch"] = outcome.selected_virtual_epoch
    if outcome.reason is not None:
        expected["reason"] = outcome.reason
    assert trial.user_attrs == expected
    assert desk.row(0).phase is TrialPhase.TOLD


@pytest.mark.parametrize(
    "point",
    ["finish.before", "finish.recorded", "finish.attributes", "tell.after_trial", "tell.in_transaction", "tell.after"],
)
def test_a_death_at_any_step_of_an_ending_is_made_up_for(
    point: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever claims it next finishes what was begun; nothing is told twice and nothing is lost."""
    dead = Desk(desk.study, DEAD)
    claim = dead.claim()
    dead.ledger.draw(claim)
    dead.report(claim, 0.5)
    with dying_at(monkeypatch, point):
        dead.ledger.finish(claim, complete(0.5))
        dead.ledger.close(claim)
    if desk.row(0).phase is not TrialPhase.TOLD:
        again = desk.claim()
        assert again.number == 0
        if again.phase is TrialPhase.CLAIMED:
            desk.ledger.finish(again, complete(0.5))
        assert desk.ledger.close(again) == complete(0.5)
    trial = at(desk, 0)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.user_attrs["attempts"] == (2 if point == "finish.before" else 1)
    assert desk.phases() == ["told", "free", "free"]


def test_closing_again_changes_nothing(desk: Desk) -> None:
    """Its answer is the outcome that was recorded."""
    claim = desk.run(complete(0.5))
    before = everything(desk)
    assert desk.ledger.close(claim) == complete(0.5)
    assert everything(desk) == before


def test_an_exception_is_held_and_not_told(desk: Desk) -> None:
    """Until it is known what becomes of its streak."""
    claim = desk.claim()
    assert desk.ledger.finish(claim, RAISED) is TrialPhase.HELD
    assert at(desk, 0).state is TrialState.RUNNING
    assert desk.row(0).outcome == RAISED


# --- ended through the dashboard ------------------------------------------------------------------


def tell_elsewhere(desk: Desk, number: int, state: TrialState, value: float | None = None) -> None:
    """End a trial as optuna-dashboard's button does."""
    storage = optuna.storages.RDBStorage(desk.study.spec.storage)
    trial_id = desk.plain().trials[number]._trial_id
    storage.set_trial_state_values(trial_id, state, None if value is None else [value])
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("state", "value", "tally"),
    [
        (TrialState.FAIL, None, Tally(free=2, failed=1)),
        (TrialState.COMPLETE, 7.0, Tally(free=2, complete=1)),
        (TrialState.COMPLETE, 0.5, Tally(free=2, complete=1)),
    ],
)
def test_an_end_that_somebody_else_told_stands(
    state: TrialState, value: float | None, tally: Tally, desk: Desk
) -> None:
    """It cannot be taken back in Optuna, so ours follows: the two agree on the best trial."""
    claim = desk.claim()
    desk.ledger.draw(claim)
    desk.report(claim, 0.5)
    desk.ledger.finish(claim, complete(0.5))
    tell_elsewhere(desk, 0, state, value)
    outcome = desk.ledger.close(claim)
    assert outcome.value == value
    assert (at(desk, 0).state, at(desk, 0).value) == (state, value)
    assert desk.claimant.tally() == tally
    assert len(desk.events("ended_elsewhere")) == (value != 0.5)


def test_a_trial_that_somebody_ends_while_it_trains_ends_at_its_next_report(desk: Desk) -> None:
    """The report is recorded with the verdict to stop; what it cannot write to Optuna is left."""
    claim = desk.claim()
    working = Desk(desk.study, judge=writing_judge)
    working.ledger.draw(claim)
    working.report(claim, 0.5)
    tell_elsewhere(desk, 0, TrialState.FAIL)
    *_, record = working.report(claim, 0.25)
    assert record.verdict is Verdict.PRUNE
    assert [r.verdict for r in desk.records(0)] == [Verdict.CONTINUE, Verdict.PRUNE]
    assert at(desk, 0).intermediate_values == {1: 0.5}
    desk.ledger.finish(claim, PRUNED)
    assert desk.ledger.close(claim).ending is Ending.FAILED


@pytest.mark.parametrize("drawn", [False, True])
def test_a_trial_that_somebody_ended_is_not_trained_again(drawn: bool, desk: Desk) -> None:
    """Whoever claims it asks first, before drawing, which Optuna would refuse."""
    dead = Desk(desk.study, DEAD)
    abandoned = dead.claim()
    assert dead.ledger.ended_elsewhere(abandoned) is None
    if drawn:
        dead.ledger.draw(abandoned)
    tell_elsewhere(desk, 0, TrialState.COMPLETE, 3.0)
    claim = desk.claim()
    outcome = desk.ledger.ended_elsewhere(claim)
    assert outcome is not None
    assert (outcome.ending, outcome.value) == (Ending.COMPLETE, 3.0)
    desk.ledger.finish(claim, outcome)
    assert desk.ledger.close(claim) == outcome
    assert desk.row(0).phase is TrialPhase.TOLD


def test_attaching_to_a_trial_that_somebody_ended_harms_nothing(desk: Desk, tmp_path: Path) -> None:
    """The file is kept; Optuna no longer lists it."""
    claim = desk.claim()
    tell_elsewhere(desk, 0, TrialState.FAIL)
    file = tmp_path / "figure.png"
    file.write_bytes(b"x")
    attach(desk, claim, file, tmp_path)
    assert at(desk, 0).system_attrs.keys().isdisjoint({"artifacts"})
    assert len(list((tmp_path / "artifacts").iterdir())) == 1


# --- finite spaces ---------------------------------------------------------------------------------

GRID = {"a": {"type": "categorical", "choices": [1, 2]}, "b": {"type": "categorical", "choices": ["x", "y"]}}


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_a_space_without_further_points_ends_the_study(sampler: str, sqlite_url: str) -> None:
    """With the trials it has, each point once, and an event that says so."""
    with opened(sqlite_url, n_trials=9, sampler={"name": sampler}, parameters=GRID) as study:
        desk = Desk(study)
        points = set()
        while desk.claimant.tally().free:
            claim = desk.run(complete(1.0))
            points.add(tuple(at(desk, claim.number).params.values()))
        assert points == {(a, b) for a in (1, 2) for b in ("x", "y")}
        assert desk.phases() == ["told"] * 4
        [event] = desk.events("exhausted")
        assert event.details["trials"] == 4
        assert desk.claimant.claim() is None


def test_a_last_point_that_was_ended_through_the_dashboard_ends_the_study_as_well(sqlite_url: str) -> None:
    """Optuna's samplers say that they are exhausted only to whoever tells the last trial."""
    with opened(sqlite_url, n_trials=9, sampler={"name": "grid"}, parameters=GRID) as study:
        desk = Desk(study)
        for _ in range(3):
            desk.run(complete(1.0))
        claim = desk.claim()
        desk.ledger.draw(claim)
        desk.ledger.finish(claim, PRUNED)
        tell_elsewhere(desk, 3, TrialState.FAIL)
    with opened(sqlite_url, n_trials=9, sampler={"name": "grid"}, parameters=GRID) as study:
        desk = Desk(study, owner=DEAD)
        desk.expire(3)
        desk.ledger.close(desk.claim())
        assert desk.phases() == ["told"] * 4
        assert len(desk.events("exhausted")) == 1


# --- the length of a pass ----------------------------------------------------------------------------


def test_the_first_trial_settles_the_length_of_a_pass(sqlite_url: str) -> None:
    """A later, different length is refused, and the error says how to keep the compute equal."""
    with opened(sqlite_url, budget={"passes": 2, "virtual_epochs": 4}) as study:
        ledger = Desk(study).ledger
        assert ledger.settle_examples_per_pass(100) == 100
        assert ledger.settle_examples_per_pass(100) == 100
        with pytest.raises(SpecError, match=r"has 101 examples now.*counts 100.*examples_per_pass: 100"):
            ledger.settle_examples_per_pass(101)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [({"passes": 2, "examples_per_pass": 80, "virtual_epochs": 4}, 80), ({"examples": 40, "virtual_epochs": 4}, 101)],
)
def test_a_budget_that_names_its_length_takes_any_data(budget: dict[str, Any], expected: int, sqlite_url: str) -> None:
    """Nothing is settled: the file has."""
    with opened(sqlite_url, budget=budget) as study:
        ledger = Desk(study).ledger
        assert [ledger.settle_examples_per_pass(n) for n in (100, 101)][-1] == expected
