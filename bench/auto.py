"""Networks that are trained with and without checkpoints: what ``checkpoint.every: auto`` costs.

A small one, whose state is a few megabytes, and a middle one of 140 MB. One thread trains; the second core
is the writer's, as in a study of one worker.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from studies_of_states import StateStudy
from torch import nn
from torch.nn import functional as F

from tunesafe.contracts import Assignment, Snapshot
from tunesafe.spec import Budget, Checkpoint, Objective
from tunesafe.trial import MemoryServices, Trial, TrialSettings, run_trial

__all__ = ["NETWORKS", "Network", "train"]


@dataclass(frozen=True, slots=True)
class Network:
    """What is trained.

    Args:
        name: For the table.
        side: Of the square images [pixels].
        widths: Channels of its convolutions, each of which halves the side.
        hidden: Width of the layer after them.
        batch_size: Of every step [examples].
        steps_per_epoch: Steps in a virtual epoch.
    """

    name: str
    side: int
    widths: tuple[int, ...]
    hidden: int
    batch_size: int
    steps_per_epoch: int

    def build(self) -> nn.Module:
        """The network, for ten classes of grey images."""
        layers: list[nn.Module] = []
        inside = 1
        for width in self.widths:
            layers += [nn.Conv2d(inside, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        flat = inside * (self.side // 2 ** len(self.widths)) ** 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))


NETWORKS = (
    Network("small CNN", 28, (16, 32), 128, 64, 100),
    Network("middle CNN", 32, (64, 128, 256), 2750, 16, 20),
)


class _Stored(MemoryServices):
    """Keeps checkpoints as a worker does: written by a thread, into a database and packs."""

    def __init__(self, study: StateStudy, objective: Objective) -> None:
        super().__init__(objective)
        self._study = study
        self.num_saved = 0

    def memory(self, num_bytes: int) -> memoryview:
        return self._study.writer.memory(num_bytes)

    def save(self, snapshot: Snapshot) -> None:
        self.num_saved += 1
        self._study.writer.submit(lambda: self._study.store_snapshot(snapshot))

    def is_saving(self) -> bool:
        return self._study.writer.is_busy


def train(network: Network, num_epochs: int, *, checkpoints: bool) -> tuple[float, int]:
    """Train one trial.

    Args:
        network: What is trained.
        num_epochs: Virtual epochs.
        checkpoints: Whether states are kept; else none is even copied, but the last.

    Returns:
        What training took, from its first batch to its last report [s], and how many states were kept.
    """
    torch.manual_seed(1)
    objective = Objective.model_validate({"metric": "loss", "direction": "minimize"})
    every = "auto" if checkpoints else {"virtual_epochs": 10 * num_epochs}
    examples = num_epochs * network.steps_per_epoch * network.batch_size
    settings = TrialSettings(
        Budget.model_validate({"examples": examples, "virtual_epochs": num_epochs}),
        objective,
        Checkpoint.model_validate({"every": every}),
    )
    data = torch.rand(2048, 1, network.side, network.side), torch.randint(10, (2048,))
    took = [0.0]
    with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
        study = StateStudy(f"sqlite:///{Path(folder)}/study.db", 0)
        services = _Stored(study, objective)
        assignment = Assignment("bench", 0, 1, 1, {"batch_size": network.batch_size})
        run_trial(lambda trial: _loop(trial, network, data, took), Trial(assignment, settings, services))
        study.close()
    return took[0], services.num_saved


def _loop(trial: Trial, network: Network, data: tuple[torch.Tensor, ...], took: list[float]) -> None:
    model = network.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    trial.track(model=model, optimizer=optimizer)
    for epoch in trial.virtual_epochs(data):
        for x, y in epoch:
            if epoch.index == 1 and trial.examples_seen == 0:
                begun = perf_counter()
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trial.report(loss=loss.item())
        took[0] = perf_counter() - begun
