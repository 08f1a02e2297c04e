"""A small convolutional network on Fashion-MNIST: 70,000 grey images of clothes, 28 x 28 pixels.

The images come from Debian's package dataset-fashion-mnist, or from the folder that the
environment variable FASHION_MNIST names: the four IDX files, as published or unpacked.
"""

import gzip
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tunesafe

NUM_VALID = 10_000
"""Taken from the end of the 60,000 training images; the 10,000 test images are never looked at before the end."""

Data = tuple[Tensor, Tensor]


def find_folder() -> Path:
    """The folder of the IDX files."""
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    if not list(folder.glob("train-images-idx3-ubyte*")):
        raise FileNotFoundError(
            f"there are no Fashion-MNIST images in {folder}. On Debian or Ubuntu: apt-get install "
            "dataset-fashion-mnist. Elsewhere: put train-images-idx3-ubyte.gz and its three siblings into a folder "
            "and name it in the environment variable FASHION_MNIST"
        )
    return folder


FOLDER = find_folder()  # on import: a study without its data is refused before anything is created


def read_idx(name: str) -> Tensor:
    """One IDX file as a tensor of bytes, packed or unpacked."""
    packed = FOLDER / f"{name}.gz"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else (FOLDER / name).read_bytes()
    num_dimensions = data[3]
    shape = np.frombuffer(data, ">i4", num_dimensions, offset=4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape).copy())


@cache
def fashion_mnist() -> tuple[Data, Data, Data]:
    """Training, validation and test set: images [n, 28, 28] as bytes, labels [n]."""
    images, labels = read_idx("train-images-idx3-ubyte"), read_idx("train-labels-idx1-ubyte").long()
    test = read_idx("t10k-images-idx3-ubyte"), read_idx("t10k-labels-idx1-ubyte").long()
    return (images[:-NUM_VALID], labels[:-NUM_VALID]), (images[-NUM_VALID:], labels[-NUM_VALID:]), test


class Net(nn.Module):
    """Two convolutions and two linear layers; takes bytes [batch, 28, 28], gives scores [batch, 10]."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * channels * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Scale to 0..1 and classify."""
        scores: Tensor = self.layers(images.unsqueeze(1) / 255)
        return scores


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    batches = zip(data[0].split(1000), data[1].split(1000), strict=True)
    scored = [(model(x), y) for x, y in batches]
    scores, labels = torch.cat([s for s, _ in scored]), torch.cat([y for _, y in scored])
    return F.cross_entropy(scores, labels).item(), (scores.argmax(1) == labels).double().mean().item()


def train(trial: tunesafe.Trial) -> None:
    """Train one configuration; reports ``val_accuracy``, ``val_loss`` and ``train_loss``."""
    params = trial.params
    train_set, valid_set, test_set = fashion_mnist()
    model = Net(params["channels"], params["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=params["lr"], weight_decay=params["weight_decay"])
    trial.track(model=model, optimizer=optimizer)
    trial.schedule(optimizer, lambda progress: 1 - progress)

    for epoch in trial.virtual_epochs(train_set, batch_size=params["batch_size"]):
        model.train()
        for x, y in epoch:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            train_loss = trial.mean("train_loss", loss.detach(), n=len(y))

        val_loss, val_accuracy = evaluate(model, valid_set)
        trial.report(val_accuracy=val_accuracy, val_loss=val_loss, train_loss=train_loss)

    trial.result(test_accuracy=evaluate(model, test_set)[1])
