"""A trial that dies anywhere and resumes ends in the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trial import support
from tests.unit.trial.support import TRAININGS, Death, contents, dying_at, new_trial, run_with_deaths
from tunesafe.contracts import Judgement, Position, Report, Snapshot, Verdict
from tunesafe.spec import Objective
from tunesafe.trial import MemoryServices, Trial, TrialSettings, run_trial

WAYS: dict[str, dict[str, Any]] = {
    "every virtual epoch": {},
    "every second": {"every": {"virtual_epochs": 2}},
    "whole": {"batching": "whole"},
    "mid-epoch, every step": {"mid_epoch": True, "every": {"examples": 1}},
    "mid-epoch, every 37": {"mid_epoch": True, "every": {"examples": 37}},
    "select best": {"select": "best", "every": {"virtual_epochs": 3}},
}


class LateServices(MemoryServices):
    """Checkpoints become durable when the next one comes; a death loses the one in flight."""

    def __init__(self, objective: Objective | None) -> None:
        super().__init__(objective)
        self.in_flight: Snapshot | None = None

    def save(self, snapshot: Snapshot) -> None:
        if self.in_flight is not None:
            super().save(self.in_flight)
        self.in_flight = snapshot


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", TRAININGS)
def test_a_trial_that_dies_at_any_point_ends_in_the_same_bits(training: str, way: str) -> None:
    """Killed at every failpoint passing in turn: outcome, reports and final state do not change."""
    train, how = TRAININGS[training], support.settings(**WAYS[way])
    with dying_at(None) as passed:
        outcome = run_trial(train, new_trial(services := MemoryServices(how.objective), how))
    assert outcome.ending == "complete", outcome
    for death in range(1, len(passed) + 1, 1 if way == "every virtual epoch" else 3):
        again, survivors = run_with_deaths(train, how, [death])
        assert again == outcome
        assert survivors.reports == services.reports
        assert contents(survivors.snapshot) == contents(services.snapshot)


@settings(max_examples=20)
@given(
    training=st.sampled_from(sorted(TRAININGS)),
    way=st.sampled_from(sorted(WAYS)),
    deaths=st.lists(st.integers(1, 25), min_size=2, max_size=6),
    late=st.booleans(),
)
def test_a_trial_that_dies_again_and_again_ends_in_the_same_bits(
    training: str, way: str, deaths: list[int], late: bool
) -> None:
    """Also when checkpoints lag behind the reports."""
    train, how = TRAININGS[training], support.settings(**WAYS[way])
    outcome, services = run_with_deaths(train, how, [])
    again, survivors = run_with_deaths(train, how, deaths, (LateServices if late else MemoryServices)(how.objective))
    assert again == outcome
    assert survivors.reports == services.reports
    newest = survivors.in_flight if isinstance(survivors, LateServices) else survivors.snapshot
    # A lagging final checkpoint whose trial is then concluded without user code is already there.
    assert contents(newest or survivors.snapshot) == contents(services.snapshot)


def test_the_position_is_right_before_the_loop_of_a_resumed_attempt() -> None:
    """User code can rebuild what training added by asking how far it has come."""
    how = support.settings()
    services = _dead_after_batches(how, 5)
    trial = new_trial(services, how, attempt=2)
    assert trial.resumed
    assert (trial.examples_seen, trial.progress) == (33, pytest.approx(0.33))
    fresh = new_trial(MemoryServices(how.objective), how)
    assert not fresh.resumed
    assert (fresh.examples_seen, fresh.progress) == (0, 0.0)


def _dead_after_batches(how: TrialSettings, count: int) -> MemoryServices:
    services = MemoryServices(how.objective)

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((support.X,)):
            for _ in epoch:
                if passed.count("train.batch") == count:
                    raise Death("now")
            trial.report(loss=1.0 / epoch.index)

    with dying_at(None) as passed, pytest.raises(Death):
        run_trial(train, new_trial(services, how))
    return services


def test_an_attempt_that_resumes_inside_a_virtual_epoch_gets_what_is_left_of_it() -> None:
    """The same virtual epoch, marked as resumed, with its remaining batches only."""
    how = support.settings(mid_epoch=True, every={"examples": 1})
    services = _dead_after_batches(how, 4)  # of batches 17, 16; 17, 16 …: dies inside the second virtual epoch
    seen = []

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((support.X,)):
            seen.append((epoch.index, epoch.resumed, [len(x) for (x,) in epoch]))
            trial.report(loss=1.0)

    run_trial(train, new_trial(services, how, attempt=2))
    assert [(index, resumed) for index, resumed, _ in seen] == [(2, True), (3, False)]
    assert sum(seen[0][2]) < 33
    assert sum(seen[1][2]) == 34


def test_numbers_drawn_on_the_way_to_the_first_batch_do_not_matter_inside_a_virtual_epoch() -> None:
    """Generators are put back when the first remaining batch is asked for."""
    how = support.settings(mid_epoch=True, every={"examples": 1})

    def run(deaths: list[int]) -> list[float]:
        drawn: list[float] = []

        def train(trial: Trial) -> None:
            for epoch in trial.virtual_epochs((support.X,)):
                torch.rand(3)
                for _ in epoch:
                    drawn.append(torch.rand(()).item())
                trial.report(loss=1.0)

        run_with_deaths(train, how, deaths)
        return drawn

    uninterrupted, resumed = run([]), run([5])
    assert resumed[-4:] == uninterrupted[-4:]


def test_a_finished_trial_is_concluded_without_user_code() -> None:
    """Death between the final checkpoint and the record of the outcome costs nothing."""
    how = support.settings()
    outcome, services = run_with_deaths(TRAININGS["scheduled"], how, [])

    def train(_: Trial) -> None:
        raise AssertionError("nothing is left to train")

    assert run_trial(train, new_trial(services, how, attempt=2)) == outcome
    assert outcome.result.keys() == {"test_loss"}


@pytest.mark.parametrize("verdict", [Verdict.PRUNE, Verdict.DIVERGED])
def test_a_recorded_prune_needs_no_training(verdict: Verdict) -> None:
    """Death between the record of a verdict and the outcome does not train again."""
    how = support.settings()
    services = MemoryServices(how.objective)
    services.reports = [Report(1, 33, {"loss": 2.0}), Report(2, 66, {"loss": 3.0})]
    services.judgements = {1: Judgement(Verdict.CONTINUE, True), 2: Judgement(verdict, False)}
    outcome = run_trial(lambda _: pytest.fail("trained"), new_trial(services, how, attempt=2))
    assert (outcome.ending, outcome.value, outcome.examples_seen) == ("pruned", 3.0, 66)


def test_a_recorded_stop_without_its_state_is_trained_again() -> None:
    """The final weights must exist: the verdict is the recorded one, the training is repeated."""

    class Stopping(MemoryServices):
        def judge(self, report: Report) -> Judgement:
            return Judgement(Verdict.STOP if report.virtual_epoch == 2 else Verdict.CONTINUE, True)

    how = support.settings()
    outcome, services = run_with_deaths(TRAININGS["plain"], how, [], Stopping(how.objective))
    assert outcome.ending == "complete"
    assert outcome.reason == "early stopping after virtual epoch 2"
    services.snapshot = None
    again, survivors = run_with_deaths(TRAININGS["plain"], how, [], services)
    assert again == outcome
    assert survivors.snapshot is not None
    assert survivors.snapshot.position == Position(66, 2)


def test_a_repeated_report_keeps_the_recorded_values() -> None:
    """What was measured the second time does not become the trial's value."""
    how = support.settings()
    services = MemoryServices(how.objective)
    services.reports = [Report(k, 0, {"loss": 0.5}) for k in (1, 2, 3)]
    services.judgements = {k: Judgement(Verdict.CONTINUE, False) for k in (1, 2, 3)}
    outcome, _ = run_with_deaths(TRAININGS["plain"], how, [], services)
    assert outcome.value == 0.5
