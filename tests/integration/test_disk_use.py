"""A study takes little more of the disk than what it is asked to keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli_project import tunesafe_here, write_project
from tunesafe.api import load_study

STUDY = """\
name: large
trainable: train.py:train
objective: {{metric: loss, direction: minimize}}
budget: {{examples: 32, virtual_epochs: 4}}
parameters: {{lr: {{type: float, low: 1.0e-3, high: 1.0e-1, log: true}}, batch_size: 8}}
n_trials: {num_trials}
seed: 1
threads_per_worker: 1
sampler: {{name: random}}
pruner: {{name: median, n_startup_trials: 4, n_warmup_steps: 1}}
checkpoint: {{keep: {{last: 0, best: 0, study_best: {num_kept}, finished: {finished}}}}}
"""
TRAIN = """\
import torch
from torch.nn import functional as F

X = torch.randn(32, 500, generator=torch.Generator().manual_seed(1))


def train(trial):
    model = torch.nn.Sequential(torch.nn.Linear(500, 500), torch.nn.Tanh(), torch.nn.Linear(500, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.params["lr"])
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs((X, X[:, :1])):
        for x, y in epoch:
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trial.report(loss=F.mse_loss(model(X), X[:, :1]).item())
"""
WEIGHTS_BYTES = 4 * (500 * 500 + 500 + 500 + 1)


def on_disk(folder: Path) -> int:
    """What database, log and packs have allocated [bytes]."""
    files = [*folder.glob("large.db*"), *folder.glob("large.db.packs/*")]
    return sum(file.stat().st_blocks * 512 for file in files)


def check(folder: Path, num_trials: int, num_kept: int, finished: str) -> None:
    """Run the study, most of whose trials are pruned or displaced; weigh what is left."""
    write_project(folder, STUDY.format(num_trials=num_trials, num_kept=num_kept, finished=finished), TRAIN)
    run = tunesafe_here("run", "study.yaml", cwd=folder)
    assert run.code == 0, run.err
    study = load_study(folder / "study.yaml")
    found = study.checkpoints()
    parts = 3 if finished == "full" else 1
    assert len(found.checkpoints) == num_kept
    assert all(parts * WEIGHTS_BYTES < each.num_bytes < 1.1 * parts * WEIGHTS_BYTES for each in found.checkpoints)
    kept = found.stored.in_database + found.stored.in_packs
    assert on_disk(folder) <= 1.2 * kept
    assert sum(1 for trial in study.trials if trial.state == "complete") > num_kept


@pytest.mark.parametrize("finished", ["full", "weights"])
def test_a_study_takes_little_more_than_what_it_keeps(finished: str, tmp_path: Path) -> None:
    """Two dozen trials of 3 MB a state; what goes, goes from the disk."""
    check(tmp_path, 24, 8, finished)


@pytest.mark.slow
@pytest.mark.parametrize("finished", ["full", "weights"])
def test_a_long_study_takes_little_more_than_what_it_keeps(finished: str, tmp_path: Path) -> None:
    """Two hundred of them: neither packs nor the database grow with what has been."""
    check(tmp_path, 200, 20, finished)
