"""The digits study's training as a loop written by hand, without a trial, a database or a checkpoint.

It trains what tunesafe trains, to the last bit: it takes the trial's seed and order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from tunesafe.clock import Plan
from tunesafe.contracts import Position
from tunesafe.data.order import Order
from tunesafe.data.seeding import seed_everything
from tunesafe.seeds import trial_seed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "studies"))
from digits import build, digits

__all__ = ["SEED", "train_by_hand"]

SEED, _VIRTUAL_EPOCHS = 17, 15


def train_by_hand(number: int, params: Mapping[str, Any], passes: int) -> Iterator[float]:
    """Train one trial; yields its validation loss after every virtual epoch.

    Args:
        number: The trial's, which gives its seed.
        params: The study's parameters; constants may be left out.
        passes: Length of the trial.
    """
    (x, y), (x_valid, y_valid) = digits()
    seed = trial_seed(SEED, number)
    seed_everything(seed)
    model = build(params["hidden"], params["dropout"])
    if params["optimizer"] == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=params["lr"], momentum=params["momentum"], weight_decay=1e-4
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=params["lr"], weight_decay=1e-4)
    plan = Plan(passes * len(x), _VIRTUAL_EPOCHS, params["batch_size"])
    order = torch.from_numpy(Order(len(x), seed).indices(0, plan.total))
    start = 0
    for epoch in range(_VIRTUAL_EPOCHS):
        model.train()
        for batch in plan.epoch_batches(Position(start, epoch)):
            indices = order[batch.start : batch.start + batch.size]
            loss = F.cross_entropy(model(x[indices]), y[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            start = batch.start + batch.size
        model.eval()
        with torch.no_grad():
            logits = model(x_valid)
        value = float(F.cross_entropy(logits, y_valid))
        (logits.argmax(1) == y_valid).float().mean().item()  # measured as ours is, reported nowhere
        yield value
