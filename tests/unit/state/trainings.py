"""Trainings that are stored half way, built anew and continued, and the comparison of both ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from tunesafe.state.codec import decode, encode
from tunesafe.state.compare import first_difference
from tunesafe.state.generators import capture_generators, restore_generators
from tunesafe.state.tracked import capture, restore

NUM_STEPS = 5


@dataclass
class Training:
    """What is tracked, and one step of it."""

    tracked: dict[str, Any]
    step: Callable[[], None]


Recipe = Callable[[], Training]


def assert_a_restart_is_invisible(build: Recipe, rebuild: Recipe | None = None, *, before: int = NUM_STEPS) -> None:
    """Train straight through and with a restart after ``before`` steps; compare every bit."""
    torch.manual_seed(1)
    straight = build()
    for _ in range(before):
        straight.step()
    structure, blobs = encode({"tracked": capture(straight.tracked), "generators": capture_generators()})
    for _ in range(NUM_STEPS):
        straight.step()
    expected = capture(straight.tracked)

    torch.manual_seed(2)
    resumed = (rebuild or build)()
    tree = decode(structure, [bytearray(blob.data) for blob in blobs])
    restore(resumed.tracked, tree["tracked"])
    restore_generators(tree["generators"])
    for _ in range(NUM_STEPS):
        resumed.step()
    assert first_difference(expected, capture(resumed.tracked)) is None


class Net(nn.Module):
    """Convolution, batch norm, dropout (draws from the generator), and a matrix for Muon."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[batch, 1, 4, 4]`` to scores ``[batch, 4]``."""
        x = self.norm(self.convolution(x)).relu().flatten(1)
        out: torch.Tensor = self.head(nn.functional.dropout(x, 0.2))
        return out


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The loss of a random batch: both come from the global generator."""
    x, y = torch.randn(6, 1, 4, 4, dtype=dtype), torch.randint(0, 4, (6,))
    return nn.functional.cross_entropy(model(x), y)


def training(
    make_optimizer: Callable[[nn.Module], optim.Optimizer],
    make_scheduler: Callable[[optim.Optimizer], Any] | None = None,
    *,
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
) -> Training:
    """A model and its optimizer; a scheduler is tracked *before* the optimizer, the hard order."""
    model = (Net() if model is None else model).to(dtype)
    optimizer = make_optimizer(model)
    scheduler = make_scheduler(optimizer) if make_scheduler else None

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, dtype)
        loss.backward()
        return loss

    def step() -> None:
        # A closure makes LBFGS and all others the same.
        loss = optimizer.step(closure)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss.item())
        elif scheduler is not None:
            scheduler.step()

    tracked: dict[str, Any] = {} if scheduler is None else {"scheduler": scheduler}
    return Training({**tracked, "optimizer": optimizer, "model": model}, step)
