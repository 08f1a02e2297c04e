"""The names of bytes: their hashes, and the algorithm with them.

A state's bytes are named by XXH3: at 30 GB/s it costs less than reading them. It tells every
accident, and no forger: whoever may write to a study's database may write whatever it wants
there. What is short is named by BLAKE3. Why: docs/adr/0014.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash
from blake3 import blake3

__all__ = ["Buffer", "content_hash", "file_hash", "is_named", "state_hash"]

Buffer = memoryview | bytes | bytearray


def state_hash(*pieces: Buffer) -> str:
    """The name of a state's bytes, one piece after the other: 128 bits, so that no two of all there are share it."""
    if len(pieces) == 1:
        return f"xxh3:{xxhash.xxh3_128_hexdigest(pieces[0])}"
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return f"xxh3:{digest.hexdigest()}"


def content_hash(data: Buffer) -> str:
    """The name of a text; the algorithm is part of it, so that a later version may use another."""
    return f"blake3:{blake3(data).hexdigest()}"


def file_hash(file: Path) -> str:
    """The name of a file's bytes, as ``content_hash`` would give it; of any size."""
    with file.open("rb") as source:
        # Typed for hashlib's own; all it needs of another is update().
        digest = hashlib.file_digest(source, blake3)  # type: ignore[arg-type]
    return f"blake3:{digest.hexdigest()}"


def is_named(data: Buffer, name: str) -> bool:
    """Whether these bytes are the ones of that name, by whatever algorithm it was given in its time."""
    if not isinstance(name, str):
        return False  # SQLite keeps whatever is put into a column
    if name.startswith("xxh3:"):
        return name == state_hash(data)
    if name.startswith("sha256:"):
        return name == f"sha256:{hashlib.sha256(data).hexdigest()}"
    return name == content_hash(data)
