"""The reading half of the codec: JSON nodes to values.

Only the types listed here can come out, whatever the text says.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from tunesafe.state.memory import TORCH_DTYPES
from tunesafe.state.rebuild import Rebuilder

__all__ = ["FACTORIES", "Decoder"]

FACTORIES = {
    kind.__name__: kind for kind in (list, dict, set, int, float, str, bool, tuple, Counter, OrderedDict, deque)
}
"""The factories a defaultdict may have."""

_TORCH_NAMES: dict[str, Any] = TORCH_DTYPES | {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, (torch.layout, torch.memory_format))
}


class Decoder:
    """One walk over the JSON form: builds the values, in the order they were numbered."""

    def __init__(self, rebuilder: Rebuilder) -> None:
        self._rebuilder = rebuilder
        self._numbered: list[Any] = []

    def value(self, node: Any) -> Any:
        """The value of any node."""
        if isinstance(node, list):
            return self._fill(self._number([]), node)
        if not isinstance(node, dict):
            return node
        tag = next(iter(node), "")
        if tag[:1] == "$":
            return _DECODERS[tag](self, node[tag], node)
        result = self._number({})
        for key, item in node.items():
            result[key] = self.value(item)
        return result

    def _number(self, value: Any) -> Any:
        self._numbered.append(value)
        return value

    def _fill(self, result: Any, nodes: Iterable[Any]) -> Any:
        for node in nodes:
            result.append(self.value(node))
        return result

    def _fill_pairs(self, result: Any, pairs: Iterable[Any]) -> Any:
        for key, item in pairs:
            result[self.value(key)] = self.value(item)
        return result

    def _ordered(self, pairs: Any, node: Any) -> Any:
        result = self._fill_pairs(self._number(OrderedDict()), pairs)
        self._fill_pairs(vars(result), node["attributes"])
        return result

    def _default(self, pairs: Any, node: Any) -> Any:
        factory = FACTORIES[node["factory"]] if node["factory"] else None
        return self._fill_pairs(self._number(defaultdict(factory)), pairs)

    def _tensor(self, node: Any, _: Any) -> Any:
        return self._number(self._rebuilder.tensor(node) if self._rebuilder.has(node) else None)

    def _array(self, node: Any, _: Any) -> Any:
        return self._number(self._rebuilder.array(node) if self._rebuilder.has(node) else None)

    def _blob(self, node: Any, _: Any) -> Any:
        return self._rebuilder.array(node).tobytes() if self._rebuilder.has(node) else None

    def _bytearray(self, node: Any, _: Any) -> Any:
        value = self.value(node)
        return self._number(None if value is None else bytearray(value))

    def _sparse(self, parts: Any, _: Any) -> Any:
        number = len(self._numbered)
        self._number(None)
        if not self._rebuilder.has(parts["indices"], parts["values"]):
            return None
        indices, values = self._rebuilder.tensor(parts["indices"]), self._rebuilder.tensor(parts["values"])
        shape, coalesced = tuple(parts["shape"]), parts["coalesced"]
        tensor = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True, is_coalesced=coalesced)
        self._numbered[number] = tensor.requires_grad_(parts["requires_grad"])
        return tensor

    def _scalar(self, parts: Any, _: Any) -> Any:
        dtype, text = np.dtype(parts[0]), parts[1]
        if dtype.hasobject:
            raise ValueError("a numpy scalar of objects")
        return np.ndarray((), dtype, bytes.fromhex(text))[()]

    def _bytes(self, node: Any, _: Any) -> bytes:
        return bytes.fromhex(node)


_DECODERS: dict[str, Callable[[Decoder, Any, Any], Any]] = {
    "$same": lambda self, number, _: self._numbered[number],
    "$int": lambda self, text, _: int(text, 16),
    "$float": lambda self, text, _: struct.unpack(">d", bytes.fromhex(text))[0],
    "$str": lambda self, codes, _: "".join(map(chr, codes)),
    "$complex": lambda self, parts, _: complex(*map(self.value, parts)),
    "$bytes": Decoder._bytes,
    "$blob": Decoder._blob,
    "$bytearray": Decoder._bytearray,
    "$tuple": lambda self, nodes, _: tuple([self.value(node) for node in nodes]),
    "$size": lambda self, sizes, _: torch.Size(sizes),
    "$frozenset": lambda self, nodes, _: frozenset([self.value(node) for node in nodes]),
    "$set": lambda self, nodes, _: self._number({self.value(node) for node in nodes}),
    "$deque": lambda self, nodes, node: self._fill(self._number(deque(maxlen=node["maxlen"])), nodes),
    "$dict": lambda self, pairs, _: self._fill_pairs(self._number({}), pairs),
    "$ordered": Decoder._ordered,
    "$default": Decoder._default,
    "$counter": lambda self, pairs, _: self._fill_pairs(self._number(Counter()), pairs),
    "$tensor": Decoder._tensor,
    "$array": Decoder._array,
    "$sparse": Decoder._sparse,
    "$scalar": Decoder._scalar,
    "$numpy_dtype": lambda self, name, _: np.dtype(name),
    "$torch": lambda self, name, _: _TORCH_NAMES[name],
    "$device": lambda self, name, _: torch.device(name),
}
