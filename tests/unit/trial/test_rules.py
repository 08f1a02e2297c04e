# ruff: noqa: D103, SIM105, BLE001 - the trainings' names say what they break; swallowing is what is tested
"""The rules of the loop: each broken one has its own error, and fails the trial whatever user code does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trial import support
from tests.unit.trial.support import X, new_trial, reporting, run, well
from tunesafe.contracts import Assignment
from tunesafe.errors import SpecError
from tunesafe.spec import Budget
from tunesafe.trial import MemoryServices, Trial, TrialSettings, run_trial


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
    reporting(trial, los=1)


def no_metric(trial: Trial) -> None:
    reporting(trial)


def text_metric(trial: Trial) -> None:
    reporting(trial, loss="0.3")


def bool_metric(trial: Trial) -> None:
    reporting(trial, loss=True)


def array_metric(trial: Trial) -> None:
    reporting(trial, loss=torch.zeros(2))


def huge_metric(trial: Trial) -> None:
    reporting(trial, loss=10**400)


def complex_metric(trial: Trial) -> None:
    reporting(trial, loss=1j)


def missing_artifact(trial: Trial) -> None:
    trial.artifact("there/is/no/such.file")


def mean_without_number(trial: Trial) -> None:
    trial.mean("loss", None, 3)


def mean_without_weight(trial: Trial) -> None:
    trial.mean("loss", 1.0, -1)


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
    outcome = run(lambda trial: reporting(trial, loss=1, other=value))
    assert outcome.ending == "complete"


def test_more_virtual_epochs_than_examples_ends_the_study_not_the_trial() -> None:
    """As soon as it is knowable; exit code 2."""
    how = TrialSettings(Budget.model_validate({"passes": 0.03, "virtual_epochs": 3}))
    with pytest.raises(SpecError, match="3 virtual epochs do not fit into a trial of 1 examples"):
        run_trial(well, new_trial(MemoryServices(), how))


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
