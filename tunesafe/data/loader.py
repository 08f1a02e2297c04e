"""Batches from a map-style dataset through torch's DataLoader.

One loader serves the whole remaining trial, so its workers start once. What a worker is sent
is a batch's position and indices; it seeds the global generators for each example, reads it,
and collates. In the main process (no workers) the same is done between saving and restoring
its generators, so the answer is the same and the training loop's own randomness is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, default_collate, get_worker_info

from tunesafe.data.blocks import IndexBlocks, Span, runs
from tunesafe.data.devices import move
from tunesafe.data.order import Order
from tunesafe.data.orphans import die_with_parent
from tunesafe.data.permutation import hash_positions
from tunesafe.data.seeding import SeededReader, seed_generators, undisturbed
from tunesafe.data.sources import MapDataset
from tunesafe.errors import TrialError
from tunesafe.seeds import derive

__all__ = ["check_options", "loader_batches"]

_ACCEPTED = {
    "collate_fn",
    "multiprocessing_context",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "pin_memory_device",
    "prefetch_factor",
    "timeout",
    "worker_init_fn",
}
_REFUSED = {
    "batch_sampler": "the plan decides the batches; pass batch_size",
    "batch_size": "it is an argument of its own",
    "dataset": "the data are an argument of their own",
    "drop_last": "every example of the budget is trained on, the last batches are evened out instead",
    "generator": "the order is computed from the trial's seed",
    "in_order": "batches out of order could not be resumed",
    "sampler": "the order is computed from the trial's seed; pass shuffle or weights",
    "shuffle": "it is an argument of its own",
}


def check_options(options: dict[str, Any]) -> None:
    """Refuse DataLoader options that do not exist or would fight the stream.

    Raises:
        TrialError: Naming the option, and why it is refused or the nearest one that exists.
    """
    for name in options:
        if name in _REFUSED:
            why = _REFUSED[name]
            raise TrialError(f"The DataLoader option {name!r} cannot be combined with a resumable stream: {why}.")
        if name not in _ACCEPTED:
            near = get_close_matches(name, sorted(_ACCEPTED), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(_ACCEPTED))}."
            raise TrialError(f"There is no DataLoader option {name!r}; {hint}")


def loader_batches(
    dataset: MapDataset,
    spans: Iterable[Span],
    order: Order,
    device: torch.device | str | None = None,
    options: dict[str, Any] | None = None,
) -> Generator[Any, None, None]:
    """The batches of these spans; closing the generator stops the workers.

    Args:
        dataset: The data.
        spans: What to read.
        order: What stands where; its seed also seeds the reading of each example.
        device: Where the batches are wanted; as the collate function leaves them unless given.
        options: The DataLoader's.

    Raises:
        TrialError: If the DataLoader refuses its options.
    """
    options = dict(options or {})
    options.pop("persistent_workers", None)  # there is one loader, so they always are
    batches: Any = _Batches(dataset, options.pop("collate_fn", None) or default_collate)
    init = _WorkerInit(dataset, options.pop("worker_init_fn", None))
    generator = torch.Generator()  # DataLoader draws its workers' base seed; from ours, not from the main process's
    generator.manual_seed(derive(order.seed, "loader", order.stream))
    requests: Any = _Requests(spans, order)
    try:
        loader: DataLoader[Any] = DataLoader(
            batches,
            batch_sampler=requests,
            collate_fn=_as_it_is,
            worker_init_fn=init,
            generator=generator,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise TrialError(f"The DataLoader refused its options {options}: {error}") from error
    return _drain(loader, device, bool(options.get("pin_memory")))


def _drain(loader: DataLoader[Any], device: torch.device | str | None, pinned: bool) -> Generator[Any, None, None]:
    batches = iter(loader)
    try:
        for batch in batches:
            yield batch if device is None else move(batch, device, non_blocking=pinned)
    finally:
        # Dropping the iterator would do it too, but a traceback or a debugger may hold on to it.
        stop = getattr(batches, "_shutdown_workers", None)
        if stop is not None:
            stop()


class _Request(NamedTuple):
    indices: list[int]
    seeds: list[int]


class _Requests:
    """In the place of a batch sampler: what to read for each span."""

    def __init__(self, spans: Iterable[Span], order: Order) -> None:
        self._spans, self._blocks = spans, IndexBlocks(order)
        self._key = derive(order.seed, "read", order.stream, bits=64)

    def __iter__(self) -> Iterator[_Request]:
        for run in runs(self._spans):
            start, size = run[0].start, sum(span.size for span in run)
            indices = self._blocks.take(start, size).tolist()
            seeds = hash_positions(np.arange(start, start + size), self._key).tolist()
            for span in run:
                own = slice(span.start - start, span.start - start + span.size)
                yield _Request(indices[own], seeds[own])


class _Batches:
    """In the place of the dataset: reads and collates one batch, seeded by its position."""

    def __init__(self, dataset: MapDataset, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset, self._collate = dataset, collate
        self._whole = _reads_whole_batches(dataset)
        self._reader: SeededReader | None = None  # belongs to one process: it watches that process's generators

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, request: _Request) -> Any:
        if get_worker_info() is not None:
            return self._read(request)
        with undisturbed():
            return self._read(request)

    def _read(self, request: _Request) -> Any:
        indices, seeds = request
        if self._whole:
            seed_generators(seeds[0])
            whole: Any = self._dataset
            examples = whole.__getitems__(indices)
        else:
            self._reader = self._reader or SeededReader()
            examples = self._reader.read(self._dataset, indices, seeds)
        if self._collate is not default_collate:
            seed_generators(~seeds[0] & 0xFFFFFFFFFFFFFFFF)
        return self._collate(examples)


def _reads_whole_batches(dataset: Any) -> bool:
    """Whether the dataset itself has ``__getitems__``; every Subset has one, for what it is a subset of."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


class _WorkerInit:
    """Ties a worker to its parent, shows it its own dataset instead of our reader, then does as the user asked."""

    def __init__(self, dataset: MapDataset, then: Callable[[int], None] | None) -> None:
        self._dataset, self._then = dataset, then

    def __call__(self, worker_id: int) -> None:
        die_with_parent()
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", self._dataset)  # it is read-only, and so far shows our reader
        if self._then is not None:
            self._then(worker_id)


def _as_it_is(batch: Any) -> Any:
    return batch
