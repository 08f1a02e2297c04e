"""The stream: the right examples, from anywhere, in any way of loading them."""

from __future__ import annotations

import gc
import multiprocessing
import random
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from tunesafe.clock import Plan
from tunesafe.contracts import Position
from tunesafe.data.devices import move
from tunesafe.data.order import Order
from tunesafe.data.stream import EndlessStream, num_examples, open_stream
from tunesafe.errors import StateError, TrialError

# Two cores and four workers: torch advises against it.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

N = 23
PLAN = Plan(total=60, virtual_epochs=3, batch_size=6)
START = Position(0, 0)
X, Y = torch.arange(N * 3, dtype=torch.float32).reshape(N, 3), torch.arange(N)


class Augmented(Dataset[Any]):
    """Example ``i``, with a draw from each generator."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "torch": torch.rand(2), "numpy": np.random.rand(), "python": random.random()}


class Batched(Augmented):
    """The same, read a batch at a time."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[i] for i in indices]


class Broken(Dataset[int]):
    """Raises at one example."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        if index == 7:
            raise LookupError("no such picture: cat.png")
        return index


class Endless(IterableDataset[int]):
    """Can only be iterated."""

    def __iter__(self) -> Any:
        return iter(range(3))


def noisy_collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Mixes noise in, as mixup does."""
    return {"index": torch.tensor([e["index"] for e in examples]), "noise": torch.rand(len(examples))}


def scramble(worker_id: int) -> None:
    """What many a worker_init_fn does."""
    np.random.seed(worker_id)


def show_dataset(worker_id: int) -> None:
    """Fails unless a worker is shown its own dataset."""
    info = torch.utils.data.get_worker_info()
    assert info is not None
    assert type(info.dataset) is Augmented


def read(data: Any, start: Position = START, seed: int = 1, **options: Any) -> list[Any]:
    """All batches of the plan from ``start`` on."""
    with open_stream(data, PLAN.batches(start), Order(num_examples(data), seed), **options) as stream:
        return list(stream)


def same(left: Any, right: Any) -> bool:
    """Equal in type, structure and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def generators() -> tuple[Any, ...]:
    """The state of the main process's global generators."""
    words = np.random.get_state()[1]
    return random.getstate(), bytes(words), bytes(torch.get_rng_state().numpy())  # type: ignore[arg-type]


@settings(max_examples=30)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 50),
    shuffle=st.booleans(),
    form=st.sampled_from([tuple, list, None, TensorDataset]),
)
def test_tensors_give_the_examples_of_the_order(n: int, size: int, shuffle: bool, form: Any) -> None:
    """Also across the ends of passes, and in the form the data had."""
    x = torch.arange(n * 2).reshape(n, 2)
    data = x if form is None else TensorDataset(x, x[:, 0]) if form is TensorDataset else form((x, x[:, 0]))
    plan, order = Plan(total=3 * n, virtual_epochs=1, batch_size=size), Order(n, seed=5, shuffle=shuffle)
    for span, batch in zip(plan.batches(START), open_stream(data, plan.batches(START), order), strict=True):
        expected = x[torch.from_numpy(order.indices(span.start, span.size))]
        if form is None:
            assert same(batch, expected)
        else:
            assert same(batch, (tuple if form is tuple else list)((expected, expected[:, 0])))


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_copies_aligned_in_memory(shuffle: bool) -> None:
    """A loop may change a batch in place, and its place in memory does not depend on its position."""
    x, y = X.clone(), Y.clone()
    order = Order(N, seed=1, shuffle=shuffle)
    for a, b in open_stream((x, y), PLAN.batches(START), order):
        assert a.data_ptr() % 64 == b.data_ptr() % 64 == 0
        a.zero_()
        b.zero_()
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_a_tensor_dataset_gives_the_bits_its_loader_would() -> None:
    """The fast path is a shortcut, not a difference."""
    fast = read(TensorDataset(X, Y))
    slow = read([(x, y) for x, y in zip(X.tolist(), Y.tolist(), strict=True)])  # examples, not columns
    collated = read(TensorDataset(X, Y), collate_fn=torch.utils.data.default_collate)
    assert same(fast, collated)
    assert [b[1].tolist() for b in fast] == [b[1].tolist() for b in slow]


