"""A tiny study that trains in a moment, and the command line called as a user calls it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from tests.working_here import working_here
from tunesafe.cli import main

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
    trial.track(model=model)
    for epoch in trial.virtual_epochs((x, 2 * x), batch_size=trial.params["batch_size"]):
        for inputs, targets in epoch:
            descend(model, F.mse_loss(model(inputs), targets), trial.params["lr"])
        with torch.no_grad():
            trial.report(loss=F.mse_loss(model(x), 2 * x))


def descend(model, loss, lr):
    weights = list(model.parameters())
    with torch.no_grad():
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
            weight -= lr * gradient
"""
"""Descends by hand: the first optimizer of a process imports a compiler, which takes longer than this study."""


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


def tunesafe_here(*arguments: str | Path, cwd: Path) -> Run:
    """Run one command in this process, the study's one worker included."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), working_here():
        try:
            main([*map(str, arguments)])
        except SystemExit as ended:
            return Run(int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command exits")


def command(*arguments: str | Path) -> list[str]:
    """The command line as words."""
    return [sys.executable, "-m", "tunesafe", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's environment, without byte-code files beside user code."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
