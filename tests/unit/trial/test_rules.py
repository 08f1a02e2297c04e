# ruff: noqa: D103, SIM105, BLE001 - the trainings' names say what they break; swallowing is what is tested
"""The rules of the loop: each broken one has its own error, and fails the trial whatever user code does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trial import support
from tests.unit.trial.support import X, new_trial
from tunesafe.contracts import Assignment, Judgement, Outcome, Report, Snapshot, Verdict
from tunesafe.errors import LeaseLostError, SpecError, StorageError
from tunesafe.spec import Budget
from tunesafe.trial import MemoryServices, Trial, TrialPruned, TrialSettings, run_trial


def run(train: Callable[[Trial], object], services: MemoryServices | None = None, **how: Any) -> Outcome:
    """The outcome of a training in memory."""
    chosen = support.settings(**how)
    return run_trial(train, new_trial(services or MemoryServices(chosen.objective), chosen))


def no_report(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass


def no_last_report(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass
        if epoch.index < 3:
            trial.report(loss=1)


def report_among_batches(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            trial.report(loss=1)


def two_reports(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass
        trial.report(loss=1)
        trial.report(loss=1)


def report_before_loop(trial: Trial) -> None:
    trial.report(loss=1)


def report_after_loop(trial: Trial) -> None:
    well(trial)
    trial.report(loss=1)


def broken_batch_loop(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            break
        trial.report(loss=1)


def broken_batch_loop_without_report(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            break


def break_at_last_batch(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for count, _ in enumerate(epoch, start=1):
            if count == 3:
                break
        trial.report(loss=1)


def no_batches_at_all(trial: Trial) -> None:
    for _ in trial.virtual_epochs((X,)):
        trial.report(loss=1)


def batches_twice(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass
        for _ in epoch:
            pass


def two_loops(trial: Trial) -> None:
    well(trial)
    well(trial)


def no_loop(trial: Trial) -> None:
    trial.result(loss=1)


def loop_never_entered(trial: Trial) -> None:
    trial.virtual_epochs((X,))


def returns_early(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass
        trial.report(loss=1)
        return


def tracks_late(trial: Trial) -> None:
    for _ in trial.virtual_epochs((X,)):
        trial.track(late={})


def schedules_late(trial: Trial) -> None:
    for _ in trial.virtual_epochs((X,)):
        trial.schedule(torch.optim.SGD([torch.zeros(1)], lr=1), float)


def streams_late(trial: Trial) -> None:
    for _ in trial.virtual_epochs((X,)):
        trial.stream("late", (X,), 3)


def tracks_twice(trial: Trial) -> None:
    trial.track(model={})
    trial.track(model={})


def tracks_reserved(trial: Trial) -> None:
    trial.track(tunesafe={})


def streams_twice(trial: Trial) -> None:
    trial.stream("noise", (X,), 3)
    trial.stream("noise", (X,), 3)


def stops_before_loop(trial: Trial) -> None:
    trial.stop("no")


def stops_before_report(trial: Trial) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            trial.stop("no")


def other_metric(trial: Trial) -> None:
    _report(trial, los=1)


def no_metric(trial: Trial) -> None:
    _report(trial)


def text_metric(trial: Trial) -> None:
    _report(trial, loss="0.3")


def bool_metric(trial: Trial) -> None:
    _report(trial, loss=True)


def array_metric(trial: Trial) -> None:
    _report(trial, loss=torch.zeros(2))


def huge_metric(trial: Trial) -> None:
    _report(trial, loss=10**400)


def complex_metric(trial: Trial) -> None:
    _report(trial, loss=1j)


def missing_artifact(trial: Trial) -> None:
    trial.artifact("there/is/no/such.file")


def mean_without_number(trial: Trial) -> None:
    trial.mean("loss", None, 3)


def mean_without_weight(trial: Trial) -> None:
    trial.mean("loss", 1.0, -1)


def well(trial: Trial) -> None:
    """Break nothing."""
    _report(trial, loss=1)


def _report(trial: Trial, **metrics: Any) -> None:
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            pass
        trial.report(**metrics)


RULES: dict[Callable[[Trial], None], str] = {
    no_report: "The next virtual epoch was asked for, but virtual epoch 1 had no trial.report()",
    no_last_report: "virtual epoch 3 had no trial.report()",
    report_among_batches: "trial.report() in virtual epoch 1 came too early, at example 0, before its end at 33",
    two_reports: "trial.report() was called a second time in virtual epoch 1",
    report_before_loop: "trial.report() was called outside of a virtual epoch",
    report_after_loop: "trial.report() was called outside of a virtual epoch",
    broken_batch_loop: "The batch loop of virtual epoch 1 was left early, at example 0, before its end at 33",
    broken_batch_loop_without_report: "The batch loop of virtual epoch 1 was left early",
    break_at_last_batch: "The batch loop of virtual epoch 1 was left early, at example 25, before its end at 33",
    no_batches_at_all: "its batches were not iterated at all",
    batches_twice: "Virtual epoch 1 is iterated a second time",
    two_loops: "trial.virtual_epochs() was called a second time",
    no_loop: "without calling trial.virtual_epochs()",
    loop_never_entered: "returned after 0 of 3 virtual epochs",
    returns_early: "returned after 1 of 3 virtual epochs",
    tracks_late: "trial.track() was called after trial.virtual_epochs()",
    schedules_late: "trial.schedule() was called after trial.virtual_epochs()",
    streams_late: "trial.stream() was called after trial.virtual_epochs()",
    tracks_twice: "the name 'model' is taken",
    tracks_reserved: "the name 'tunesafe' is taken",
    streams_twice: "the name is taken",
    stops_before_loop: "trial.stop() was called outside of a virtual epoch",
    stops_before_report: "trial.stop() came before trial.report() in virtual epoch 1",
    other_metric: "got los, but not the study's objective 'loss'; did you mean 'los'?",
    no_metric: "got no metrics, but not the study's objective 'loss'",
    text_metric: "trial.report(loss=…) got '0.3', a str",
    bool_metric: "use float(…) if 0.0 and 1.0 are meant",
    array_metric: "got values of shape (2,)",
    huge_metric: "too large for a float",
    complex_metric: "a complex",
    missing_artifact: "there is no such file",
    mean_without_number: "got None, a NoneType",
    mean_without_weight: "a weight cannot be negative",
}


@pytest.mark.parametrize("train", RULES, ids=lambda train: train.__name__)
def test_a_broken_rule_fails_the_trial_and_says_which(train: Callable[[Trial], None]) -> None:
    """Every rule has a message of its own."""
    outcome = run(train)
    assert outcome.ending == "failed"
    assert RULES[train] in str(outcome.reason)
    assert RULES[train] in str(outcome.traceback)
    assert outcome.value is None


@pytest.mark.parametrize("train", RULES, ids=lambda train: train.__name__)
def test_a_broken_rule_fails_the_trial_even_if_the_error_is_swallowed(train: Callable[[Trial], None]) -> None:
    """``except Exception`` around the loop changes nothing."""

    def swallowing(trial: Trial) -> None:
        try:
            train(trial)
        except Exception:
            pass

    outcome = run(swallowing)
    assert outcome.ending == "failed"
    # What is only noticed when user code returns is found there, whatever was swallowed before.
    assert RULES[train].partition(" was asked")[0].split(", but")[-1] in str(outcome.reason)


def test_no_batch_size_is_an_error_that_says_how_to_give_one() -> None:
    """There is neither an argument nor a parameter."""
    how = support.settings()
    outcome = run_trial(well, Trial(Assignment("study", 0, 1, 0, {}), how, MemoryServices(how.objective)))
    assert "virtual_epochs() got no batch_size" in str(outcome.reason)


@pytest.mark.parametrize(
    "value", [2, 0.5, np.float32(0.5), np.int64(3), torch.tensor(0.5), torch.tensor(3), np.array(0.25), float("inf")]
)
def test_numbers_of_every_kind_can_be_reported(value: Any) -> None:
    """Python's, numpy's and torch's; gradients are let go."""
    outcome = run(lambda trial: _report(trial, loss=1, other=value))
    assert outcome.ending == "complete"