@pytest.mark.parametrize("dataset", [Augmented(), Batched(), Subset(Augmented(), list(range(N)))])
def test_workers_and_restarts_change_no_example(dataset: Any) -> None:
    """0, 1 and 4 workers, and a start in the middle, give the same examples with the same augmentations."""
    expected = read(dataset)
    assert len({b["python"][0].item() for b in expected}) == len(expected)
    for workers in (1, 4):
        assert same(read(dataset, num_workers=workers), expected)
    cut = Position(32, 1)
    done = sum(1 for b in PLAN.batches(START) if b.start < 32)
    assert same(read(dataset, cut), expected[done:])
    assert same(read(dataset, cut, num_workers=2), expected[done:])


def test_an_augmentation_depends_on_the_position_not_on_the_batch() -> None:
    """Other batch sizes, and a dataset behind a Subset, read each position the same."""
    order = Order(N, seed=1)
    small = Plan(total=60, virtual_epochs=3, batch_size=1)
    ones = [b["torch"][0] for b in open_stream(Augmented(), small.batches(START), order)]
    behind = Subset(Augmented(), list(range(N)))
    for data in (Augmented(), behind):
        sixes = torch.cat([b["torch"] for b in read(data)])
        assert torch.equal(sixes, torch.stack(ones))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"collate_fn": noisy_collate}, {"worker_init_fn": scramble}])
def test_the_main_generators_are_not_disturbed(workers: int, options: dict[str, Any]) -> None:
    """The loop's own randomness (dropout, noise) does not notice how data are read."""
    before = generators()
    batches = read(Augmented(), num_workers=workers, **options)
    assert generators() == before
    assert same(batches, read(Augmented(), **options))


def test_the_trials_seed_and_the_streams_name_decide_the_augmentations() -> None:
    """Two trials, or two streams of one, draw differently."""
    first = read(Augmented())
    other = read(Augmented(), seed=2)
    with open_stream(Augmented(), PLAN.batches(START), Order(N, 1, stream="noise")) as stream:
        third = next(stream)
    assert not same(first[0]["torch"], other[0]["torch"])
    assert not same(first[0]["torch"], third["torch"])


def test_a_worker_is_shown_its_own_dataset() -> None:
    """``worker_init_fn`` finds what it knows in ``get_worker_info().dataset``."""
    assert len(read(Augmented(), num_workers=1, worker_init_fn=show_dataset)) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_dataset_keeps_its_type_and_place(workers: int) -> None:
    """The user's own traceback is in what is raised."""
    with pytest.raises(LookupError, match="no such picture") as caught:
        read(Broken(), num_workers=workers)
    shown = str(caught.value) + str([str(entry.path) for entry in caught.traceback])
    assert "test_stream.py" in shown


@pytest.mark.parametrize("end", ["close", "forget"])
def test_workers_end_with_the_stream(end: str) -> None:
    """A pruned trial leaves its stream half-way: no process stays."""
    before = set(multiprocessing.active_children())
    stream = open_stream(Augmented(), PLAN.batches(START), Order(N, 1), num_workers=2)
    next(stream)
    assert len(set(multiprocessing.active_children()) - before) == 2
    if end == "close":
        stream.close()
        stream.close()
        assert next(stream, None) is None
    else:
        del stream
        gc.collect()
    assert set(multiprocessing.active_children()) <= before


