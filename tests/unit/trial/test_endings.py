# ruff: noqa: SIM105, BLE001 - swallowing is what is tested
"""How a trial ends: verdicts, stops, exceptions, and what its services raise; whatever user code does with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from tests.unit.trial import support
from tests.unit.trial.support import X, new_trial, reporting, run, well
from tunesafe.contracts import Judgement, Report, Snapshot, Verdict
from tunesafe.errors import DamagedError, LeaseLostError, StorageError
from tunesafe.trial import MemoryServices, Trial, TrialPruned, run_trial

# ---------------------------------------------------------------------------- verdicts


class Judging(MemoryServices):
    """Gives one verdict at the second virtual epoch."""

    verdict = Verdict.PRUNE

    def judge(self, report: Report) -> Judgement:
        return Judgement(self.verdict if report.virtual_epoch == 2 else Verdict.CONTINUE, False)


def test_a_prune_verdict_ends_the_trial_as_pruned() -> None:
    """It reaches user code as Optuna's exception; the value is the last one reported."""
    seen = []

    def train(trial: Trial) -> None:
        try:
            reporting(trial, loss=5.0)
        except optuna.TrialPruned as pruned:
            seen.append(pruned)
            raise

    outcome = run(train, Judging())
    assert isinstance(seen[0], TrialPruned)
    assert (outcome.ending, outcome.value, outcome.selected_virtual_epoch) == ("pruned", 5.0, 2)
    assert (outcome.examples_seen, outcome.reason) == (66, "pruned after virtual epoch 2")


def test_a_swallowed_prune_verdict_ends_the_loop_and_is_raised_by_later_reports() -> None:
    """The outcome is pruned, and no further virtual epoch is given."""
    services, later = Judging(), []

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                pass
            try:
                trial.report(loss=epoch.index)
            except Exception:
                pass
        for _ in range(2):
            with pytest.raises(TrialPruned):
                trial.report(loss=9)
            later.append(trial.examples_seen)

    outcome = run(train, services)
    assert (outcome.ending, outcome.examples_seen, later) == ("pruned", 66, [66, 66])
    assert len(services.reports) == 2
    assert services.snapshot is not None
    assert services.snapshot.position.virtual_epoch == 1  # a pruned trial's last state is of no use


def test_a_pruned_trial_stays_pruned_when_user_code_fails_afterwards() -> None:
    """The verdict came first."""

    def train(trial: Trial) -> None:
        try:
            well(trial)
        except TrialPruned:
            raise RuntimeError("clean-up went wrong") from None

    assert run(train, Judging()).ending == "pruned"


def test_user_code_may_prune_by_itself() -> None:
    """Code written for Optuna raises its exception where it likes."""

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                pass
            trial.report(loss=1)
            raise optuna.TrialPruned("by hand")

    outcome = run(train)
    assert (outcome.ending, outcome.reason) == ("pruned", "by hand")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_prunes_as_diverged(value: float) -> None:
    """There is no value to stand for the trial."""
    outcome = run(lambda trial: reporting(trial, loss=value))
    assert (outcome.ending, outcome.value, outcome.selected_virtual_epoch) == ("pruned", None, None)
    assert str(outcome.reason).startswith("diverged in virtual epoch 1")


def test_early_stopping_completes_the_trial_and_its_final_state_is_saved() -> None:
    """The loop ends; nothing is raised."""
    services = Judging()
    services.verdict = Verdict.STOP
    outcome = run(well, services)
    assert (outcome.ending, outcome.examples_seen) == ("complete", 66)
    assert services.snapshot is not None
    assert services.snapshot.position.virtual_epoch == 2


