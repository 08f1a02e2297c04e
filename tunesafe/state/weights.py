"""Which tensors of a stored state are weights: parameters and buffers of tracked modules.

Read off the structure's JSON, without torch and without the tensors: whoever thins out the
checkpoints of finished trials has neither. The walk numbers things as ``decoder`` does, so that
what is written once and meant twice (tied weights, a tensor that a dict holds, too) is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tunesafe.errors import DamagedError

__all__ = ["weights_in"]

_METADATA = "_metadata"
"""What torch puts on the state_dict of every module, and of nothing else."""


def weights_in(structure: str) -> frozenset[int]:
    """The indices of the tensors that the states of tracked modules refer to; empty if none is tracked.

    Args:
        structure: The JSON text that ``codec.encode`` wrote.

    Raises:
        DamagedError: If it is not what that wrote.

    Example:
        >>> tensor = '{"$tensor":{"of":1,"dtype":"float32","shape":[1]}}'
        >>> module = (
        ...     '{"$ordered":[["weight",' + tensor + ']],"attributes":[["_metadata",{"$ordered":[],"attributes":[]}]]}'
        ... )
        >>> weights_in('{"format":1,"tree":{"model":' + module + ',"step":3}}')
        frozenset({1})
    """
    walk, found = _Walk(), set[int]()
    try:
        for node in _values(json.loads(structure)["tree"], walk):
            inside = walk.tensors(node)
            if _is_of_module(node):
                found |= inside
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedError(f"A stored state's structure cannot be read: {type(error).__name__}: {error}.") from error
    return frozenset(found)


def _values(tree: dict[str, Any], walk: _Walk) -> Iterator[Any]:
    """What is tracked, in the order in which it was written."""
    walk.number(set())
    if "$dict" not in tree:
        yield from tree.values()
        return
    for _, value in tree["$dict"]:
        yield value


def _is_of_module(node: Any) -> bool:
    is_ordered = isinstance(node, dict) and "$ordered" in node
    return is_ordered and any(key == _METADATA for key, _ in node["attributes"])


class _Walk:
    """One walk over a structure, in the decoder's order."""

    def __init__(self) -> None:
        self._numbered: list[set[int]] = []

    def number(self, tensors: set[int]) -> set[int]:
        """Give the next number to something that can be met again."""
        self._numbered.append(tensors)
        return tensors

    def tensors(self, node: Any) -> set[int]:
        """The tensors that a node refers to."""
        if isinstance(node, list):
            return self._into(self.number(set()), node)
        if not isinstance(node, dict):
            return set()
        tag = next(iter(node), "")
        if tag[:1] != "$":
            return self._into(self.number(set()), node.values())
        inside = node[tag]
        match tag:
            case "$same":
                return self._numbered[inside]
            case "$tensor" | "$array":
                return self.number({inside["of"]})
            case "$sparse":
                return self.number({inside["indices"]["of"], inside["values"]["of"]})
            case "$blob":
                return {inside["of"]}
            case "$bytearray":
                return self.number(self.tensors(inside))
            case "$tuple" | "$frozenset" | "$complex":
                return self._into(set(), inside)
            case "$set" | "$deque":
                return self._into(self.number(set()), inside)
            case "$dict" | "$ordered" | "$default" | "$counter":
                return self._into(self.number(set()), (part for pair in _pairs(node, tag) for part in pair))
        return set()

    def _into(self, found: set[int], nodes: Iterable[Any]) -> set[int]:
        for node in nodes:
            found |= self.tensors(node)
        return found


def _pairs(node: dict[str, Any], tag: str) -> Iterator[list[Any]]:
    yield from node[tag]
    yield from node.get("attributes", ())
