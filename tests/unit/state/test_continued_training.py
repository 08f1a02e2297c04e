"""A restart is invisible: training continued from a stored state ends with the same bits.

Each recipe builds a training from a seed. One is trained straight through; another is stored
half way, built anew from *another* seed, restored from text and bytes, and trained on. The
recipes are looked up by the classes that the installed torch has, so that a new optimizer or
scheduler fails here until somebody says how it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler, swa_utils

from tests.unit.state.trainings import (
    NUM_STEPS,
    Recipe,
    Training,
    assert_a_restart_is_invisible,
    training,
)


def sparse_training() -> Training:
    """SparseAdam wants sparse gradients, as an embedding gives them."""
    model = nn.Embedding(7, 3, sparse=True)
    optimizer = optim.SparseAdam(list(model.parameters()), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randint(0, 7, (4,))).square().sum().backward()
        optimizer.step()

    return Training({"optimizer": optimizer, "model": model}, step)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters Muon takes."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def plain(kind: type[optim.Optimizer], **options: Any) -> Recipe:
    """An optimizer over all parameters."""
    return lambda: training(lambda model: kind(model.parameters(), **options))


OPTIMIZERS: dict[str, list[Recipe]] = {
    "ASGD": [plain(optim.ASGD)],
    "Adadelta": [plain(optim.Adadelta, lr=0.5)],
    "Adafactor": [plain(optim.Adafactor)],
    "Adagrad": [plain(optim.Adagrad, lr_decay=0.1), plain(optim.Adagrad, fused=True)],
    "Adam": [
        plain(optim.Adam),
        plain(optim.Adam, amsgrad=True, weight_decay=0.1, foreach=True),
        plain(optim.Adam, fused=True),
        plain(optim.Adam, lr=torch.tensor(0.01), foreach=False),
    ],
    "AdamW": [plain(optim.AdamW, maximize=True), plain(optim.AdamW, fused=True, amsgrad=True)],
    "Adamax": [plain(optim.Adamax)],
    "LBFGS": [plain(optim.LBFGS, max_iter=3, history_size=3), plain(optim.LBFGS, line_search_fn="strong_wolfe")],
    "Muon": [lambda: training(lambda model: optim.Muon(matrices(model)))],
    "NAdam": [plain(optim.NAdam, decoupled_weight_decay=True)],
    "RAdam": [plain(optim.RAdam)],
    "RMSprop": [plain(optim.RMSprop, centered=True, momentum=0.9)],
    "Rprop": [plain(optim.Rprop)],
    "SGD": [
        plain(optim.SGD),
        plain(optim.SGD, momentum=0.9, nesterov=True, lr=0.1),
        plain(optim.SGD, momentum=0.9, fused=True),
        plain(optim.SGD, momentum=0.9, foreach=True),
    ],
    "SparseAdam": [sparse_training],
}


def scheduled(make: Callable[[optim.Optimizer], Any]) -> Recipe:
    """A scheduler over SGD with two parameter groups."""

    def optimizer(model: nn.Module) -> optim.Optimizer:
        first, *others = model.parameters()
        return optim.SGD([{"params": [first], "lr": 0.2}, {"params": others}], lr=0.1, momentum=0.9)

    return lambda: training(optimizer, make)


class Decay:
    """A learning-rate rule with state of its own, which LambdaLR stores."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 0.9**self.calls


def sequential(optimizer: optim.Optimizer) -> lr_scheduler.SequentialLR:
    """A warm-up, then cosine, switched after the restart."""
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 8)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[NUM_STEPS + 2])


def chained(optimizer: optim.Optimizer) -> lr_scheduler.ChainedScheduler:
    """Two schedulers that act at once."""
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, 7), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


SCHEDULERS: dict[str, list[Recipe]] = {
    "ChainedScheduler": [scheduled(chained)],
    "ConstantLR": [scheduled(lambda o: lr_scheduler.ConstantLR(o, 0.5, NUM_STEPS + 2))],
    "CosineAnnealingLR": [scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, 7))],
    "CosineAnnealingWarmRestarts": [scheduled(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2))],
    "CyclicLR": [
        scheduled(lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9)),
        scheduled(lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, scale_fn=Decay())),
    ],
    "ExponentialLR": [scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.9))],
    "LambdaLR": [
        scheduled(lambda o: lr_scheduler.LambdaLR(o, [lambda step: 0.9**step, Decay()])),
    ],
    "LinearLR": [scheduled(lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=8))],
    "MultiStepLR": [scheduled(lambda o: lr_scheduler.MultiStepLR(o, [2, 7, 7]))],
    "MultiplicativeLR": [scheduled(lambda o: lr_scheduler.MultiplicativeLR(o, [lambda step: 0.9, Decay()]))],
    "OneCycleLR": [scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=2 * NUM_STEPS + 1))],
    "PolynomialLR": [scheduled(lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0))],
    "ReduceLROnPlateau": [scheduled(lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, cooldown=1))],
    "SequentialLR": [scheduled(sequential)],
    "StepLR": [scheduled(lambda o: lr_scheduler.StepLR(o, 2))],
    "SWALR": [scheduled(lambda o: swa_utils.SWALR(o, 0.01, anneal_epochs=8))],
}


def classes(module: Any, base: type) -> list[str]:
    """Names of the concrete classes that a module of torch offers."""
    found = {kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, base)}
    abstract = {optim.Optimizer, lr_scheduler.LRScheduler, lr_scheduler._LRScheduler}
    return sorted(kind.__name__ for kind in found - abstract)


@pytest.mark.parametrize("name", classes(optim, optim.Optimizer))
@pytest.mark.parametrize("before", [0, 1, NUM_STEPS])
def test_every_optimizer_of_torch_continues_bit_exactly(name: str, before: int) -> None:
    """Restarted before the first step, after it, and later."""
    for recipe in OPTIMIZERS[name]:
        assert_a_restart_is_invisible(recipe, before=before)


@pytest.mark.parametrize("name", sorted({*classes(lr_scheduler, lr_scheduler.LRScheduler), "SWALR"}))
@pytest.mark.parametrize("before", [0, 1, NUM_STEPS])
def test_every_scheduler_of_torch_continues_bit_exactly(name: str, before: int) -> None:
    """Restored together with its optimizer, whichever was tracked first."""
    for recipe in SCHEDULERS[name]:
        assert_a_restart_is_invisible(recipe, before=before)
