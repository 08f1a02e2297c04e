"""Two trees are the same only if every bit is."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from tunesafe.state.compare import first_difference, same


@pytest.mark.parametrize(
    ("stored", "live", "path"),
    [
        (1, True, "x"),
        (1, 1.0, "x"),
        (0.0, -0.0, "x"),
        (0j, -0j, "x"),
        (math.nan, -math.nan, "x"),
        ([1, 2], (1, 2), "x"),
        ([1, 2], [1], "x"),
        ([1, [2]], [1, [3]], "x/1/0"),
        ({"a": 1}, {"a": 1, "b": 2}, "x/b"),
        ({1: 0}, {True: 0}, "x/1"),
        ({"a": 1}, OrderedDict(a=1), "x"),
        (torch.zeros(2), -torch.zeros(2), "x"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "x"),
        (torch.zeros(2), torch.zeros(1, 2), "x"),
        (torch.zeros(2), np.zeros(2, np.float32), "x"),
        (torch.eye(2), torch.eye(2).to_sparse(), "x"),
        (np.zeros(2), np.zeros(3), "x"),
        (np.float32(1), np.float64(1), "x"),
        ({1}, {2}, "x"),
    ],
)
def test_a_difference_is_found_and_named(stored: Any, live: Any, path: str) -> None:
    """Types, signs of zero and of NaN, keys and shapes count."""
    difference = first_difference({"x": stored}, {"x": live})
    assert difference is not None
    assert difference.path == path
    assert difference.stored != difference.live


def test_the_first_element_that_differs_is_shown() -> None:
    """A shape alone would not help anybody to find what changed it."""
    difference = first_difference(torch.ones(2, 3), torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.5, 1.0]]))
    assert difference is not None
    assert (difference.stored[-16:], difference.live[-16:]) == ("element 4 is 1.0", "element 4 is 2.5")


def test_what_carries_no_meaning_is_not_compared() -> None:
    """Order of keys, strides and requires_grad may differ."""
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert same(torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3).T.contiguous().T)
    assert same(torch.ones(2), torch.ones(2, requires_grad=True))


def test_nan_equals_the_same_nan() -> None:
    """Bits are compared, not values."""
    tree = {"loss": math.nan, "t": torch.tensor([math.nan]), "n": np.array([math.nan]), "s": np.float32("nan")}
    assert same(tree, copy.deepcopy(tree))
