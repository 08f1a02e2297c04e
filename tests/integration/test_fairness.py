"""Every trial consumes exactly what the plan says, whatever its batch size: counted where it is trained.

The sizes and boundaries expected here are the contract's arithmetic, written out once more; the
clock that is under test is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

import tunesafe
from tunesafe.trial import FixedTrial

TOTAL, VIRTUAL_EPOCHS, LENGTH = 211, 3, 83
"""Primes, so that nothing divides anything; a virtual epoch has 70 or 71 examples."""
BATCH_SIZES = [*range(1, 76), 79, 83, 101, 210, 211, 212, 500]
"""From one to beyond the virtual epoch, beyond the data, and beyond the whole trial."""


class Numbers(Dataset[int]):
    """A map-style dataset whose examples are their own indices."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        return index


TENSORS = (torch.arange(LENGTH),)


def consumed(trial: tunesafe.Trial, data: Any, **options: Any) -> list[list[int]]:
    """Train, counting: the sizes of all batches, by virtual epoch."""
    counted: list[list[int]] = []
    for epoch in trial.virtual_epochs(data, **options):
        counted.append([])
        for batch in epoch:
            examples = batch[0] if isinstance(batch, (tuple, list)) else batch
            counted[-1].append(len(examples))
        trial.report(loss=0.0)
    return counted


def boundaries(total: int, virtual_epochs: int) -> Iterator[int]:
    """Lengths of the virtual epochs [examples]: from k*T // K to the next."""
    for k in range(virtual_epochs):
        yield (k + 1) * total // virtual_epochs - k * total // virtual_epochs


def fixed(batch_size: int, batching: str = "exact") -> FixedTrial:
    """A trial of the sizes above."""
    return FixedTrial(
        {"batch_size": batch_size},
        examples=TOTAL,
        virtual_epochs=VIRTUAL_EPOCHS,
        batching=batching,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("data", [TENSORS, Numbers()], ids=["tensors", "map-style"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_exact_batching_consumes_every_virtual_epoch_to_the_example(data: Any, accumulate: int) -> None:
    """For every batch size: no example more or less than the plan's, in any virtual epoch."""
    for batch_size in BATCH_SIZES:
        counted = consumed(fixed(batch_size), data, accumulate=accumulate)
        assert [sum(sizes) for sizes in counted] == list(boundaries(TOTAL, VIRTUAL_EPOCHS)), batch_size
        # Evening out never makes a batch larger, except to three examples where one of one would be left.
        assert max(size for sizes in counted for size in sizes) <= max(batch_size, 3), batch_size


@pytest.mark.parametrize("data", [TENSORS, Numbers()], ids=["tensors", "map-style"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_whole_batching_consumes_the_trial_to_the_example(data: Any, accumulate: int) -> None:
    """For every batch size: full steps only but the trial's last, and T examples in all."""
    for batch_size in BATCH_SIZES:
        counted = consumed(fixed(batch_size, "whole"), data, accumulate=accumulate)
        step, reached = batch_size * accumulate, 0
        assert len(counted) == VIRTUAL_EPOCHS
        for sizes, length in zip(counted, (TOTAL * k // VIRTUAL_EPOCHS for k in (1, 2, 3)), strict=True):
            reached += sum(sizes)
            assert reached == min(math.ceil(length / step) * step, TOTAL), batch_size
        full = TOTAL // step * accumulate
        assert [size for sizes in counted for size in sizes][:full] == [batch_size] * full, batch_size


@given(
    total=st.integers(1, 400),
    virtual_epochs=st.integers(1, 12),
    batch_size=st.integers(1, 450),
    accumulate=st.integers(1, 5),
)
@settings(max_examples=60)
def test_any_budget_is_consumed_exactly(total: int, virtual_epochs: int, batch_size: int, accumulate: int) -> None:
    """The same for budgets nobody thought of."""
    virtual_epochs = min(virtual_epochs, total)
    trial = FixedTrial({}, examples=total, virtual_epochs=virtual_epochs)
    counted = consumed(trial, TENSORS, batch_size=batch_size, accumulate=accumulate)
    assert [sum(sizes) for sizes in counted] == list(boundaries(total, virtual_epochs))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 90])
def test_the_number_of_loader_workers_changes_no_example(batch_size: int) -> None:
    """The same examples in the same batches, read here or by two workers."""

    def read(**options: Any) -> list[list[int]]:
        trial = FixedTrial({"batch_size": batch_size}, examples=97, virtual_epochs=2, seed=4)
        batches: list[list[int]] = []
        for epoch in trial.virtual_epochs(Numbers(), **options):
            batches += [batch.tolist() for batch in epoch]
            trial.report(loss=0.0)
        return batches

    here = read()
    assert sum(map(len, here)) == 97
    assert read(num_workers=2) == here


def test_all_trials_of_a_study_consume_the_same(tmp_path: Path) -> None:
    """One trial per batch size, in a real study: each has consumed T, and says so in Optuna."""
    sizes = [1, 2, 3, 5, 8, 13, 31, 53, 70, 71, 72, 211, 300]
    counted: dict[int, list[int]] = {}

    def train(trial: tunesafe.Trial) -> None:
        counted[trial.number] = [sum(virtual_epoch) for virtual_epoch in consumed(trial, TENSORS)]

    study = tunesafe.Study(
        name="fair",
        storage=f"sqlite:///{tmp_path}/fair.db",
        trainable=train,
        objective={"metric": "loss", "direction": "minimize"},
        budget={"examples": TOTAL, "virtual_epochs": VIRTUAL_EPOCHS},
        parameters={"batch_size": {"type": "categorical", "choices": sizes}},
        initial_trials=[{"batch_size": size} for size in sizes],
        n_trials=len(sizes),
        threads_per_worker=1,
        pruner={"name": "nop"},
    )
    study.run()
    assert counted == {number: list(boundaries(TOTAL, VIRTUAL_EPOCHS)) for number in range(len(sizes))}
    trials = study.trials
    assert [trial.params["batch_size"] for trial in trials] == sizes
    assert {trial.examples_seen for trial in trials} == {TOTAL}