@pytest.mark.parametrize("leave", ["break", "return", "go on"])
def test_stop_completes_the_trial_however_the_loop_is_left(leave: str) -> None:
    """With its reason, its results, and its final state saved."""

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                pass
            trial.report(loss=4 - epoch.index)
            if epoch.index == 2:
                trial.stop("good enough")
                trial.stop("later reasons do not count")
                trial.result(score=7)
                if leave == "break":
                    break
                if leave == "return":
                    return

    services = MemoryServices()
    outcome = run(train, services)
    assert (outcome.ending, outcome.reason, outcome.value) == ("complete", "good enough", 2.0)
    assert outcome.result == {"score": 7.0}
    assert services.snapshot is not None
    assert (services.snapshot.position.virtual_epoch, services.snapshot.position.examples_seen) == (2, 66)


def test_select_best_takes_the_best_report_and_always_saves_it() -> None:
    """Whatever the cadence; ties go to the earlier virtual epoch."""
    losses = [3.0, 1.0, 2.0, 1.0]
    positions = []

    class Noting(MemoryServices):
        def save(self, snapshot: Snapshot) -> None:
            positions.append(snapshot.position.virtual_epoch)

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                pass
            trial.report(loss=losses[epoch.index - 1])

    how = support.settings(virtual_epochs=4, select="best", every={"virtual_epochs": 10})
    outcome = run_trial(train, new_trial(Noting(how.objective), how))
    assert (outcome.value, outcome.selected_virtual_epoch) == (1.0, 2)
    assert positions == [1, 2, 4]


# ---------------------------------------------------------------------------- exceptions


def test_an_exception_of_user_code_fails_the_trial_with_its_traceback() -> None:
    """From user code on: our own frames are of no interest."""

    def train(trial: Trial) -> None:
        next(iter(trial.virtual_epochs((X,))))
        raise ValueError("lr is negative\nand so on")

    outcome = run(train)
    assert (outcome.ending, outcome.reason) == ("failed", "ValueError: lr is negative")
    assert "run_trial" not in str(outcome.traceback)
    assert "raise ValueError" in str(outcome.traceback)


def test_sys_exit_in_user_code_fails_the_trial() -> None:
    """It is no way to end a study."""
    assert run(lambda _: sys.exit(3)).reason == "SystemExit: 3"


@pytest.mark.parametrize(
    "error", [LeaseLostError("fence 3 is stale"), StorageError("disk is full"), DamagedError("a row is")]
)
@pytest.mark.parametrize("method", ["record", "save", "newest_state", "interruption", "settle_examples_per_pass"])
@pytest.mark.parametrize("swallow", [False, True])
def test_what_the_services_raise_ends_the_attempt_without_an_outcome(
    error: Exception, method: str, swallow: bool
) -> None:
    """Even if user code swallows it: the next attempt continues."""
    how = support.settings()
    services = MemoryServices(how.objective)

    def broken(*_: Any) -> None:
        raise error

    def train(trial: Trial) -> None:
        try:
            well(trial)
        except Exception:
            if not swallow:
                raise

    setattr(services, method, broken)
    with pytest.raises(type(error), match=str(error)):
        run_trial(train, new_trial(services, how))


def test_a_held_ending_is_raised_again_by_every_later_call() -> None:
    """User code that goes on after a lost lease gets nowhere."""
    how = support.settings()
    services = MemoryServices(how.objective)
    refused: list[str] = []

    def broken(*_: Any) -> None:
        raise LeaseLostError("gone")

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                pass
            calls: dict[str, Callable[[], object]] = {
                "report": lambda: trial.report(loss=1),
                "log": lambda: trial.log(a=1),
                "mean": lambda: trial.mean("a", 1),
                "result": lambda: trial.result(a=1),
                "stop": lambda: trial.stop("a"),
                "virtual_epochs": lambda: trial.virtual_epochs((X,)),
                "iterate": lambda epoch=epoch: iter(epoch),
            }
            for name, call in calls.items():
                try:
                    call()
                except LeaseLostError:
                    refused.append(name)

    services.record = broken  # type: ignore[method-assign]
    with pytest.raises(LeaseLostError):
        run_trial(train, new_trial(services, how))
    assert refused == ["report", "log", "mean", "result", "stop", "virtual_epochs", "iterate"]
