"""Seeding: per example, cheap, and without a trace in the main process."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunesafe.data.seeding import SeededReader, seed_everything, seed_generators, undisturbed

DRAWS: list[Callable[[], Any]] = [
    lambda: None,
    random.random,
    lambda: random.gauss(0, 1),
    lambda: [random.getrandbits(32) for _ in range(624)],
    np.random.random,
    np.random.standard_normal,
    lambda: np.random.random(312).tolist(),  # exactly the 624 words after which the generator stands where it began
    lambda: torch.rand(()).item(),
    lambda: torch.randn(3).tolist(),
    lambda: random.seed(5),
    lambda: np.random.seed(5),
]


def state() -> tuple[object, ...]:
    """Everything the three global generators remember."""
    name, words, *rest = np.random.get_state()
    return random.getstate(), name, bytes(words), tuple(rest), bytes(torch.get_rng_state().numpy())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _restored() -> Any:
    with undisturbed():
        yield


@settings(max_examples=60)
@given(
    before=st.lists(st.sampled_from(DRAWS), max_size=3), inside=st.lists(st.sampled_from(DRAWS), min_size=1, max_size=3)
)
def test_the_main_generators_are_left_as_they_were(
    before: list[Callable[[], Any]], inside: list[Callable[[], Any]]
) -> None:
    """Bit for bit, a normal number that numpy or python holds back included."""
    seed_everything(3)
    for draw in before:
        draw()
    expected = state()
    with undisturbed():
        seed_generators(2**63 + 5)
        for draw in inside:
            draw()
    assert state() == expected


def test_the_main_generators_are_left_as_they_were_by_an_error() -> None:
    """A dataset that raises disturbs nothing either."""
    expected = state()
    with pytest.raises(KeyError), undisturbed():
        raise KeyError(random.random())
    assert state() == expected


def test_a_bit_generator_of_the_users_own_survives() -> None:
    """The global generator of numpy may have been replaced."""
    original = np.random.mtrand.get_bit_generator()
    try:
        np.random.mtrand.set_bit_generator(np.random.PCG64(1))
        with undisturbed():
            np.random.random(5)
        assert np.random.random() == np.random.RandomState(np.random.PCG64(1)).random()
    finally:
        np.random.mtrand.set_bit_generator(original)


def test_everything_is_seeded_as_users_do_it() -> None:
    """The trial's seed gives what a script seeded with it would draw."""
    seed_everything(17)
    drawn = random.random(), np.random.random(), torch.rand(()).item()
    generator = torch.Generator()
    generator.manual_seed(17)
    expected = random.Random(17).random(), np.random.RandomState(17).random(), torch.rand((), generator=generator)
    assert drawn == (*expected[:2], expected[2].item())


def test_the_generators_do_not_draw_the_same_bits() -> None:
    """Those of numpy and torch run the same algorithm: from one seed of 32 bits they would give one sequence."""
    seed_generators(0x123456789ABCDEF0)
    ours = np.random.randint(0, 2**32, 50, dtype=np.uint64).tolist()
    assert not set(ours) & set(torch.randint(0, 2**32, (50,)).tolist())


class Script:
    """A dataset whose example ``i`` makes the ``i``-th list of draws."""

    def __init__(self, script: list[list[int]]) -> None:
        self.script = script
        self.num_reads = 0

    def __getitem__(self, index: int) -> list[Any]:
        self.num_reads += 1
        return [DRAWS[i]() for i in self.script[index]]


@settings(max_examples=60)
@example(script=[[], [1, 9]], batch_size=2, skipped=0)  # draws, then seeds python's generator itself
@given(
    script=st.lists(st.lists(st.integers(0, len(DRAWS) - 1), max_size=2), min_size=1, max_size=12),
    batch_size=st.integers(1, 12),
    skipped=st.integers(0, 11),
)
def test_examples_are_read_as_if_each_were_seeded_alone(script: list[list[int]], batch_size: int, skipped: int) -> None:
    """Whatever an example draws, whatever was read before it, in whatever batches, from wherever on."""
    seeds = [(i + 1) * 0x9E3779B97F4A7C15 % 2**64 for i in range(len(script))]
    expected = []
    for i, seed in enumerate(seeds):
        seed_generators(seed)
        expected.append(Script(script)[i])
    first = skipped % len(script)
    reader, dataset, found = SeededReader(), Script(script), []
    for start in range(first, len(script), batch_size):
        indices = list(range(start, min(start + batch_size, len(script))))
        found += reader.read(dataset, indices, [seeds[i] for i in indices])
    assert found == expected[first:]
    assert dataset.num_reads <= len(script) - first + 2 * batch_size


def test_a_dataset_that_always_draws_is_read_once_for_each_example() -> None:
    """Which generators are in use is learned from the first example, without reading it again."""
    dataset = Script([[1, 4, 7]] * 20)
    SeededReader().read(dataset, list(range(20)), list(range(20)))
    assert dataset.num_reads == 20
