"""What user code may rely on: FixedTrial, schedules, means, streams, worker processes."""

from __future__ import annotations

import math
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.unit.trial import support
from tests.unit.trial.support import X, Y, contents, new_trial, run_with_deaths
from tunesafe.contracts import Ending, Outcome
from tunesafe.errors import Preempted, SpecError, TrialError
from tunesafe.spec import Objective
from tunesafe.trial import FixedTrial, MemoryServices, Trial, run_trial
from tunesafe.trial.means import Means
from tunesafe.trial.metrics import selected_virtual_epoch

# ---------------------------------------------------------------------------- FixedTrial


def test_a_fixed_trial_needs_no_study() -> None:
    """It is what a script, a test or a notebook passes to the same function."""
    trial = FixedTrial({"batch_size": 16, "lr": 0.05}, examples=100, virtual_epochs=3, metric="loss")
    assert trial.outcome is None
    support.plain(trial)
    assert [report.examples_seen for report in trial.reports] == [33, 66, 100]
    assert trial.outcome == Outcome(Ending.COMPLETE, trial.reports[-1].metrics["loss"], 3, 100)
    with pytest.raises(TypeError):
        trial.params["lr"] = 1  # type: ignore[index]


def test_a_fixed_trial_gives_the_same_numbers_every_time() -> None:
    """Its seed is that of every global generator."""
    losses = []
    for _ in range(2):
        trial = FixedTrial({"batch_size": 16, "lr": 0.05}, examples=100, seed=3)
        support.plain(trial)
        losses.append(trial.reports[0].metrics["loss"])
        torch.rand(7), np.random.rand(), random.random()
    assert losses[0] == losses[1]


def test_a_fixed_trial_is_one_pass_long_unless_it_says_otherwise() -> None:
    """In passes, or in examples; fractions are exact."""
    lengths = []
    for budget in ({}, {"passes": 0.29}, {"examples": 7}):
        trial = FixedTrial({"batch_size": 9}, **budget)  # type: ignore[arg-type]
        for epoch in trial.virtual_epochs((torch.arange(100),)):
            for _ in epoch:
                pass
            trial.report()
        lengths.append(trial.examples_seen)
    assert lengths == [100, 29, 7]


@pytest.mark.parametrize(
    "wrong",
    [{"examples": 0}, {"virtual_epochs": 0}, {"examples": 3, "passes": 1}, {"batching": "some"}, {"metric": ""}],
)
def test_a_fixed_trial_refuses_what_a_study_file_would(wrong: dict[str, Any]) -> None:
    """In one line."""
    with pytest.raises(SpecError, match=r"^FixedTrial: ") as raised:
        FixedTrial({}, **wrong)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------- schedule, means, streams


def test_a_schedule_multiplies_the_base_rate_and_never_compounds() -> None:
    """By progress at the batch's start, for every parameter group, tensors in place."""
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [first], "lr": 0.5}, {"params": [second], "lr": torch.tensor(0.25)}])
    held = optimizer.param_groups[1]["lr"]
    trial = FixedTrial({"batch_size": 10}, examples=60)
    handle = trial.schedule(optimizer, lambda progress: 1 - progress)
    rates = []
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            rates.append(handle.get_last_lr()[0])
            assert held.item() == pytest.approx(rates[-1] / 2)
            handle.step()
        trial.report(loss=1)
    assert rates == pytest.approx([0.5 * (1 - done / 60) for done in range(0, 60, 10)])


def test_layers_unfrozen_in_mid_training_come_back() -> None:
    """User code rebuilds the group it had added, guided by the position; the schedule knows its base rate."""

    def train(trial: Trial) -> None:
        model = support.net()
        optimizer = torch.optim.SGD(model[3].parameters(), lr=0.05, momentum=0.9)

        def unfreeze() -> None:
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})

        trial.track(model=model, optimizer=optimizer)
        trial.schedule(optimizer, lambda progress: 1 - progress / 2)
        if trial.examples_seen >= 40:
            unfreeze()
        for epoch in trial.virtual_epochs((X, Y)):
            for x, y in epoch:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
            trial.report(loss=support.evaluate(model))
            if epoch.index == 2:
                unfreeze()

    how = support.settings(virtual_epochs=5)
    outcome, services = run_with_deaths(train, how, [])
    assert outcome.ending == "complete", outcome.traceback
    for death in range(4, 22, 2):
        again, survivors = run_with_deaths(train, how, [death])
        assert again == outcome
        assert contents(survivors.snapshot) == contents(services.snapshot)


@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 64)), max_size=20), st.integers(0, 20))
def test_a_mean_is_the_same_wherever_it_was_captured(values: list[tuple[float, int]], cut: int) -> None:
    """Sums are restored to the bit."""
    whole, before, after = Means(), Means(), Means()
    for value, weight in values:
        whole.add("loss", value, weight)
    for value, weight in values[:cut]:
        before.add("loss", value, weight)
    after.restore(before.capture())
    for value, weight in values[cut:]:
        after.add("loss", value, weight)
    assert after.capture() == whole.capture()
    weights = sum(weight for _, weight in values)
    mean = whole.add("loss", 0.0, 0)
    if weights:
        assert mean == pytest.approx(sum(value * weight for value, weight in values) / weights, abs=1e-9)
    else:
        assert math.isnan(mean)


def test_means_begin_anew_in_every_virtual_epoch() -> None:
    """A mean is over one virtual epoch."""
    trial, means = FixedTrial({"batch_size": 30}, examples=60, virtual_epochs=2), []
    for epoch in trial.virtual_epochs((X,)):
        for (x,) in epoch:
            means.append(trial.mean("index", torch.tensor(float(epoch.index)), len(x)))
        trial.report()
    assert means == [1.0, 2.0]


