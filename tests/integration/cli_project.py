"""A tiny study that trains in a moment, and the command line called as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

STUDY = """\
name: tiny
trainable: train.py:train
objective: {metric: loss, direction: minimize}
budget: {examples: 64, virtual_epochs: 2}
parameters:
  lr: {type: float, low: 1.0e-3, high: 1.0e-1, log: true}
  batch_size: {type: categorical, choices: [8, 16]}
n_trials: 3
seed: 1
threads_per_worker: 1
pruner: {name: nop}
"""

TRAIN = """\
import torch
from torch.nn import functional as F


def train(trial):
    print(f"hello from trial {trial.number}")
    x = torch.arange(32.0).reshape(32, 1) / 32
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"])
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((x, 2 * x), batch_size=trial.params["batch_size"]):
        for inputs, targets in epoch:
            loss = F.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            trial.report(loss=F.mse_loss(model(x), 2 * x))
"""


@dataclass(frozen=True)
class Run:
    """What one command said and ended with."""

    code: int
    out: str
    err: str


def write_project(folder: Path, study: str = STUDY, train: str = TRAIN) -> Path:
    """Write the tiny study into a folder; return its study file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(train)
    file = folder / "study.yaml"
    file.write_text(study)
    return file


def tunesafe(*arguments: str | Path, cwd: Path) -> Run:
    """Run one command in a process of its own."""
    run = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, check=False, env=environment())
    return Run(run.returncode, run.stdout, run.stderr)


def command(*arguments: str | Path) -> list[str]:
    """The command line as words."""
    return [sys.executable, "-m", "tunesafe", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's environment, without byte-code files beside user code."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
