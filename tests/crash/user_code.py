"""What the studies of the crash tests train; copied into each study's folder as ``train.py``.

Every batch leaves one line in ``batches.log`` beside it, written before it is trained on and
with one ``write``: what a killed process has trained is then known to its last batch.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import tunesafe

FOLDER = Path(__file__).parent
X = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
Y = torch.tanh(X.sum(1, keepdim=True)) + 0.1 * X[:, :1]
VALID_X = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
VALID_Y = torch.tanh(VALID_X.sum(1, keepdim=True)) + 0.1 * VALID_X[:, :1]


def note(trial: tunesafe.Trial, size: int) -> None:
    """Count a batch; and wait in it, if the file ``hang`` says ``number start`` of this one."""
    line = f"{trial.number} {trial.attempt} {trial.examples_seen} {size}\n"
    log = os.open(FOLDER / "batches.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)
    hang = FOLDER / "hang"
    if hang.exists() and hang.read_text() == f"{trial.number} {trial.examples_seen}":
        (FOLDER / "hanging").touch()
        while hang.exists() or ((FOLDER / "until asked").exists() and trial.signals.reason is None):
            time.sleep(0.005)


def network(params: Any) -> nn.Module:
    """A small network with everything that has state: running statistics, dropout's generator."""
    hidden = params["hidden"]
    layers = [nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Tanh()]
    return nn.Sequential(*layers, nn.Dropout(params.get("dropout", 0.0)), nn.Linear(hidden, 1))


def optimizer_of(model: nn.Module, params: Any) -> torch.optim.Optimizer:
    """Adam, or SGD with the momentum that only it has."""
    if params.get("optimizer", "adam") == "adam":
        return torch.optim.Adam(model.parameters(), lr=params["lr"])
    return torch.optim.SGD(model.parameters(), lr=params["lr"], momentum=params.get("momentum", 0.0))


@torch.no_grad()
def validate(model: nn.Module) -> float:
    """Loss on the validation set."""
    model.eval()
    return F.mse_loss(model(VALID_X), VALID_Y).item()


def train(trial: tunesafe.Trial) -> None:
    """The function door, as the README has it; with accumulation where the study asks for it.

    The state of every second trial is large enough for a pack, and changes with every batch.
    """
    model = network(trial.params)
    optimizer = optimizer_of(model, trial.params)
    ballast = {"losses": torch.zeros(trial.params.get("ballast", 300_000) if trial.number % 2 else 3)}
    trial.track(model=model, optimizer=optimizer, ballast=ballast)
    for epoch in trial.virtual_epochs((X, Y), accumulate=trial.params.get("accumulate", 1)):
        model.train()
        for x, y in epoch:
            note(trial, len(x))
            loss = F.mse_loss(model(x), y)
            (loss * epoch.loss_scale).backward()
            ballast["losses"] += loss.detach()
            if epoch.step_due:
                optimizer.step()
                optimizer.zero_grad()
        trial.report(val_loss=validate(model))


def train_and_tell(trial: tunesafe.Trial) -> None:
    """As above; the parameters it was given are left in a file."""
    (FOLDER / f"params-{trial.number}.json").write_text(json.dumps(dict(trial.params)))
    train(trial)


def train_with_everything(trial: tunesafe.Trial) -> None:
    """All that has state beside a model: schedulers, means, a second stream, three global generators."""
    model = network(trial.params)
    optimizer = optimizer_of(model, trial.params)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=trial.params["lr"], total_steps=400)
    average = torch.optim.swa_utils.AveragedModel(model)
    trial.track(model=model, optimizer=optimizer, one_cycle=one_cycle, average=average, seen={"batches": 0})
    noise = trial.stream("noise", (VALID_X,), batch_size=7)
    seen = trial.tracked["seen"]
    mean = 0.0
    for epoch in trial.virtual_epochs((X, Y)):
        for x, y in epoch:
            note(trial, len(x))
            model.train()
            (other,) = next(noise)
            jitter = torch.randn(1) + random.random() + np.random.random()
            loss = F.mse_loss(model(x), y + 0.01 * jitter) + 0.01 * model(other).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            one_cycle.step()
            average.update_parameters(model)
            seen["batches"] += 1
            mean = trial.mean("train_loss", loss, len(x))
        trial.report(val_loss=validate(average), train_loss=mean, batches=seen["batches"])


def train_scheduled(trial: tunesafe.Trial) -> None:
    """A learning rate as fair as the budget: ``trial.schedule``."""
    model = network(trial.params)
    optimizer = optimizer_of(model, trial.params)
    trial.track(model=model, optimizer=optimizer)
    trial.schedule(optimizer, lambda progress: (1 - progress) ** 2)
    for epoch in trial.virtual_epochs((X, Y), weights=torch.arange(1.0, 97.0)):
        model.train()
        for x, y in epoch:
            note(trial, len(x))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        trial.report(val_loss=validate(model))


def train_until_enough(trial: tunesafe.Trial) -> None:
    """Trials that end in every way there is: complete, stopped, diverged, raised."""
    model = network(trial.params)
    optimizer = optimizer_of(model, trial.params)
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((X, Y)):
        model.train()
        for x, y in epoch:
            note(trial, len(x))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        loss = validate(model)
        if trial.number in (2, 5) and epoch.index == 2:
            raise RuntimeError("this trial raises in its second virtual epoch")
        trial.report(val_loss=float("nan") if trial.number == 3 and epoch.index == 3 else loss, twice=2 * loss)
        if trial.number % 4 == 0 and epoch.index == 2:
            trial.result(test_loss=loss / 3)
            trial.stop("good enough")


class Augmented(Dataset[Any]):
    """Examples with a random augmentation from all three global generators."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        jitter = 0.05 * torch.randn(6) + 0.02 * random.random() + 0.02 * float(np.random.random())
        return X[index] + jitter, Y[index]


def train_augmented(trial: tunesafe.Trial) -> None:
    """A DataLoader with worker processes."""
    model = network(trial.params)
    optimizer = optimizer_of(model, trial.params)
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs(Augmented(), num_workers=trial.params["num_workers"]):
        model.train()
        for x, y in epoch:
            note(trial, len(x))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        trial.report(val_loss=validate(model))


class Net(tunesafe.Trainable):
    """The class door."""

    def setup(self, trial: tunesafe.Trial) -> None:
        self.train_data = (X, Y)
        self.model = network(trial.params)
        self.optimizer = optimizer_of(self.model, trial.params)
        self.decay = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=9, gamma=0.8)

    def train_step(self, batch: Any) -> None:
        x, y = batch
        note(self.trial, len(x))
        self.model.train()
        self.optimizer.zero_grad()
        F.mse_loss(self.model(x), y).backward()
        self.optimizer.step()
        self.decay.step()

    def validate(self) -> dict[str, float]:
        return {"val_loss": validate(self.model)}
