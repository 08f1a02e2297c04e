"""What a checkpoint consists of: the names of its bytes, in one text that has a hash itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunesafe.contracts import Position, Snapshot
from tunesafe.store.blobs import Content
from tunesafe.store.hashing import content_hash, is_named

__all__ = [
    "Described",
    "Part",
    "TensorEntry",
    "describe",
    "digest_of",
    "hashes_of",
    "is_digest",
    "parts_of",
    "tensors_of",
    "views_of",
    "with_only",
]


@dataclass(frozen=True, slots=True)
class Described:
    """A snapshot with the names of its bytes.

    Args:
        position: Of the snapshot.
        manifest_json: Lists its bytes by hash.
        digest: The hash of that, and of the place it belongs to.
        num_bytes: Size of the whole state [bytes].
        contents: Its bytes by hash, each once.
    """

    position: Position
    manifest_json: str
    digest: str
    num_bytes: int
    contents: dict[str, Content]


class Part(NamedTuple):
    """A piece of a stored state.

    Args:
        what: What to call it in an error.
        hash: The name of its bytes.
        num_bytes: How many they are.
        owner: The tracked object it belongs to, by name; empty for the structure.
    """

    what: str
    hash: str
    num_bytes: int
    owner: str


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


def describe(
    snapshot: Snapshot, uuid: str, number: int, views: Sequence[memoryview], names: Sequence[str]
) -> Described:
    """List the bytes of a trial's state.

    Args:
        snapshot: The state.
        uuid: Of the study.
        number: Of the trial.
        views: As ``views_of`` gives them.
        names: Their hashes.
    """
    (structure, *tensors), (structure_name, *tensor_names) = views, names
    manifest = {
        "structure": [structure_name, structure.nbytes],
        "tensors": [
            [tensor.path, tensor.dtype, list(tensor.shape), name, view.nbytes]
            for tensor, name, view in zip(snapshot.tensors, tensor_names, tensors, strict=True)
        ],
    }
    text = json.dumps(manifest)
    contents = dict(zip(names, views, strict=True))
    return Described(
        position=snapshot.position,
        manifest_json=text,
        digest=digest_of(uuid, number, snapshot.position, text),
        num_bytes=sum(view.nbytes for view in views),
        # In one order everywhere, so that two saves of the same bytes cannot wait for each other.
        contents={name: Content(name, contents[name]) for name in sorted(contents)},
    )


def digest_of(uuid: str, number: int, position: Position, manifest_json: str) -> str:
    """The hash of a manifest, and of the place it belongs to."""
    return content_hash(_placed(uuid, number, position, manifest_json))


def is_digest(found: str, uuid: str, number: int, position: Position, manifest_json: str) -> bool:
    """Whether a digest belongs to a manifest at this place: a row moved elsewhere is found out."""
    return is_named(_placed(uuid, number, position, manifest_json), found)


def _placed(uuid: str, number: int, position: Position, manifest_json: str) -> bytes:
    place = f"{uuid}/{number}/{position.virtual_epoch}/{position.examples_seen}"
    return f"{place}\n{manifest_json}".encode()


def parts_of(manifest_json: str) -> list[Part]:
    """What a manifest lists: the structure first, then the tensors that have not been given up."""
    manifest = json.loads(manifest_json)
    name, num_bytes = manifest["structure"]
    tensors = [
        Part(f"tensor {path!r}", name, size, str(path).partition("/")[0])
        for path, _, _, name, size in filter(None, manifest["tensors"])
    ]
    return [Part("its structure", name, num_bytes, ""), *tensors]


def hashes_of(manifest_json: str) -> list[str | None]:
    """The names of the tensors' bytes, by index; ``None`` for one that has been given up."""
    return [None if entry is None else entry[3] for entry in json.loads(manifest_json)["tensors"]]


def tensors_of(manifest_json: str) -> list[TensorEntry]:
    """The tensors a manifest lists, in the order of the state; without those that have been given up.

    Example:
        >>> tensors_of('{"structure": ["blake3:0", 2], "tensors": [["model/bias", "float32", [1], "blake3:1", 4]]}')
        [TensorEntry(path='model/bias', dtype='float32', shape=(1,), hash='blake3:1', num_bytes=4)]
    """
    tensors = filter(None, json.loads(manifest_json)["tensors"])
    return [TensorEntry(path, dtype, tuple(shape), name, size) for path, dtype, shape, name, size in tensors]


def with_only(manifest_json: str, indices: Collection[int]) -> str:
    """A manifest in which all tensors but some are given up: null in their place, so that the others keep theirs.

    Example:
        >>> with_only('{"structure": ["h", 2], "tensors": [["a", "int8", [], "x", 1], ["b", "int8", [], "y", 1]]}', {1})
        '{"structure": ["h", 2], "tensors": [null, ["b", "int8", [], "y", 1]]}'
    """
    manifest = json.loads(manifest_json)
    tensors = [entry if index in indices else None for index, entry in enumerate(manifest["tensors"])]
    return json.dumps({**manifest, "tensors": tensors})
