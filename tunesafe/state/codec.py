"""A tree of Python values as JSON text plus raw bytes, and back, every type and bit the same.

Plain values are written as plain JSON. Everything else is an object with one key that begins
with "$", such as ``{"$tuple": [1, 2]}``. Lists, dicts, tensors and other things that can be
changed in place are numbered in the order in which they are met; a second meeting is written
as ``{"$same": number}``, so that what was one object is one object again.

What is not listed here cannot be stored: rebuilding any class by its name would mean running
code that the state names.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tunesafe.contracts import TensorBytes
from tunesafe.errors import DamagedError
from tunesafe.state.decoder import Decoder
from tunesafe.state.encoder import Encoder
from tunesafe.state.memory import aligned_buffer, allocate_blobs
from tunesafe.state.rebuild import Buffer, Rebuilder

__all__ = ["FORMAT", "decode", "encode"]

FORMAT = 1
"""Version of the JSON form; text of another version is refused."""


def encode(
    tree: object, *, allocate: Callable[[int], memoryview] = aligned_buffer
) -> tuple[str, tuple[TensorBytes, ...]]:
    """Write a tree as text and bytes; the bytes are copied, so training may go on at once.

    Args:
        tree: Dicts, lists, tuples, sets, scalars, tensors, numpy arrays, nested as they come.
        allocate: Gives a writable buffer of at least so many bytes (a reused one saves page faults).

    Returns:
        The structure as canonical ASCII JSON, and the tensors it refers to by index.

    Raises:
        StateError: If something in it cannot be stored; the message names its path.
        ValueError: If the buffer is too small or read-only.

    Example:
        >>> structure, tensors = encode({"step": 3, "lr": (0.1, None)})
        >>> structure
        '{"format":1,"tree":{"step":3,"lr":{"$tuple":[0.1,null]}}}'
    """
    encoder = Encoder()
    node = encoder.node(tree, "")
    blobs = allocate_blobs(encoder.leaves)
    structure = json.dumps({"format": FORMAT, "tree": node}, separators=(",", ":"), allow_nan=False)
    return structure, blobs.copy(allocate)


def decode(structure: str, tensors: Sequence[Buffer | None], *, on_device: bool = True) -> Any:
    """Rebuild the tree that :func:`encode` wrote.

    Args:
        structure: The JSON text.
        tensors: The bytes of each tensor, by index. Writable, 64-byte aligned buffers become the
            tensors' own memory, so do not use them again; all others are copied. What stood on one
            that is ``None``, because it has been given up, comes as ``None``.
        on_device: Put tensors back on the device they came from, if it exists; else on the CPU.

    Raises:
        DamagedError: If text and bytes are not what :func:`encode` wrote.

    Example:
        >>> import numpy as np
        >>> structure, tensors = encode({"weight": np.ones(2), 3: (-0.0, None)})
        >>> decode(structure, [tensor.data for tensor in tensors])
        {'weight': array([1., 1.]), 3: (-0.0, None)}
    """
    try:
        document = json.loads(structure)
        if document["format"] != FORMAT:
            raise DamagedError(
                f"This state was written in format {document['format']}; this version of tunesafe reads format"
                f" {FORMAT}. The state was not changed. Use the version that wrote it."
            )
        return Decoder(Rebuilder(tensors, on_device=on_device)).value(document["tree"])
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, struct.error) as error:
        raise DamagedError(f"A stored state cannot be read: {type(error).__name__}: {error}.") from error