def test_other_schedules_or_streams_than_before_are_refused() -> None:
    """They would be restored into the wrong ones."""
    how = support.settings()
    _, services = run_with_deaths(support.scheduled, how, [])
    assert services.snapshot is not None
    services = MemoryServices(how.objective)
    with support.dying_at(8), pytest.raises(support.Death):
        run_trial(support.scheduled, new_trial(services, how))

    def without(trial: Trial) -> None:
        trial.track(model=(model := support.net()), optimizer=torch.optim.SGD(model.parameters(), lr=1))
        trial.stream("other", (X,), 7)
        trial.schedule(torch.optim.SGD(model.parameters(), lr=1), float)
        next(trial.virtual_epochs((X,)))

    outcome = run_trial(without, new_trial(services, how, attempt=2))
    assert "called trial.stream(…) differently" in str(outcome.reason)


def test_what_cannot_be_saved_fails_the_trial_and_is_named() -> None:
    """At the first checkpoint."""

    def train(trial: Trial) -> None:
        trial.track(notes={"net": support.net()})
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                pass
            trial.report(loss=1)

    outcome = run_trial(train, new_trial(MemoryServices(), support.settings()))
    assert outcome.ending == "failed"
    assert "StateError" in str(outcome.reason)
    assert "notes" in str(outcome.reason)


def test_what_cannot_be_tracked_fails_the_trial() -> None:
    """With the advice of state/."""
    outcome = run_trial(lambda trial: trial.track(rate=0.1), new_trial(MemoryServices(), support.settings()))
    assert "trial.track(rate=...) got a float" in str(outcome.reason)


def test_another_budget_than_the_checkpoints_fails_the_trial() -> None:
    """Its position would mean something else."""
    _, services = run_with_deaths(support.plain, support.settings(), [])
    services = MemoryServices()
    with support.dying_at(8), pytest.raises(support.Death):
        run_trial(support.plain, new_trial(services, support.settings()))
    outcome = run_trial(support.plain, new_trial(services, support.settings(examples=200), attempt=2))
    assert "is of a trial of 100 examples, and the budget now makes it 200" in str(outcome.reason)


# ---------------------------------------------------------------------------- values and identity


def test_logs_and_artifacts_reach_the_services(tmp_path: Path) -> None:
    """With the position they were given at."""
    (tmp_path / "plot.png").write_text("png")
    trial = FixedTrial({"batch_size": 30}, examples=60)
    for epoch in trial.virtual_epochs((X,)):
        for _ in epoch:
            trial.log(rate=torch.tensor(0.5))
        trial.artifact(tmp_path / "plot.png")
        trial.report()
    assert trial.services.logs == [(0, {"rate": 0.5}), (30, {"rate": 0.5})]
    assert trial.services.artifacts == [tmp_path / "plot.png"]


def test_a_trial_knows_who_it_is() -> None:
    """Number, attempt, seed, device; and how many batches a virtual epoch gives."""
    trial = new_trial(MemoryServices(), support.settings(), attempt=2, device="cuda:1")
    assert (trial.number, trial.attempt, trial.seed, trial.device) == (3, 2, 1234, torch.device("cuda:1"))
    assert len(next(trial.virtual_epochs((X,)))) == 3


def test_generators_are_seeded_before_user_code() -> None:
    """With the trial's seed, whatever happened in the process before."""
    drawn = []

    def train(_: Trial) -> None:
        drawn.append((torch.rand(()).item(), random.random(), np.random.rand()))
        raise TrialError("enough")

    for _ in range(2):
        run_trial(train, new_trial(MemoryServices(), support.settings()))
    assert drawn[0] == drawn[1]


@given(
    st.dictionaries(st.integers(1, 9), st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf]), min_size=1),
    st.sampled_from(["minimize", "maximize"]),
)
def test_the_selected_virtual_epoch_is_the_best_finite_and_the_earliest_of_equals(
    values: dict[int, float], direction: str
) -> None:
    """None where nothing is finite."""
    history = {epoch: {"loss": value} for epoch, value in values.items()}
    objective = Objective.model_validate({"metric": "loss", "direction": direction, "select": "best"})
    selected = selected_virtual_epoch(history, objective)
    finite = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
    if not finite:
        assert selected is None
    else:
        best = (min if direction == "minimize" else max)(finite.values())
        assert selected == min(epoch for epoch, value in finite.items() if value == best)


# ---------------------------------------------------------------------------- loader workers


class Augmented(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Draws from torch's generator for every example."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return X[index] + 0.1 * torch.randn(6), Y[index]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_set_with_augmentation_resumes_in_the_same_bits(num_workers: int) -> None:
    """With loader workers or without, and the same with both."""

    def train(trial: Trial, num_workers: int = num_workers) -> None:
        model = support.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trial.track(model=model, optimizer=optimizer)
        for epoch in trial.virtual_epochs(Augmented(), num_workers=num_workers):
            for x, y in epoch:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
            trial.report(loss=support.evaluate(model))

    how = support.settings(mid_epoch=True, every={"examples": 20})
    outcome, services = run_with_deaths(lambda trial: train(trial, 0), how, [])
    again, survivors = run_with_deaths(train, how, [4, 11])
    assert again == outcome
    assert contents(survivors.snapshot) == contents(services.snapshot)


def test_a_failure_after_a_signal_is_no_failure_of_the_trial() -> None:
    """Whoever sent it may have killed the loader's workers too: the next attempt will tell."""

    def train(_: Trial) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with pytest.raises(Preempted, match="SIGTERM"):
        run_trial(train, new_trial(MemoryServices(), support.settings()))
