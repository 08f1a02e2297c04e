"""The class door: say what a step is, the loop is written for you.

A small convolutional network on scikit-learn's digits (1,797 images of 8 x 8 pixels). Whatever
``setup`` sets on ``self`` and has a ``state_dict`` is tracked, under the name it is set to.

    tunesafe run class_door.yaml   a study
    python class_door.py           one trial, without any study
"""

import math
from collections.abc import Mapping

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import tunesafe
from tunesafe.trial import run_trainable

PARAMS = {"batch_size": 64, "lr": 0.05, "momentum": 0.9, "channels": 8}


def warm_up_then_cosine(progress: float) -> float:
    """Factor of the learning rate: up in the first tenth of the budget, then down half a wave."""
    return 10 * progress + 0.01 if progress < 0.1 else (1 + math.cos(math.pi * (progress - 0.1) / 0.9)) / 2


class Digits(tunesafe.Trainable):
    """Reports ``accuracy`` and ``val_loss``."""

    def setup(self, trial: tunesafe.Trial) -> None:
        """Build data, model and optimizer."""
        table, target = load_digits(return_X_y=True)
        x, y = torch.tensor(table / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(target)
        train, valid = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split([1437, 360])
        self.train_data, self.valid_data = (x[train], y[train]), (x[valid], y[valid])

        channels = trial.params["channels"]
        self.model = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(2 * channels * 4, 10),
        )  # fmt: skip
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=trial.params["lr"], momentum=trial.params["momentum"]
        )
        # A function of the share of the budget used up: the same for every batch size. There is no step() to call.
        trial.schedule(self.optimizer, warm_up_then_cosine)

    def train_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Train on one batch."""
        x, y = batch
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def validate(self) -> Mapping[str, Tensor]:
        """Measure; the model is in evaluation mode, gradients are off."""
        x, y = self.valid_data
        scores = self.model(x)
        return {"accuracy": (scores.argmax(1) == y).float().mean(), "val_loss": F.cross_entropy(scores, y)}


if __name__ == "__main__":
    trial = tunesafe.FixedTrial(PARAMS, passes=6, virtual_epochs=6)
    run_trainable(Digits, trial)
    for report in trial.reports:
        print(report.virtual_epoch, {name: round(value, 4) for name, value in report.metrics.items()})
