"""(h) What a checkpoint costs the training loop, and the disk.

A state is a network and its optimizer, 64 tensors of one size, all of which change from one checkpoint to
the next. The loop's stall is compared with one copy of the same bytes into memory that is used again; a durable save
with writing the same bytes to a file and fsyncing it, and (for information) with a checkpoint made by hand; loading
with reading that file, into tensors that are as new as ours, and (for information) into memory that is in use. A
side's file or database is in the same folder, and every fsync is real.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from begun import UUID, begin_study
from pairs import Comparison, compare

from tunesafe.contracts import Position, Snapshot
from tunesafe.state.codec import encode
from tunesafe.state.memory import aligned_buffer
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.pack_file import sync_folder
from tunesafe.store.packs import packs_beside
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.writing import CheckpointWriter

__all__ = ["checkpoints"]

_MEGABYTES, _QUICK_MEGABYTES = (1, 45, 140, 400, 1500), (1, 45, 140)
_NUM_TENSORS = 64
_MOST_BY_HAND = 400
"""Up to which size a checkpoint made by hand is compared [MB]: a third file of gigabytes slows both others."""
_WARM_UP = 8
"""Saves before the first one that counts: a virtual machine is slow at handing out memory it never had in use."""


def checkpoints(pairs: int, quick: bool) -> Iterator[Comparison]:
    """Every comparison of this benchmark, as it is made."""
    torch.set_num_threads(1)
    for megabytes in _QUICK_MEGABYTES if quick else _MEGABYTES:
        with tempfile.TemporaryDirectory(prefix="tunesafe-bench-") as folder:
            sides = _Sides(Path(folder), megabytes)
            ms = partial(compare, pairs=pairs, unit="ms")
            copy_ms = min(sides.copy() for _ in range(5))
            stall = 1.2 + 1.0 / copy_ms  # a millisecond on top: at 1 MB, what walking the tree takes is all there is
            yield ms(f"{megabytes} MB: stall, against one copy", sides.stall, sides.copy, at_most=round(stall, 2))
            most = 2.0 if megabytes < 45 else 1.2
            yield ms(f"{megabytes} MB: durable, against write + fsync", sides.save, sides.write, at_most=most)
            if megabytes <= _MOST_BY_HAND:
                yield ms(f"{megabytes} MB: durable, against torch.save + fsync + rename", sides.save, sides.torch_save)
            name = f"{megabytes} MB: loaded and verified, against"
            yield ms(f"{name} read into new tensors", sides.load, sides.read, at_most=1.6)
            yield ms(f"{name} read into memory in use", sides.load, sides.read_again)
            sides.close()
        gc.collect()


class _Sides:
    """Both ways to keep a state; every method returns what it took [ms].

    Args:
        folder: For scratch.
        megabytes: Size of the state [MB].
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        each = megabytes * 1_000_000 // 4 // _NUM_TENSORS
        self._tensors = {f"layer{i}": torch.rand(each) for i in range(_NUM_TENSORS)}
        self._flat = np.concatenate([tensor.numpy() for tensor in self._tensors.values()])
        self._copy = aligned_buffer(self._flat.nbytes)
        self._file = folder / "raw"
        self._engine = begin_study(f"sqlite:///{folder}/study.db")
        self._store = CheckpointStore(self._engine, UUID, packs_beside(self._engine.url))
        self._writer = CheckpointWriter(SignalWatch())
        self._epoch = 0
        self.stall()
        for _ in range(_WARM_UP):
            self.save()
            self.write()

    def close(self) -> None:
        """Give the connections back."""
        self._writer.check()
        self._engine.dispose()

    def stall(self) -> float:
        """The loop's part of a checkpoint, while nothing else is being written."""
        return _ms(self._capture)

    def copy(self) -> float:
        """The same bytes, tensor by tensor, into memory that is used again."""
        target = torch.frombuffer(self._copy, dtype=torch.float32)
        parts = target.split([tensor.numel() for tensor in self._tensors.values()])

        def copy() -> None:
            for part, tensor in zip(parts, self._tensors.values(), strict=True):
                part.copy_(tensor)

        return _ms(copy)

    def save(self) -> float:
        """A state that has changed, until it is durable.

        The one before goes right before that, untimed on both sides: whoever frees memory earlier
        finds it slow to get again, for a virtual machine gives it back to its host in between.
        """
        for tensor in self._tensors.values():
            tensor.add_(1)
        snapshot = self._capture()
        self._store.remove([info.checkpoint_id for info in self._store.infos(0)])
        return _ms(lambda: self._store.save(snapshot, number=0, fence=1))

    def write(self) -> float:
        """The same bytes into a new file, and fsync."""
        self._file.unlink(missing_ok=True)

        def write() -> None:
            with self._file.open("wb", buffering=0) as file:
                view, done = memoryview(self._flat).cast("B"), 0
                while done < view.nbytes:
                    done += file.write(view[done:])
                os.fsync(file.fileno())

        return _ms(write)

    def torch_save(self) -> float:
        """The same tensors as a checkpoint by hand is made: a file beside it, fsync, rename, fsync of the folder."""
        unfinished, finished = self._file.with_suffix(".tmp"), self._file.with_suffix(".pt")
        finished.unlink(missing_ok=True)

        def save() -> None:
            with unfinished.open("wb") as file:
                torch.save(self._tensors, file)  # noqa: TID251 - what is compared with, not how we save
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(finished)
            sync_folder(finished.parent)

        return _ms(save)

    def load(self) -> float:
        """The newest state, every byte verified."""
        (info, *_) = self._store.infos(0)
        return _ms(lambda: self._store.load(info))

    def read(self) -> float:
        """The raw file into tensors made for it, as loading gives new ones."""

        def read() -> None:
            tensors = [torch.empty_like(tensor) for tensor in self._tensors.values()]
            self._read_into([memoryview(tensor.numpy()).cast("B") for tensor in tensors])

        return _ms(read)

    def read_again(self) -> float:
        """The raw file into memory that is there: no page of it has to be found and cleared."""
        return _ms(lambda: self._read_into([self._copy.cast("B")[: self._flat.nbytes]]))

    def _read_into(self, views: list[memoryview]) -> None:
        with self._file.open("rb", buffering=0) as file:
            for view in views:
                done = 0
                while done < view.nbytes and (count := file.readinto(view[done:])):
                    done += count

    def _capture(self) -> Snapshot:
        self._epoch += 1
        items = list(self._tensors.items())
        tree = {"model": dict(items[: _NUM_TENSORS // 3]), "optimizer": dict(items[_NUM_TENSORS // 3 :])}
        structure, tensors = encode(tree, allocate=self._writer.memory)
        return Snapshot(Position(self._epoch, self._epoch), structure, tensors)


def _ms(action: Callable[[], object]) -> float:
    begun = perf_counter()
    action()
    return 1000 * (perf_counter() - begun)
