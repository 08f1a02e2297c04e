"""(a) Examples per second of ``trial.virtual_epochs`` against loops written by hand.

The data are digits-sized, 1,437 examples and 360 to validate on, where overhead shows most. Both sides
train the same small network in 10 passes and validate after each; or only read, which is shown without
a bound, for nobody trains on nothing. On our side every validation is reported and every state captured
(in memory: what writing it costs is the study's benchmark). Loader workers start inside the measurement,
once on either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import torch
from pairs import Comparison, Side, compare
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import tunesafe

__all__ = ["loops"]

_NUM_EXAMPLES, _NUM_VALID, _NUM_CLASSES = 1437, 360, 10
_BATCH_SIZE = 32
_PASSES = 10

Pass = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives the batches of one pass over the data."""


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images of 28 x 28 that come turned, scaled, shifted, mirrored, noisy and partly erased, in some 100 µs each.

    Seeding by position takes 4 to 5 µs an example, so what is cheaper to read than this pays more for it.
    """

    def __init__(self) -> None:
        self._images = torch.rand(_NUM_EXAMPLES, 1, 28, 28)
        self._labels = torch.randint(_NUM_CLASSES, (_NUM_EXAMPLES,))

    def __len__(self) -> int:
        return _NUM_EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        angle, scale, right, down, mirror = (torch.rand(5) - 0.5).tolist()
        sine, cosine = (1 + 0.4 * scale) * math.sin(angle), (1 + 0.4 * scale) * math.cos(angle)
        turn = torch.tensor([[[cosine, -sine, 0.3 * right], [sine, cosine, 0.3 * down]]])
        image = self._images[index : index + 1]
        image = F.grid_sample(image, F.affine_grid(turn, list(image.shape), align_corners=False), align_corners=False)
        if mirror > 0:
            image = image.flip(-1)
        image = (image + 0.05 * torch.randn(image.shape)).clamp(0, 1)
        top, left = torch.randint(20, (2,)).tolist()
        image[..., top : top + 8, left : left + 8] = torch.rand(())
        return image.flatten(), self._labels[index]


class Network:
    """What is trained on either side, or only looks as if.

    Args:
        num_pixels: Length of its input.
        trains: Whether its steps do anything.
    """

    def __init__(self, num_pixels: int, trains: bool) -> None:
        self.model = nn.Sequential(nn.Linear(num_pixels, 64), nn.ReLU(), nn.Linear(64, _NUM_CLASSES))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.001)
        self._valid = torch.rand(_NUM_VALID, num_pixels), torch.randint(_NUM_CLASSES, (_NUM_VALID,))
        self._trains = trains

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch."""
        if self._trains:
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def validate(self) -> float:
        """The loss on other examples."""
        if not self._trains:
            return 0.0
        self.model.eval()
        x, y = self._valid
        with torch.no_grad():
            loss = F.cross_entropy(self.model(x), y).item()
        self.model.train()
        return loss


def loops(pairs: int, quick: bool) -> Iterator[Comparison]:
    """Every comparison of this benchmark, as it is made."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.rand(_NUM_EXAMPLES, 64), torch.randint(_NUM_CLASSES, (_NUM_EXAMPLES,))
    augmented = Augmented()
    few, many = (1, 2) if quick else (2, 8)
    for trains, doing in ((True, "training"), (False, "reading")):

        def measure(against: str, ours: Side, theirs: Side, bound: float, aim: float | None = None) -> Comparison:
            least, hope = (bound, aim) if trains else (None, None)  # noqa: B023  used before the next turn
            claim = f"{doing}, {against}"  # noqa: B023  as above
            return compare(claim, ours, theirs, pairs=pairs, unit="examples/s", at_least=least, aim=hope)

        small = partial(Network, 64, trains)
        ours = partial(_ours, (x, y), small, many)
        loader, indexing = (partial(_by_hand, partial(how, x, y), small, many) for how in (_loader, _indexing))
        yield measure("tensors against DataLoader", ours, loader, 1.0, 3)
        yield measure("tensors against indexing", ours, indexing, 0.95)
        larger = partial(Network, 784, trains)
        for workers in (0, 2):
            yield measure(
                f"augmented data, {workers} workers, against DataLoader",
                partial(_ours, augmented, larger, few, num_workers=workers),
                partial(_by_hand, partial(_loading, augmented, workers), larger, few),
                0.95,
            )


def _ours(data: Any, build: Callable[[], Network], rounds: int, **options: Any) -> float:
    seconds = 0.0
    for _ in range(rounds):
        trial = tunesafe.FixedTrial({"batch_size": _BATCH_SIZE}, passes=_PASSES, virtual_epochs=_PASSES)
        network = build()
        trial.track(model=network.model, optimizer=network.optimizer)
        begun = perf_counter()
        for epoch in trial.virtual_epochs(data, **options):
            for x, y in epoch:
                network.step(x, y)
            trial.report(loss=network.validate())
        seconds += perf_counter() - begun
        trial.close()
    return rounds * _PASSES * _NUM_EXAMPLES / seconds


def _by_hand(begin: Callable[[], Pass], build: Callable[[], Network], rounds: int) -> float:
    seconds = 0.0
    for _ in range(rounds):
        network = build()
        begun = perf_counter()
        one_pass = begin()
        for _ in range(_PASSES):
            for x, y in one_pass():
                network.step(x, y)
            network.validate()
        seconds += perf_counter() - begun
    return rounds * _PASSES * _NUM_EXAMPLES / seconds


def _loader(x: Tensor, y: Tensor) -> Pass:
    return _loading(TensorDataset(x, y), 0)


def _loading(data: Dataset[Any], num_workers: int) -> Pass:
    # Ours start once for all passes, so for a fair comparison theirs do, too.
    loader = DataLoader(data, _BATCH_SIZE, shuffle=True, num_workers=num_workers, persistent_workers=num_workers > 0)
    return lambda: loader


def _indexing(x: Tensor, y: Tensor) -> Pass:
    def one_pass() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(x))
        for start in range(0, len(x), _BATCH_SIZE):
            indices = order[start : start + _BATCH_SIZE]
            yield x[indices], y[indices]

    return one_pass
