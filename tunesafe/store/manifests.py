"""What a checkpoint consists of: the names of its bytes, in one text that has a hash itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from tunesafe.contracts import Position, Snapshot
from tunesafe.store.blobs import Content
from tunesafe.store.hashing import content_hash, is_named
from tunesafe.store.segments import Layout, Slot, arrange, owner_of

__all__ = [
    "Composed",
    "Manifest",
    "Part",
    "TensorEntry",
    "compose",
    "digest_of",
    "is_digest",
    "layout_of",
    "manifest_of",
    "read_manifest",
    "tensors_of",
    "views_of",
    "with_only",
]


_NUM_BYTES = attrgetter("nbytes")
_ALONE = 5
"""Length of the entry of a tensor that has a blob of its own; of others it says where in which segment they are."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A snapshot's bytes, and where each of them is to be.

    Args:
        num_bytes: Size of the whole state [bytes].
        structure: The name of the structure's bytes.
        names: Those of the tensors' bytes, by index.
        layout: What the next checkpoint of the same trial is compared with.
        contents: Its bytes by the name of the blob they are to be in, each once.
        needed: Further blobs, of the checkpoint before, which have some of its bytes.
        doubtful: The names of those contents that may well be stored already.
    """

    num_bytes: int
    structure: str
    names: Sequence[str]
    layout: Layout
    contents: dict[str, Content]
    needed: frozenset[str]
    doubtful: frozenset[str]


class Part(NamedTuple):
    """A piece of a stored state.

    Args:
        path: Where a tensor is in the state; empty for the structure.
        num_bytes: How many bytes it has.
        blob: The blob its bytes are in.
        blob_bytes: The size of that.
        offset: Of their first one in it [bytes].
    """

    path: str
    num_bytes: int
    blob: str
    blob_bytes: int
    offset: int

    @property
    def what(self) -> str:
        """What to call it in an error."""
        return f"tensor {self.path!r}" if self.path else "its structure"

    @property
    def owner(self) -> str:
        """The tracked object it belongs to, by name; empty for the structure."""
        return owner_of(self.path)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest lists.

    Args:
        structure: The tree of the state.
        tensors: The tensors by index; ``None`` for one that has been given up.
    """

    structure: Part
    tensors: tuple[Part | None, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is there: the structure first."""
        return (self.structure, *filter(None, self.tensors))


class TensorEntry(NamedTuple):
    """A tensor as a manifest lists it.

    Args:
        path: Where it is in the state.
        dtype: Its element type.
        shape: Its shape.
        hash: The name of its bytes; equal bytes have one name and are stored once.
        num_bytes: How many they are.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    hash: str
    num_bytes: int


def views_of(snapshot: Snapshot) -> list[memoryview]:
    """The bytes of a state, flat: its structure first, then the tensors by index."""
    structure = memoryview(snapshot.structure.encode("utf-8", "surrogatepass"))
    # A view with a zero in its shape cannot be cast, and one of several dimensions not sliced.
    return [structure, *(t.data.cast("B") if t.data.nbytes else memoryview(b"") for t in snapshot.tensors)]


def compose(
    snapshot: Snapshot, views: Sequence[memoryview], names: Sequence[str], before: Layout | None = None
) -> Composed:
    """Choose where a state's bytes are to be.

    Args:
        snapshot: The state.
        views: As ``views_of`` gives them.
        names: Their hashes.
        before: The trial's newest checkpoint; with ``None`` every tensor has a blob of its own.
    """
    (_, *tensors), (structure, *tensor_names) = views, names
    arranged = arrange(snapshot.tensors, tensor_names, tensors, before or Layout())
    slots, segments = arranged.slots, arranged.segments
    contents = {
        name: Content(name, view.nbytes, (view,))
        for name, view in zip(names, views, strict=True)
        if name not in slots or name == structure
    }
    for name, pieces in segments.items():
        contents[name] = Content(name, sum(map(_NUM_BYTES, pieces)), pieces)
    return Composed(
        num_bytes=sum(map(_NUM_BYTES, views)),
        structure=structure,
        names=tensor_names,
        layout=Layout({tensor.path: name for tensor, name in zip(snapshot.tensors, tensor_names, strict=True)}, slots),
        # In one order everywhere, so that two saves of the same bytes cannot wait for each other.
        contents={name: contents[name] for name in sorted(contents)},
        needed=frozenset(slot.segment for slot in slots.values()) - segments.keys(),
        doubtful=frozenset(contents if before is None else contents.keys() - arranged.changed - {structure}),
    )


def manifest_of(snapshot: Snapshot, composed: Composed) -> str:
    """List a state's bytes."""
    slots = composed.layout.slots
    segments = {slot.segment: slot.segment_bytes for slot in slots.values()}
    index = {name: position for position, name in enumerate(segments)}
    entries = []
    for tensor, name in zip(snapshot.tensors, composed.names, strict=True):
        slot = slots.get(name)
        place = "" if slot is None else f", {index[slot.segment]}, {slot.offset}"
        entries.append(f'[{_head(tensor.path, tensor.dtype, tensor.shape)}, "{name}", {tensor.data.nbytes}{place}]')
    members = [
        f'"structure": ["{composed.structure}", {len(snapshot.structure.encode("utf-8", "surrogatepass"))}]',
        f'"tensors": [{", ".join(entries)}]',
        *([f'"segments": {json.dumps([*segments.items()])}'] if segments else []),
    ]
    return f"{{{', '.join(members)}}}"


@lru_cache(maxsize=1 << 14)
def _head(path: str, dtype: str, shape: tuple[int, ...]) -> str:
    """The beginning of a tensor's entry: the same text in all manifests of a trial, and most of their cost."""
    return json.dumps([path, dtype, shape])[1:-1]


def digest_of(uuid: str, number: int, position: Position, manifest_json: str) -> str:
    """The hash of a manifest, and of the place it belongs to."""
    return content_hash(_placed(uuid, number, position, manifest_json))


def is_digest(found: str, uuid: str, number: int, position: Position, manifest_json: str) -> bool:
    """Whether a digest belongs to a manifest at this place: a row moved elsewhere is found out."""
    return is_named(_placed(uuid, number, position, manifest_json), found)


def _placed(uuid: str, number: int, position: Position, manifest_json: str) -> bytes:
    place = f"{uuid}/{number}/{position.virtual_epoch}/{position.examples_seen}"
    return f"{place}\n{manifest_json}".encode()


def read_manifest(manifest_json: str) -> Manifest:
    """What a manifest lists.

    Example:
        >>> read_manifest('{"structure": ["h", 2], "tensors": [["a", "int8", [], "x", 1], null]}').tensors
        (Part(path='a', num_bytes=1, blob='x', blob_bytes=1, offset=0), None)
    """
    manifest = json.loads(manifest_json)
    segments = manifest.get("segments", ())
    name, num_bytes = manifest["structure"]
    tensors: list[Part | None] = []
    for entry in manifest["tensors"]:
        if entry is None:
            tensors.append(None)
        elif len(entry) == _ALONE:
            path, _, _, blob, size = entry
            tensors.append(Part(path, size, blob, size, 0))
        else:
            path, _, _, _, size, segment, offset = entry
            blob, blob_bytes = segments[segment]
            tensors.append(Part(path, size, blob, blob_bytes, offset))
    return Manifest(Part("", num_bytes, name, num_bytes, 0), tuple(tensors))


def layout_of(manifest_json: str) -> Layout:
    """What the next checkpoint of the same trial is compared with."""
    manifest = json.loads(manifest_json)
    hashes, slots = {}, {}
    for path, _, _, name, _, *slot in filter(None, manifest["tensors"]):
        hashes[path] = name
        if slot:
            segment, offset = slot
            segment_name, segment_bytes = manifest["segments"][segment]
            slots[name] = Slot(segment_name, segment_bytes, offset)
    return Layout(hashes, slots)


def tensors_of(manifest_json: str) -> list[TensorEntry]:
    """The tensors a manifest lists, in the order of the state; without those that have been given up.

    Example:
        >>> tensors_of('{"structure": ["blake3:0", 2], "tensors": [["model/bias", "float32", [1], "blake3:1", 4]]}')
        [TensorEntry(path='model/bias', dtype='float32', shape=(1,), hash='blake3:1', num_bytes=4)]
    """
    tensors = filter(None, json.loads(manifest_json)["tensors"])
    return [
        TensorEntry(path, dtype, tuple(shape), name, num_bytes) for path, dtype, shape, name, num_bytes, *_ in tensors
    ]


def with_only(manifest_json: str, indices: Collection[int]) -> str:
    """A manifest in which all tensors but some are given up: null in their place, so that the others keep theirs.

    Example:
        >>> with_only('{"structure": ["h", 2], "tensors": [["a", "int8", [], "x", 1], ["b", "int8", [], "y", 1]]}', {1})
        '{"structure": ["h", 2], "tensors": [null, ["b", "int8", [], "y", 1]]}'
    """
    manifest = json.loads(manifest_json)
    tensors = [entry if index in indices else None for index, entry in enumerate(manifest["tensors"])]
    return json.dumps({**manifest, "tensors": tensors})