def test_nothing_starts_before_the_first_batch() -> None:
    """Opening a stream is free: state can be restored in between."""
    before = set(multiprocessing.active_children())
    stream = open_stream(Augmented(), PLAN.batches(START), Order(N, 1), num_workers=2)
    assert set(multiprocessing.active_children()) <= before
    stream.close()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (Endless(), "can only be iterated"),
        (iter([1, 2]), "can only be iterated"),
        ({"x": X}, "mapping of columns becomes a tuple"),
        (DataLoader(TensorDataset(X)), "ready DataLoader"),
        (3, "no __len__ and __getitem__"),
        ((X, Y[:5]), "differ in length"),
        ((X, Y.numpy()), "element 1 is an ndarray"),
        ((X, torch.tensor(1.0)), "without dimensions"),
        ((X[:0], Y[:0]), "empty"),
        ([], "empty"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_what_to_pass(data: Any, found: str) -> None:
    """Before anything is read."""
    with pytest.raises(TrialError, match=found):
        num_examples(data)


@pytest.mark.parametrize("name", ["sampler", "batch_sampler", "drop_last", "shuffle", "batch_size", "generator"])
@pytest.mark.parametrize("data", [(X, Y), Augmented()])
def test_options_that_would_fight_the_stream_are_refused_by_name(name: str, data: Any) -> None:
    """The plan alone decides what is in a batch."""
    with pytest.raises(TrialError, match=f"'{name}' cannot be combined"):
        read(data, **{name: None})


def test_unknown_options_are_refused_with_the_nearest_name() -> None:
    """A typo does not pass silently."""
    with pytest.raises(TrialError, match=r"'num_worker'; did you mean 'num_workers'\?"):
        read(Augmented(), num_worker=2)


def test_what_the_loader_refuses_is_an_error_of_the_trial() -> None:
    """The words of torch are kept."""
    with pytest.raises(TrialError, match="non-negative"):
        read(Augmented(), num_workers=-1)


def test_batches_arrive_on_the_device() -> None:
    """Tensors and nested batches alike."""
    assert {x.device.type for x, _ in read((X, Y), device="meta")} == {"meta"}
    assert {b["torch"].device.type for b in read(Augmented(), device="meta")} == {"meta"}


def test_moving_keeps_the_form_of_a_batch() -> None:
    """Named tuples, mappings, lists, and whatever is no tensor."""
    pair = namedtuple("pair", "x name")
    batch = [pair(X, "a"), OrderedDict(y=Y), (1, None), {"z": [X]}]
    moved = move(batch, "cpu")
    assert same(moved, batch)
    assert move(batch, "meta")[1]["y"].device.type == "meta"


@settings(max_examples=20)
@given(size=st.integers(1, 50), cut=st.integers(0, 8))
def test_an_endless_stream_resumes_from_one_integer(size: int, cut: int) -> None:
    """Equal batches over all passes; a new stream at the old one's position gives the same rest."""
    stream = EndlessStream((X, Y), size, seed=3, name="real")
    batches = [next(stream) for _ in range(10)]
    assert {len(y) for _, y in batches} == {size}
    assert stream.position == 10 * size
    resumed = EndlessStream((X, Y), size, seed=3, name="real")
    resumed.load_state_dict({"position": cut * size})
    assert same([next(resumed) for _ in range(10 - cut)], batches[cut:])
    assert resumed.state_dict() == stream.state_dict()
    seen = torch.cat([y for _, y in batches])[: 10 * size // N * N].reshape(-1, N)
    assert torch.equal(seen.sort(1).values, Y.expand_as(seen))


def test_an_endless_stream_refuses_what_is_not_its_state() -> None:
    """A damaged or foreign state is named, not guessed at."""
    stream = EndlessStream((X, Y), 4, seed=0)
    with pytest.raises(StateError, match="without a valid position"):
        stream.load_state_dict({"position": -1})
    with pytest.raises(TrialError, match="batch_size of the stream 'stream' is 0"):
        EndlessStream((X, Y), 0, seed=0)
    for size in (2.5, 4.0, True, "4"):
        with pytest.raises(TrialError, match=r"batch_size of the stream 'stream' is .*whole number"):
            EndlessStream((X, Y), size, seed=0)  # type: ignore[arg-type]
