"""A map-style dataset with random augmentation, read by two loader processes.

Every example's augmentation is drawn from generators seeded for its position in training, so it
does not depend on the number of loader workers, nor on how often the study was killed. That
covers the global generators of python, numpy and torch, which is what augmentations use. It
cannot cover a generator that the dataset keeps for itself.

    tunesafe run augmentation.yaml   a study
    python augmentation.py           one trial, without any study
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import tunesafe

PARAMS = {"batch_size": 64, "lr": 3e-3, "max_shift": 1, "noise": 0.1}
NUM_WORKERS = 2


class ShiftedDigits(Dataset):
    """Digits, each moved by up to ``max_shift`` pixels and covered with noise, anew in every pass."""

    def __init__(self, images: Tensor, labels: Tensor, max_shift: int, noise: float) -> None:
        self.images, self.labels = images, labels
        self.max_shift, self.noise = max_shift, noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        down, right = torch.randint(-self.max_shift, self.max_shift + 1, (2,)).tolist()
        image = self.images[index].roll((down, right), dims=(-2, -1))
        return image + self.noise * torch.randn_like(image), self.labels[index]


def train(trial: tunesafe.Trial) -> None:
    """Train one configuration; reports ``val_loss`` and ``val_accuracy``."""
    params = trial.params
    table, target = load_digits(return_X_y=True)
    x, y = torch.tensor(table / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(target)
    in_train, in_valid = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split([1437, 360])
    train_set = ShiftedDigits(x[in_train], y[in_train], params["max_shift"], params["noise"])

    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=params["lr"])
    trial.track(model=model, optimizer=optimizer)

    for epoch in trial.virtual_epochs(train_set, batch_size=params["batch_size"], num_workers=NUM_WORKERS):
        model.train()
        for images, labels in epoch:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trial.mean("train_loss", loss, n=len(labels))

        model.eval()
        with torch.no_grad():
            scores = model(x[in_valid])
        trial.report(
            val_loss=F.cross_entropy(scores, y[in_valid]),
            val_accuracy=(scores.argmax(1) == y[in_valid]).float().mean(),
        )


if __name__ == "__main__":
    trial = tunesafe.FixedTrial(PARAMS, passes=4, virtual_epochs=4)
    train(trial)
    for report in trial.reports:
        print(report.virtual_epoch, {name: round(value, 4) for name, value in report.metrics.items()})
