"""The codec gives back what it was given: every type, every bit, every shared object."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesafe.state.codec import decode, encode
from tunesafe.state.compare import first_difference
from tunesafe.state.memory import ALIGNMENT, TORCH_DTYPES, aligned_buffer


def there_and_back(tree: object) -> Any:
    """What a restart sees: the text, and bytes in buffers of their own."""
    structure, tensors = encode(tree)
    return decode(structure, [bytearray(tensor.data) for tensor in tensors])


def address(tensor: torch.Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()


floats = st.one_of(
    st.floats(),
    st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]),
)
texts = st.one_of(st.text(), st.lists(st.integers(0xD7F0, 0xE010), max_size=4).map(lambda c: "".join(map(chr, c))))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    floats,
    st.builds(complex, floats, floats),
    texts,
    st.binary(max_size=400),
    st.sampled_from([torch.float32, torch.device("cpu"), torch.Size([2, 3]), torch.channels_last, np.dtype("<f4")]),
    st.sampled_from([np.float64(-0.0), np.float32("nan"), np.int8(-3), np.bool_(True), np.str_("é"), np.str_("")]),
    st.sampled_from([np.datetime64("2026-01-01"), np.longdouble("0.1"), np.complex64(1j), np.bytes_(b"\0a")]),
)
keys = st.one_of(st.none(), st.booleans(), st.integers(), texts, st.floats(allow_nan=False), st.tuples(st.integers()))
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float64])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Tensors of any shape and strides, with any bits in them."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(dtypes)
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (math.prod(shape) * dtype.itemsize,), generator=generator)
    tensor = raw.to(torch.uint8).view(dtype).reshape(shape)
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    if shape and draw(st.booleans()):
        tensor = tensor[:: draw(st.integers(1, 2))]
    return tensor


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Every container the codec knows, of anything."""
    dicts = st.dictionaries(keys, children, max_size=4)
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        dicts,
        dicts.map(OrderedDict),
        dicts.map(lambda items: defaultdict(list, items)),
        st.builds(deque, st.lists(children, max_size=3), st.sampled_from([None, 3, 8])),
        st.builds(Counter, st.dictionaries(texts, st.integers())),
        st.sets(st.one_of(st.integers(), texts)),
        st.frozensets(st.integers()),
        st.binary().map(bytearray),
    )


trees = st.recursive(st.one_of(scalars, tensors()), containers, max_leaves=12)


@settings(max_examples=150)
@given(tree=trees)
def test_any_tree_comes_back_the_same(tree: Any) -> None:
    """Types, keys, order of keys and bits survive; the text is ASCII and the same a second time."""
    structure, blobs = encode(tree)
    back = decode(structure, [bytearray(blob.data) for blob in blobs])
    assert first_difference(tree, back) is None
    assert structure.isascii()
    assert encode(back)[0] == structure
    assert len({blob.path for blob in blobs}) == len(blobs)


@settings(max_examples=100)
@given(tensor=tensors())
def test_a_tensor_keeps_its_strides_and_is_aligned_and_writable(tensor: torch.Tensor) -> None:
    """A kernel chosen by memory layout is chosen again after a restart."""
    back = there_and_back([tensor])[0]
    assert back.stride() == tensor.stride()
    assert back.shape == tensor.shape
    assert address(back) % ALIGNMENT == 0
    back.zero_()


@given(items=st.dictionaries(keys, st.integers(), max_size=6))
def test_a_dict_keeps_the_order_and_the_types_of_its_keys(items: dict[Any, int]) -> None:
    """1, True, "1" and 1.0 are different keys, and stay where they are."""
    back = there_and_back(items)
    assert [(type(key), key) for key in back] == [(type(key), key) for key in items]


STORABLE = sorted(name for name, dtype in TORCH_DTYPES.items() if not name.startswith(("qint", "quint")))


@pytest.mark.parametrize("name", sorted({str(TORCH_DTYPES[name]).removeprefix("torch.") for name in STORABLE}))
def test_every_dtype_of_torch_comes_back(name: str) -> None:
    """Also those with hardly an operator, such as float4 and the bit types."""
    dtype = TORCH_DTYPES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls complex32 experimental
        tensor = torch.empty(0, dtype=dtype).set_(torch.arange(64, dtype=torch.uint8).untyped_storage(), 0, (4,), (1,))
        back = there_and_back({"x": tensor})["x"]
        assert first_difference(tensor, back) is None


