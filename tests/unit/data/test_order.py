"""The order of examples: a fair shuffle in every pass, computed from any position."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesafe.data import permutation
from tunesafe.data.order import Order
from tunesafe.data.permutation import LARGEST_SORTED, permute
from tunesafe.errors import TrialError

keys = st.integers(0, 2**64 - 1)
lengths = st.one_of(st.integers(1, 40), st.integers(1, 5000))


@pytest.fixture
def feistel_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send short data through the network that otherwise only long data see."""
    monkeypatch.setattr(permutation, "LARGEST_SORTED", 1)


@given(n=lengths, key=keys, first=st.integers(0, 10**9))
def test_every_pass_holds_every_example_once(n: int, key: int, first: int) -> None:
    """Sorting: a bijection for every length."""
    assert np.array_equal(np.sort(permute(first * n, n, n, key)), np.arange(n))


@settings(max_examples=40)
@given(n=st.integers(2, 3000), key=keys, first=st.integers(0, 10**9))
def test_every_walked_pass_holds_every_example_once(n: int, key: int, first: int) -> None:
    """Cycle walking: a bijection for every length, so also for those too long to try."""
    passes = permutation._walked(np.arange(first * n, (first + 2) * n), n, key).reshape(2, n)
    assert (np.sort(passes, axis=1) == np.arange(n)).all()


def test_long_data_are_shuffled_too() -> None:
    """The first length that is walked instead of sorted gives each example once and moves most of them."""
    n = LARGEST_SORTED + 1
    indices = permute(n, n, n, key=7)
    assert np.array_equal(np.sort(indices), np.arange(n))
    assert (indices == np.arange(n)).mean() < 0.001


@settings(max_examples=40)
@given(
    n=st.one_of(lengths, st.integers(LARGEST_SORTED, 2**40)),
    seed=st.integers(0, 2**31 - 1),
    start=st.integers(0, 10**12),
    cut=st.integers(0, 60),
    mode=st.sampled_from(["shuffle", "sequence"]),
)
def test_a_position_holds_the_same_example_wherever_reading_began(
    n: int, seed: int, start: int, cut: int, mode: str
) -> None:
    """Order is a function of the position, not of the way to it."""
    order = Order(n, seed, shuffle=mode == "shuffle")
    whole = order.indices(start, 60)
    assert whole.dtype == np.int64
    assert np.array_equal(whole[cut:], Order(n, seed, shuffle=mode == "shuffle").indices(start + cut, 60 - cut))
    assert whole.min() >= 0
    assert whole.max() < n


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_few_examples_is_equally_likely(n: int) -> None:
    """Chi-square over all n! orders, 300 passes for each, stays within 5 standard deviations."""
    count = math.factorial(n) * 300
    passes = permute(0, count * n, n, key=2024).reshape(count, n)
    found = np.unique(passes @ n ** np.arange(n), return_counts=True)[1]
    freedom = math.factorial(n) - 1
    assert found.size == freedom + 1
    assert ((found - 300) ** 2 / 300).sum() < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [1000, 4096, 5000])
@pytest.mark.usefixtures("feistel_only")
def test_the_network_spreads_neighbours_evenly(n: int) -> None:
    """From where to where, and from which to which next: chi-square on a 16 x 16 grid."""
    passes = permute(0, 40 * n, n, key=11).reshape(40, n)
    cell = passes * 16 // n
    place = np.tile(np.arange(n) * 16 // n, 40)
    for rows, columns in ((place, cell.ravel()), (cell[:, :-1].ravel(), cell[:, 1:].ravel())):
        found = np.zeros((16, 16))
        np.add.at(found, (rows, columns), 1)
        expected = np.outer(found.sum(1), found.sum(0)) / found.sum()
        assert ((found - expected) ** 2 / expected).sum() < 225 + 5 * math.sqrt(2 * 225)


def test_passes_seeds_and_streams_have_orders_of_their_own() -> None:
    """Nothing is shuffled the same way twice."""
    first, second = Order(500, seed=1).indices(0, 1000).reshape(2, 500)
    orders = [first, second, Order(500, seed=2).indices(0, 500), Order(500, seed=1, stream="noise").indices(0, 500)]
    assert len({order.tobytes() for order in orders}) == 4


def test_an_order_once_given_never_changes() -> None:
    """A study resumed by a later version meets the same examples: these numbers are a promise."""
    assert Order(10, seed=17).indices(0, 10).tolist() == [3, 4, 1, 5, 8, 0, 6, 2, 9, 7]
    assert Order(2**21, seed=17).indices(0, 5).tolist() == [1697932, 311956, 1416183, 418404, 2055673]
    assert Order(10, seed=17, weights=range(10)).indices(0, 10).tolist() == [6, 4, 7, 3, 3, 5, 7, 9, 6, 9]


def test_weights_are_frequencies() -> None:
    """Examples come as often as their weights say, and those of weight zero never."""
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    found = np.bincount(Order(5, seed=3, weights=weights).indices(10**9, 40_000), minlength=5)
    assert found[[0, 2, 4]].sum() == 0
    assert abs(found[3] - 30_000) < 5 * math.sqrt(40_000 * 0.25 * 0.75)


def test_weighted_positions_do_not_depend_on_where_reading_began() -> None:
    """With replacement too, position p is computed."""
    order = Order(50, seed=3, weights=np.arange(50))
    assert np.array_equal(order.indices(100, 50), order.indices(90, 60)[10:])


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ([1.0, 2.0], r"shape \[2\]"),
        ([1.0, -1.0, 1.0], r"weights\[1\] is -1.0"),
        ([1.0, 1.0, math.nan], r"weights\[2\] is nan"),
        ([0.0, 0.0, 0.0], "their sum is 0.0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list[float], found: str) -> None:
    """The message names the first bad one."""
    with pytest.raises(TrialError, match=found):
        Order(3, seed=0, weights=weights)


def test_empty_data_are_refused() -> None:
    """There is nothing to repeat."""
    with pytest.raises(TrialError, match="empty"):
        Order(0, seed=0)
