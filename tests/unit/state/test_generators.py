"""Random numbers go on where they were."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesafe.errors import StateError
from tunesafe.state.codec import decode, encode
from tunesafe.state.generators import capture_generators, restore_generators


def draw(count: int) -> list[Any]:
    """Numbers from every generator; the odd normal variate leaves a cached one behind."""
    return [
        (
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.rand(3).tolist(),
            torch.randn(5).tolist(),
        )
        for _ in range(count)
    ]


@settings(max_examples=25)
@given(before=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_all_generators_continue_bit_exactly(before: int, seed: int) -> None:
    """Through text and bytes, from any point, cached normal variates included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    draw(before)
    random.gauss(0, 1)
    structure, blobs = encode(capture_generators())
    expected = draw(3)
    restore_generators(decode(structure, [bytearray(blob.data) for blob in blobs]))
    assert draw(3) == expected


def test_a_capture_draws_nothing() -> None:
    """Looking at the generators does not move them."""
    state = capture_generators()
    first = draw(1)
    restore_generators(state)
    capture_generators()
    assert draw(1) == first


def test_a_state_of_another_kind_is_refused_with_a_way_out() -> None:
    """Another numpy bit generator cannot take the state."""
    state = capture_generators()
    state["numpy"] = {**state["numpy"], "bit_generator": "PCG64"}
    with pytest.raises(StateError, match="Resume with the versions"):
        restore_generators(state)
