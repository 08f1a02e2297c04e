"""A small network on scikit-learn's digits: the study the README and ``make demo`` run."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import tunesafe

NUM_VALID = 360


@cache
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation images [n, 64] in 0..1 with their labels [n]."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    valid, train = order[:NUM_VALID], order[NUM_VALID:]
    return (x[train], y[train]), (x[valid], y[valid])


def build(hidden: int, dropout: float) -> nn.Module:
    """Two layers with dropout between them."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10))


def train(trial: tunesafe.Trial) -> None:
    """Train one configuration; reports ``val_loss`` and ``val_accuracy``."""
    params = trial.params
    train_set, (x_valid, y_valid) = digits()
    model = build(params["hidden"], params["dropout"])
    if params["optimizer"] == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=params["lr"], momentum=params["momentum"], weight_decay=params["weight_decay"]
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=params["lr"], weight_decay=params["weight_decay"])
    trial.track(model=model, optimizer=optimizer)

    for epoch in trial.virtual_epochs(train_set, batch_size=params["batch_size"]):
        model.train()
        for x, y in epoch:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        model.eval()
        with torch.no_grad():
            logits = model(x_valid)
        trial.report(
            val_loss=F.cross_entropy(logits, y_valid),
            val_accuracy=(logits.argmax(1) == y_valid).float().mean(),
        )
