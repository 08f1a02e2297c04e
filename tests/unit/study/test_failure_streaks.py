"""Exceptions in a row stop a study, are held meanwhile, and run again under their numbers."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.study.studies import DEAD, PRUNED, RAISED, Desk, complete, opened
from tunesafe.contracts import TrialPhase
from tunesafe.study.claiming import Claimant
from tunesafe.study.lifecycle import Tally


def test_max_failures_in_a_row_stop_the_study_and_are_not_told(sqlite_url: str) -> None:
    """The trials of the streak keep their numbers, and Optuna never hears of the exceptions."""
    with opened(sqlite_url, n_trials=5, max_failures=2) as study:
        desk = Desk(study)
        desk.run(complete(1.0))
        desk.run(RAISED)
        assert desk.row(1).phase is TrialPhase.HELD
        desk.run(RAISED)
        assert desk.claimant.claim() is None
        assert desk.phases() == ["told", "held", "held", "free", "free"]
        assert [trial.state.name for trial in desk.plain().trials] == ["COMPLETE", "RUNNING", "RUNNING"]


def test_what_a_streak_held_runs_again_under_its_numbers(sqlite_url: str) -> None:
    """After the fix: same parameters, next attempt, no trace of the exception."""
    with opened(sqlite_url, max_failures=2) as study:
        desk = Desk(study)
        drawn = [desk.ledger.draw(desk.run(RAISED)) for _ in range(2)]
        Claimant(study).take_up_held()
        assert desk.phases() == ["claimed", "claimed", "free"]
        again = [desk.claim(), desk.claim()]
        assert [(claim.number, claim.attempt) for claim in again] == [(0, 2), (1, 2)]
        assert [desk.ledger.draw(claim) for claim in again] == drawn
        assert desk.row(0).outcome is None


def test_a_trial_that_does_not_raise_breaks_the_streak(sqlite_url: str) -> None:
    """The ones held before it are plain failures now, and are told."""
    with opened(sqlite_url, max_failures=2) as study:
        desk = Desk(study)
        desk.run(RAISED)
        desk.run(PRUNED)
        assert desk.phases() == ["closing", "told", "free"]
        desk.run(RAISED)
        assert desk.phases() == ["told", "told", "held"]
        assert [trial.state.name for trial in desk.plain().trials] == ["FAIL", "PRUNED", "RUNNING"]
        last = desk.claim()  # nothing is left that could lengthen the last streak
        assert (last.number, last.phase) == (2, TrialPhase.CLOSING)
        desk.ledger.close(last)
        assert desk.claimant.tally() == Tally(pruned=1, failed=2)


def test_a_study_of_nothing_but_exceptions_waits_for_a_fix(sqlite_url: str) -> None:
    """However few they are: none is told, all run again."""
    with opened(sqlite_url, max_failures=5) as study:
        desk = Desk(study)
        for _ in range(3):
            desk.run(RAISED)
        assert desk.claimant.claim() is None
        assert desk.phases() == ["held"] * 3
        desk.claimant.take_up_held()
        assert desk.phases() == ["claimed"] * 3


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    endings=st.lists(st.sampled_from(["complete", "pruned", "raised", "released", "died"]), min_size=1, max_size=9),
)
def test_any_history_of_endings_gives_exactly_n_trials(
    endings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever becomes of attempts, no number is skipped, doubled or begun out of order."""
    url = f"sqlite:///{tmp_path_factory.mktemp('history') / 'study.db'}"
    with opened(url, n_trials=4, max_failures=99) as study:
        for ending in [*endings, *["complete"] * 20]:
            desk = Desk(study, DEAD if ending == "died" else None)
            claim = desk.claimant.claim()
            if claim is None:
                break
            if claim.phase is TrialPhase.CLOSING:
                desk.ledger.close(claim)
                continue
            desk.ledger.draw(claim)
            if ending == "released":
                desk.claimant.release(claim)
            elif ending != "died":
                outcome = {"complete": complete(1.0), "pruned": PRUNED, "raised": RAISED}[ending]
                if desk.ledger.finish(claim, outcome) is TrialPhase.CLOSING:
                    desk.ledger.close(claim)
        tally = desk.claimant.tally()
        assert tally.ended + tally.held == 4
        assert [trial.number for trial in desk.plain().trials] == [0, 1, 2, 3]