def test_memory_formats_survive() -> None:
    """channels_last decides which convolution kernel runs."""
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    single = torch.randn(2, 1, 4, 5).to(memory_format=torch.channels_last)
    structure, blobs = encode({"image": image, "single": single})
    back = decode(structure, [blob.data for blob in blobs])
    assert back["image"].is_contiguous(memory_format=torch.channels_last)
    assert back["single"].stride() == single.stride()
    assert blobs[0].shape == (2, 4, 5, 3), "a blob's shape describes its bytes"


def test_one_tensor_under_two_names_is_one_tensor_again() -> None:
    """Weight tying survives, whether the object or only its memory is shared."""
    weight = torch.randn(3, 2)
    structure, blobs = encode(
        {"a": weight, "b": weight, "detached": weight.detach(), "row": weight[1], "all": [weight]}
    )
    assert len(blobs) == 1
    back = decode(structure, [bytearray(blob.data) for blob in blobs])
    assert back["a"] is back["b"] is back["all"][0]
    back["a"].fill_(7)
    assert back["detached"].eq(7).all()
    assert back["row"].eq(7).all()


def test_overlapping_views_of_a_base_nobody_holds_still_overlap() -> None:
    """Including views of another dtype, expanded ones, and numpy's over torch's memory."""
    base = torch.arange(16.0)
    tree = {
        "left": base[1:9],
        "right": base[5:16],
        "bits": base.view(torch.int32)[4:8],
        "wide": base[2].expand(3),
        "array": base.numpy()[::-2],
    }
    back = there_and_back(tree)
    assert first_difference(tree, back) is None
    back["left"][4] = -1.0
    assert back["right"][0] == -1.0
    assert back["bits"][1] == torch.tensor(-1.0).view(torch.int32)
    assert back["array"][5] == -1.0
    assert back["left"].data_ptr() % ALIGNMENT == base[1:].data_ptr() % ALIGNMENT, "the same distance to alignment"


views = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 16), st.integers(1, 3), st.sampled_from(["f4", "i4", "u1", "numpy"])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=100)
@given(views=views, write=st.integers(0, 4))
def test_any_views_of_one_memory_see_each_others_writes_as_before(views: list[Any], write: int) -> None:
    """Sliced, stepped, reinterpreted, through torch or numpy, the base itself among them or not."""
    kinds = {"f4": torch.float32, "i4": torch.int32, "u1": torch.uint8, "numpy": torch.float32}
    base = torch.arange(16.0)
    tree = [base.view(kinds[kind])[start:stop:step] for start, stop, step, kind in views]
    tree = [view.numpy() if kind == "numpy" else view for view, (*_, kind) in zip(tree, views, strict=True)]
    back = there_and_back(tree)
    for each in (tree, back):
        each[write % len(each)][:] = 77
    assert first_difference(tree, back) is None


def test_equal_tensors_stay_apart_even_when_the_store_hands_out_one_buffer() -> None:
    """A content-addressed store may load two equal blobs once; writing to one must not change the other."""
    structure, blobs = encode([torch.zeros(16), torch.zeros(16)])
    buffer = aligned_buffer(64)
    buffer[:] = blobs[0].data
    first, second = decode(structure, [buffer, buffer])
    first.fill_(1)
    assert second.eq(0).all()


def test_an_aligned_writable_buffer_becomes_the_tensor_and_any_other_is_copied() -> None:
    """Loading 1 GB should not need 2 GB, and read-only bytes must not be written to."""
    structure, blobs = encode([torch.ones(16)])
    buffer = aligned_buffer(64)
    buffer[:] = blobs[0].data
    assert address(decode(structure, [buffer])[0]) == np.frombuffer(buffer, np.uint8).ctypes.data
    frozen = bytes(buffer)
    decode(structure, [frozen])[0].zero_()
    assert frozen == bytes(blobs[0].data)
    shifted = aligned_buffer(65)[1:]
    shifted[:] = frozen
    assert address(decode(structure, [shifted])[0]) % ALIGNMENT == 0