def test_more_virtual_epochs_than_examples_ends_the_study_not_the_trial() -> None:
    """As soon as it is knowable; exit code 2."""
    how = TrialSettings(Budget.model_validate({"passes": 0.03, "virtual_epochs": 3}))
    with pytest.raises(SpecError, match="3 virtual epochs do not fit into a trial of 1 examples"):
        run_trial(well, new_trial(MemoryServices(), how))


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
            _report(trial, loss=5.0)
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
    outcome = run(lambda trial: _report(trial, loss=value))
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


@pytest.mark.parametrize("error", [LeaseLostError("fence 3 is stale"), StorageError("disk is full")])
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


# ---------------------------------------------------------------------------- fairness


@settings(max_examples=60)
@given(
    examples=st.integers(1, 150),
    virtual_epochs=st.integers(1, 8),
    batch_size=st.integers(1, 170),
    accumulate=st.integers(1, 3),
    batching=st.sampled_from(["exact", "whole"]),
)
def test_every_trial_consumes_exactly_its_budget(
    examples: int, virtual_epochs: int, batch_size: int, accumulate: int, batching: str
) -> None:
    """Counted in the training loop, for every batch size up to beyond the virtual epoch."""
    virtual_epochs = min(virtual_epochs, examples)
    counts: list[int] = []

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,), batch_size=batch_size, accumulate=accumulate):
            count = 0
            for (x,) in epoch:
                count += len(x)
            counts.append(count)
            assert trial.examples_seen == sum(counts)
            trial.report(loss=1)

    outcome = run(train, examples=examples, virtual_epochs=virtual_epochs, batching=batching)
    assert outcome.ending == "complete", outcome.traceback
    assert (sum(counts), outcome.examples_seen, len(counts)) == (examples, examples, virtual_epochs)
    if batching == "exact":
        ends = [k * examples // virtual_epochs for k in range(virtual_epochs + 1)]
        assert counts == [end - start for start, end in pairwise(ends)]


def test_virtual_epochs_smaller_than_a_batch_are_noted_once() -> None:
    """For ``status``; a resumed attempt does not say it again."""
    how = support.settings(every={"virtual_epochs": 1})
    _, services = support.run_with_deaths(support.plain, how, [9], batch_size=1000)
    assert services.events == [("small_virtual_epochs", {"batch_size": 1000, "accumulate": 1, "examples": 33})]
