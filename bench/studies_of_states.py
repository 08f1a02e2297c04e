"""A study that does nothing but store states of a given size, for the benchmarks of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from begun import UUID, begin_study

from tunesafe.contracts import CheckpointInfo, Position, Snapshot
from tunesafe.state.codec import encode
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.packs import packs_beside
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.writing import CheckpointWriter

__all__ = ["StateStudy"]

_NUM_TENSORS = 64


class StateStudy:
    """Trials 0 and 1, claimed; the states are of trial 0.

    Args:
        url: Of a database, empty.
        megabytes: Size of a state [MB].
        frozen: Share of the parameters that never change and have no optimizer.
    """

    def __init__(self, url: str, megabytes: int, frozen: float = 0.0) -> None:
        self.engine = begin_study(url, num_trials=2)
        self.store = CheckpointStore(self.engine, UUID, packs_beside(self.engine.url))
        self.writer = CheckpointWriter(SignalWatch())
        num_frozen = int(_NUM_TENSORS * frozen)
        each = int(megabytes * 1_000_000 / 4 / (_NUM_TENSORS + 2 * (_NUM_TENSORS - num_frozen)))
        self.frozen = {f"frozen{i}": torch.rand(each) for i in range(num_frozen)}
        self.trained = {f"layer{i}": torch.rand(each) for i in range(_NUM_TENSORS - num_frozen)}
        self.averages = {f"{name}/{k}": torch.rand(each) for name in self.trained for k in (1, 2)}
        self._epoch = 0

    @property
    def num_changing(self) -> int:
        """Bytes that differ from one checkpoint to the next [bytes]."""
        return sum(tensor.nbytes for part in (self.trained, self.averages) for tensor in part.values())

    def change(self) -> None:
        """A step: all that is trained is another."""
        for part in (self.trained, self.averages):
            for tensor in part.values():
                tensor.add_(1)

    def capture(self) -> Snapshot:
        """The state, copied into the writer's memory."""
        self._epoch += 1
        tree = {"model": {**self.frozen, **self.trained}, "optimizer": self.averages}
        structure, tensors = encode(tree, allocate=self.writer.memory)
        return Snapshot(Position(self._epoch, self._epoch), structure, tensors)

    def save(self) -> None:
        """A state that has changed, until it is durable; older ones go."""
        self.change()
        self.store_snapshot(self.capture())

    def small_save(self) -> None:
        """A state of next to nothing."""
        self._epoch += 1
        structure, tensors = encode({"step": torch.zeros(1)}, allocate=self.writer.memory)
        self.store_snapshot(Snapshot(Position(self._epoch, self._epoch), structure, tensors))

    def submit(self) -> None:
        """A state that becomes durable beside whatever comes next."""
        self.writer.submit(partial(self.store_snapshot, self.capture()))

    def wait(self) -> None:
        """Until what was submitted is durable."""
        self.writer.memory(1)

    def close(self) -> None:
        """Give the connections back."""
        self.wait()
        self.engine.dispose()

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Until it is durable; older ones go, but the newest two."""
        self.store.save(snapshot, number=0, fence=1, surplus=_all_but_newest_two)


def _all_but_newest_two(infos: Sequence[CheckpointInfo]) -> list[int]:
    return [info.checkpoint_id for info in infos[2:]]