def test_bytes_are_copied_out_of_live_memory() -> None:
    """Training may go on while the snapshot is written."""
    weight, array = torch.ones(1000), np.ones(1000)
    structure, blobs = encode({"weight": weight, "array": array})
    weight.zero_()
    array[:] = 0
    back = decode(structure, [blob.data for blob in blobs])
    assert back["weight"].eq(1).all()
    assert (back["array"] == 1).all()


def test_the_caller_may_own_the_memory_of_a_snapshot() -> None:
    """All blobs lie in the one buffer that was asked for, each one aligned."""
    arena = aligned_buffer(10_000)
    asked = []

    def allocate(num_bytes: int) -> memoryview:
        asked.append(num_bytes)
        return arena[:num_bytes]

    _, blobs = encode([torch.ones(3), torch.ones(100, dtype=torch.float64)], allocate=allocate)
    assert asked == [64 + 832]
    assert bytes(arena[64 : 64 + 800]) == bytes(blobs[1].data)


@pytest.mark.parametrize("buffer", [aligned_buffer(10), memoryview(bytes(1000))], ids=["small", "read-only"])
def test_a_buffer_that_cannot_hold_the_snapshot_is_refused(buffer: memoryview) -> None:
    """Bytes are copied to a bare address: it must be right."""
    with pytest.raises(ValueError, match="writable bytes"):
        encode([torch.ones(3)], allocate=lambda _: buffer)


def test_shared_containers_are_shared_again() -> None:
    """A list held twice is one list after a restart."""
    shared: dict[str, list[int]] = {"history": [1]}
    back = there_and_back({"a": shared, "b": [shared, shared["history"]], "c": [{}, {}]})
    assert back["a"] is back["b"][0]
    assert back["a"]["history"] is back["b"][1]
    assert back["c"][0] is not back["c"][1]


def test_module_state_keeps_its_metadata() -> None:
    """Modules read the version of their state from the attribute _metadata."""
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    back = there_and_back(state)
    assert type(back) is OrderedDict
    assert back._metadata == state._metadata


def test_sparse_tensors_and_parameters_come_back() -> None:
    """Sparse embeddings' state, coalesced or not, and parameters with their requires_grad."""
    indices = torch.tensor([[1, 1, 0]])
    loose = torch.sparse_coo_tensor(indices, torch.randn(3, 2), (4, 2), is_coalesced=False, check_invariants=True)
    tree = {
        "loose": loose,
        "tight": loose.coalesce(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "leaf": torch.ones(2, requires_grad=True),
    }
    back = there_and_back(tree)
    assert first_difference(tree, back) is None
    assert [back[name].requires_grad for name in ("parameter", "frozen", "leaf", "loose")] == [True, False, True, False]
    assert type(back["parameter"]) is torch.nn.Parameter


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12)[::-3],
        np.broadcast_to(np.arange(3), (2, 3)),
        np.zeros((3, 0, 2)),
        np.zeros((6, 0, 2)).transpose(2, 0, 1)[:, ::2],
        np.arange(24).reshape(2, 3, 4)[:, ::2, 1:],
        np.array(["a", "déjà"]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array(b""),
        np.array(1.5),
    ],
    ids=lambda array: f"{array.dtype}-{array.strides}",
)
def test_numpy_arrays_come_back(array: np.ndarray[Any, Any]) -> None:
    """With dtype, byte order, shape, and the order of a dense array's memory."""
    back = there_and_back([array])[0]
    assert first_difference(array, back) is None
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc


def test_text_does_not_depend_on_the_hash_seed() -> None:
    """The same state gives the same text in every process, sets included."""
    code = "from tunesafe.state.codec import encode; print(encode([{'a', 'b', 'c', 'd'}, frozenset('xyz')])[0])"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_labels_fit_any_database() -> None:
    """A path is a label: printable, of bounded length, unique."""
    tree = {
        "x": torch.ones(1),
        "a\0b\ud800": torch.ones(1),
        "y" * 5000: torch.ones(1),
        1: torch.ones(1),
        "1": torch.ones(1),
    }
    labels = [blob.path for blob in encode(tree)[1]]
    assert all(label.isprintable() and len(label) <= 520 for label in labels)
    assert labels[-2:] == ["1", "1~2"]
