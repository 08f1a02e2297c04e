"""Which tensors of a stored state are weights, read off its text alone."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tunesafe.errors import DamagedError
from tunesafe.state.codec import decode, encode
from tunesafe.state.weights import weights_in


class Tied(nn.Module):
    """Two names for one tensor, a buffer, and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 5, bias=False)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(5)


def others(model: nn.Module) -> st.SearchStrategy[Any]:
    """Everything a state may hold beside a module's, the module's own tensors among it."""
    leaf = st.sampled_from([3, "text", None, (1, 2), b"x" * 300, bytearray(b"y" * 300), np.arange(4.0), torch.ones(3)])
    leaf = st.one_of(leaf, st.builds(torch.zeros, st.integers(1, 4)), st.sampled_from(list(model.parameters())))
    sparse = st.just(torch.eye(3).to_sparse())
    frozen = st.sampled_from([{1, 2}, frozenset({3}), {(1, 2): 3}, {None: [torch.ones(1)]}])
    return st.recursive(
        st.one_of(leaf, sparse, frozen),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.lists(inner, max_size=3).map(deque),
            st.dictionaries(st.sampled_from(["a", "$b", 3]), inner, max_size=3),
            st.dictionaries(st.sampled_from(["a", "attributes"]), inner, max_size=2).map(OrderedDict),
            st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2).map(lambda d: defaultdict(list, d)),
        ),
        max_leaves=8,
    )


@given(st.data())
def test_a_modules_state_needs_its_weights_and_nothing_else(data: st.DataObject) -> None:
    """With only those bytes every module's part of the state comes back as it was; with one fewer it does not."""
    model = Tied()
    before, after = data.draw(others(model)), data.draw(others(model))
    tree = {"first": before, "model": model.state_dict(), "$odd": after, "tail": nn.Linear(1, 1).state_dict()}
    structure, tensors = encode(tree)
    kept = weights_in(structure)
    whole = decode(structure, [bytearray(tensor.data) for tensor in tensors])
    thin = decode(structure, [bytearray(t.data) if i in kept else None for i, t in enumerate(tensors)])
    for name in ("model", "tail"):
        assert vars(thin[name]) == vars(whole[name])
        assert thin[name].keys() == whole[name].keys()
        assert all(torch.equal(thin[name][key], value) for key, value in whole[name].items())
    for gone in kept:
        less = decode(structure, [bytearray(t.data) if i in kept - {gone} else None for i, t in enumerate(tensors)])
        assert any(value is None for name in ("model", "tail") for value in less[name].values())


def test_an_optimizer_is_no_weight_and_a_state_without_module_has_none() -> None:
    """An Adam's averages are twice the weights, and of no use to who exports."""
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    model.norm(model.embed(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    structure, tensors = encode({"optimizer": optimizer.state_dict(), "model": model.state_dict()})
    kept = weights_in(structure)
    assert {tensors[index].path.split("/")[0] for index in kept} == {"model"}
    assert len(kept) == len({id(value) for value in model.state_dict(keep_vars=True).values()})
    assert weights_in(encode({"optimizer": optimizer.state_dict(), "notes": {"attributes": 3}})[0]) == frozenset()


BROKEN = ["", "3", "{}", '{"tree": []}', '{"tree": {"a": {"$same": 9}}}', '{"tree": {"a": {"$tensor": 1}}}']


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_structure_is_damage(text: str) -> None:
    """Whatever the database may hold in its place."""
    with pytest.raises(DamagedError, match="structure cannot be read"):
        weights_in(text)
