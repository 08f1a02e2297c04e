"""What the codec does not take and does not believe: values without a plain form, and damaged text and bytes."""

from __future__ import annotations

import contextlib
import enum
import json
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesafe.errors import DamagedError, StateError
from tunesafe.state.codec import decode, encode


class Colour(enum.IntEnum):
    """An enumeration: a class of user code."""

    RED = 1


Point = namedtuple("Point", "x y")
CIRCLE: list[Any] = []
CIRCLE.append({"again": CIRCLE})
DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "builtins.object"),
        (lambda: 0, "functions are code"),
        (Colour.RED, "plain built-in type"),
        (Point(1, 2), "plain built-in type"),
        (torch.Generator(), "state_dict"),
        (np.array([None]), "objects"),
        (np.zeros(2, [("a", "f4")]), "one array per field"),
        (torch.ones(2, device="meta"), "Materialise"),
        (torch.ones(2, dtype=torch.complex64).conj(), "resolve_conj"),
        (torch.eye(2).to_sparse_csr, "functions are code"),
        (torch.nn.parameter.UninitializedParameter(), "first forward pass"),
        (defaultdict(lambda: 0), "defaultdict"),
        ({torch.ones(1): 1}, "identity"),
        ({(1, torch.ones(1)): 1}, "identity"),
        (CIRCLE, "contains itself"),
        (DEEP, "200 deep"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_stored_is_named_with_its_path_and_a_way_out(value: object, words: str) -> None:
    """The user learns which part of which object is at fault, and that nothing was written."""
    with pytest.raises(StateError, match="Nothing was written") as caught:
        encode({"model": {"fine": 1, "deep": [0, value]}})
    assert "'model/deep/1" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["quantized", "sparse_csr"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch announces the end of both
def test_tensors_without_plain_memory_are_refused(kind: str) -> None:
    """Quantized and compressed sparse tensors."""
    tensor = (
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        if kind == "quantized"
        else torch.eye(2).to_sparse_csr()
    )
    with pytest.raises(StateError, match=f"'x' holds a {kind} tensor"):
        encode({"x": tensor})


TREE = {"a": torch.arange(6.0).reshape(2, 3).T, "b": [1, (2.5, {"x": np.arange(3)})], "c": OrderedDict(d=None)}


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_text_or_bytes_never_raise_anything_else(data: st.DataObject) -> None:
    """Whatever a disk did to it, reading ends in a value or in DamagedError."""
    structure, blobs = encode(TREE)
    buffers = [bytes(blob.data) for blob in blobs]
    place = data.draw(st.integers(0, len(structure) - 1))
    text = structure[:place] + data.draw(st.sampled_from(['"', "9", "-", "{", "x", ""])) + structure[place + 1 :]
    with contextlib.suppress(DamagedError):
        decode(text, buffers)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text, buffers: (text, buffers[:-1]),
        lambda text, buffers: (text, [buffers[0][:-1], *buffers[1:]]),
        lambda text, buffers: (text.replace('"shape":[3,2]', '"shape":[300,2]'), buffers),
        lambda text, buffers: (text.replace('"stride":[1,3]', '"stride":[1,-3]'), buffers),
        lambda text, buffers: (text.replace("$ordered", "$pickle"), buffers),
        lambda text, buffers: (text[:-1], buffers),
        lambda text, buffers: ("[]", buffers),
    ],
)
def test_text_and_bytes_that_do_not_fit_are_damage(damage: Any) -> None:
    """Above all, no tensor ever looks beyond its bytes."""
    structure, blobs = encode(TREE)
    with pytest.raises(DamagedError, match="stored state"):
        decode(*damage(structure, [bytes(blob.data) for blob in blobs]))


def test_a_format_of_the_future_is_refused() -> None:
    """An old tunesafe does not guess at a new one's text."""
    structure = json.dumps({"format": 2, "tree": None})
    with pytest.raises(DamagedError, match="format 2"):
        decode(structure, [])
