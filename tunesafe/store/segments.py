"""Small tensors that change from one checkpoint to the next share a blob, a *segment*, instead of having one each.

A row costs more than a few kilobytes do. But only what changes together may share one: a tensor is
stored on its own when a trial first shows it, and stays so until it changes, so that what never
changes is stored once in a study, whatever trial it belongs to. What has changed since the
trial's checkpoint before is in no other trial, and most likely changes again; it is merged with
its like, to be forgotten together. What then does not change is named where it is. Pure.
Why: docs/adr/0015.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from tunesafe.contracts import TensorBytes
from tunesafe.store.hashing import state_hash
from tunesafe.store.memory import ALIGNMENT

__all__ = ["SMALL_TENSOR_BYTES", "Arranged", "Layout", "Slot", "arrange", "owner_of"]

SMALL_TENSOR_BYTES = 64 << 10
"""A tensor smaller than this may be merged: to write it takes about as long as to write its row."""
_SEGMENT_BYTES = 4 << 20
_PADDINGS = tuple(memoryview(bytes(count)) for count in range(ALIGNMENT))
_LEAST_IN_USE = 0.9
"""What is left of a segment is named where it is if it is at least this part of it, so that little outlives its use."""


class Slot(NamedTuple):
    """Where the bytes of a merged tensor are.

    Args:
        segment: The name of the blob they are in.
        segment_bytes: Its size.
        offset: Of their first one in it [bytes].
    """

    segment: str
    segment_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What a trial's newest checkpoint consists of, and which of it is merged.

    Args:
        hashes: The names of its tensors' bytes, by path.
        slots: Where those are that are in a segment, by name.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arranged:
    """Where a state's bytes are to be.

    Args:
        slots: Of those that are merged, now or before, by the name of the bytes.
        segments: The bytes of those segments that this state has all of, new ones and others, in pieces, by name.
        changed: The names of what was not in the checkpoint before, each tensor's and each segment's.
    """

    slots: Mapping[str, Slot]
    segments: Mapping[str, tuple[memoryview, ...]]
    changed: frozenset[str]


def owner_of(path: str) -> str:
    """The tracked object a tensor belongs to."""
    return path.partition("/")[0]


def arrange(
    tensors: Sequence[TensorBytes], names: Sequence[str], views: Sequence[memoryview], before: Layout
) -> Arranged:
    """Choose what is merged.

    Args:
        tensors: Of the state.
        names: The hashes of their bytes.
        views: Their bytes, flat.
        before: Of the same trial's checkpoint before.
    """
    slots: dict[str, Slot] = {}
    segments: dict[str, tuple[memoryview, ...]] = {}
    if before.slots:
        slots, segments = _still_in_use(dict(zip(names, views, strict=True)), before.slots)
    changed: set[str] = set()
    moving: dict[str, list[int]] = {}
    done = {*before.hashes.values()}
    known = before.hashes
    for index, (tensor, name) in enumerate(zip(tensors, names, strict=True)):
        if name in done or tensor.path not in known:
            continue
        done.add(name)
        changed.add(name)
        if 0 < views[index].nbytes < SMALL_TENSOR_BYTES:
            # By owner, for an optimizer's bytes may be given up before a network's.
            moving.setdefault(owner_of(tensor.path), []).append(index)
    for indices in chain.from_iterable(_segments(some, views) for some in moving.values()):
        if len(indices) == 1:
            changed.discard(names[indices[0]])  # a counter, as another trial may have
        else:
            pieces, offsets = _laid_out(views[index] for index in indices)
            name = state_hash(*pieces)
            segments[name] = pieces
            changed.add(name)
            end = offsets.pop()
            slots |= {names[index]: Slot(name, end, offset) for index, offset in zip(indices, offsets, strict=True)}
    return Arranged(slots, segments, frozenset(changed))


def _still_in_use(
    views: Mapping[str, memoryview], slots: Mapping[str, Slot]
) -> tuple[dict[str, Slot], dict[str, tuple[memoryview, ...]]]:
    """The slots of those bytes that are named where they are; and the segments all of which are there, in pieces."""
    in_use: dict[str, list[tuple[int, str]]] = {}
    for name in filter(slots.__contains__, views):
        in_use.setdefault(slots[name].segment, []).append((slots[name].offset, name))
    kept: dict[str, Slot] = {}
    whole: dict[str, tuple[memoryview, ...]] = {}
    for segment, pieces in in_use.items():
        names = [name for _, name in sorted(pieces)]
        segment_bytes = slots[names[0]].segment_bytes
        num_bytes = sum(_padded(views[name].nbytes) for name in names)
        if num_bytes >= _LEAST_IN_USE * segment_bytes:
            kept |= {name: slots[name] for name in names}
        if num_bytes == segment_bytes:
            # Should it be damaged or gone, it is written again, for every checkpoint that names it.
            whole[segment], _ = _laid_out(views[name] for name in names)
    return kept, whole


def _segments(indices: Iterable[int], views: Sequence[memoryview]) -> Iterator[list[int]]:
    """One owner's tensors, as many together as one segment may hold."""
    segment: list[int] = []
    left = _SEGMENT_BYTES
    for index in indices:
        num_bytes = _padded(views[index].nbytes)
        if num_bytes > left:
            yield segment
            segment, left = [], _SEGMENT_BYTES
        segment.append(index)
        left -= num_bytes
    yield segment


def _laid_out(views: Iterable[memoryview]) -> tuple[tuple[memoryview, ...], list[int]]:
    """A segment's bytes; where each piece is in it, and its end: aligned, for tensors are made in place."""
    pieces: list[memoryview] = []
    offsets = [end := 0]
    for view in views:
        pieces.append(view)
        end += view.nbytes
        if padding := -end % ALIGNMENT:
            pieces.append(_PADDINGS[padding])
            end += padding
        offsets.append(end)
    return tuple(pieces), offsets


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
