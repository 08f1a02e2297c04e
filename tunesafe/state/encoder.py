"""The writing half of the codec: values to JSON nodes."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from tunesafe.errors import StateError, a_or_an
from tunesafe.state.decoder import FACTORIES
from tunesafe.state.memory import PLAIN_KINDS, Leaf, leaf_of_array, leaf_of_tensor, refusal

__all__ = ["Encoder"]

_SCALARS = frozenset((str, int, float, bool, bytes, complex, type(None)))
_DEEPEST = 200
_LONG_BYTES = 256


class Encoder:
    """One walk over a tree: builds its JSON form and collects the tensors on the way."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []
        self._open: list[int] = []
        self._paths: set[str] = set()
        self._in_key = False

    def node(self, value: Any, path: str) -> Any:
        """The JSON form of any value."""
        kind = type(value)
        if kind in _SCALARS:
            return self._scalar(value, path)
        if kind in (tuple, frozenset, torch.Size):
            self._enter(value, path)
            node = self._frozen(value, path)
            self._open.pop()
            return node
        if kind in _CONTAINERS or kind in _LEAVES:
            if self._in_key:
                fix = "Use names or numbers: its identity would be lost."
                raise StateError(refusal(path, f"{a_or_an(kind.__name__)} in a key or a set", fix))
            if id(value) in self._open:
                raise StateError(refusal(path, "a container that contains itself", "Break the circle."))
            if id(value) in self._numbers:
                return {"$same": self._numbers[id(value)]}
            self._numbers[id(value)] = len(self._numbers)
            self._kept.append(value)
            if kind in _LEAVES:
                return self._leaf(value, path)
            self._enter(value, path)
            node = _CONTAINERS[kind](self, value, path)
            self._open.pop()
            return node
        return _torch_name(value, path)

    def _enter(self, value: object, path: str) -> None:
        if len(self._open) >= _DEEPEST:
            raise StateError(refusal(path, f"containers nested more than {_DEEPEST} deep", "Store it flatter."))
        self._open.append(id(value))

    def _scalar(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if kind is str:
            # Two lone surrogates in a row would be read back as the one character they make together.
            return value if _is_plain(value) else {"$str": [ord(character) for character in value]}
        if kind is complex:
            return {"$complex": [self._scalar(part, path) for part in (value.real, value.imag)]}
        if kind is bytes:
            if len(value) < _LONG_BYTES:
                return {"$bytes": value.hex()}
            leaf = leaf_of_array(np.frombuffer(value, np.uint8), self._label(path))
            self.leaves.append(leaf)
            return {"$blob": leaf.node}
        return value

    def _frozen(self, value: Any, path: str) -> Any:
        if type(value) is torch.Size:
            return {"$size": list(value)}
        if type(value) is tuple:
            return {"$tuple": self._items(value, path)}
        return {"$frozenset": self._elements(value, path)}

    def _leaf(self, value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray):
            leaf = leaf_of_array(value, self._label(path))
            self.leaves.append(leaf)
            return {"$array": leaf.node}
        if value.layout is torch.sparse_coo:
            node = {
                "shape": list(value.shape),
                "coalesced": value.is_coalesced(),
                "indices": self._strided(value.detach()._indices(), f"{path}/indices"),
                "values": self._strided(value.detach()._values(), f"{path}/values"),
                "requires_grad": value.requires_grad,
            }
            return {"$sparse": node}
        return {"$tensor": self._strided(value, path)}

    def _strided(self, value: torch.Tensor, path: str) -> dict[str, Any]:
        leaf = leaf_of_tensor(value, self._label(path))
        self.leaves.append(leaf)
        return leaf.node

    def _label(self, path: str) -> str:
        """The path as a label that any database can hold, and no other tensor has."""
        label = path if path.isprintable() else path.encode("unicode_escape").decode("ascii")
        label = stem = label[:500]
        count = 1
        while label in self._paths:
            count += 1
            label = f"{stem}~{count}"
        self._paths.add(label)
        return label

    def _items(self, values: Iterable[Any], path: str) -> list[Any]:
        return [self.node(value, _join(path, index)) for index, value in enumerate(values)]

    def _pairs(self, value: Mapping[Any, Any], path: str) -> list[Any]:
        return [[self._key(key, path), self.node(item, _join(path, key))] for key, item in value.items()]

    def _key(self, key: object, path: str) -> Any:
        outer, self._in_key = self._in_key, True
        node = self.node(key, path)
        self._in_key = outer
        return node

    def _elements(self, values: Iterable[Any], path: str) -> list[Any]:
        """Set elements in an order that does not depend on the process's hash seed."""
        return sorted((self._key(value, path) for value in values), key=json.dumps)

    def _dict(self, value: dict[Any, Any], path: str) -> Any:
        if all(type(key) is str and key[:1] != "$" and _is_plain(key) for key in value):
            return {key: self.node(item, _join(path, key)) for key, item in value.items()}
        return {"$dict": self._pairs(value, path)}

    def _ordered_dict(self, value: OrderedDict[Any, Any], path: str) -> Any:
        # A module's state_dict carries its version in the attribute _metadata.
        return {"$ordered": self._pairs(value, path), "attributes": self._pairs(vars(value), path)}

    def _default_dict(self, value: defaultdict[Any, Any], path: str) -> Any:
        factory = value.default_factory
        name = getattr(factory, "__name__", "")
        if factory is not None and FACTORIES.get(name) is not factory:
            raise StateError(refusal(path, f"a defaultdict of {factory!r}", f"Use one of {', '.join(FACTORIES)}."))
        return {"$default": self._pairs(value, path), "factory": name or None}

    def _counter(self, value: Counter[Any], path: str) -> Any:
        return {"$counter": self._pairs(value, path)}

    def _list(self, value: list[Any], path: str) -> Any:
        return self._items(value, path)

    def _deque(self, value: deque[Any], path: str) -> Any:
        return {"$deque": self._items(value, path), "maxlen": value.maxlen}

    def _set(self, value: set[Any], path: str) -> Any:
        return {"$set": self._elements(value, path)}

    def _bytearray(self, value: bytearray, path: str) -> Any:
        return {"$bytearray": self._scalar(bytes(value), path)}


_CONTAINERS: dict[type, Callable[[Encoder, Any, str], Any]] = {
    dict: Encoder._dict,
    OrderedDict: Encoder._ordered_dict,
    defaultdict: Encoder._default_dict,
    Counter: Encoder._counter,
    list: Encoder._list,
    deque: Encoder._deque,
    set: Encoder._set,
    bytearray: Encoder._bytearray,
}
_LEAVES = (torch.Tensor, torch.nn.Parameter, np.ndarray)


def _torch_name(value: Any, path: str) -> Any:
    """The JSON form of the named values of torch and numpy; anything else cannot be stored."""
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return {"$torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"$device": str(value)}
    if isinstance(value, np.generic) and value.dtype.kind in PLAIN_KINDS:
        return {"$scalar": [value.dtype.str, value.tobytes().hex()]}
    if isinstance(value, np.dtype) and value.kind in PLAIN_KINDS:
        return {"$numpy_dtype": value.str}
    kind = type(value)
    raise StateError(refusal(path, a_or_an(f"{kind.__module__}.{kind.__qualname__}"), _fix(value)))


def _fix(value: object) -> str:
    """What to do about a value that cannot be stored."""
    if isinstance(value, (torch.Generator, np.random.Generator)):
        return "Track an object whose state_dict() returns the generator's state."
    if isinstance(value, torch.Tensor):
        return "Track an ordinary tensor (a lazy parameter exists after the first forward pass)."
    if isinstance(value, (tuple, dict, list, str, int, float)):
        return "Store it as the plain built-in type."
    if callable(value):
        return "Leave it out: functions are code, not state, and come from yours at every start."
    return (
        "Store its plain values (numbers, text, lists, dicts, tensors), or give it state_dict() and load_state_dict()"
        " and pass it to trial.track."
    )


def _join(path: str, key: object) -> str:
    return f"{path}/{str(key)[:100]}" if path else str(key)[:100]


def _is_plain(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
