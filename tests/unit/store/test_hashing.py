from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from tunesafe.store.hashing import content_hash, file_hash, is_named, state_hash


def test_the_names_of_bytes_are_those_their_algorithms_are_published_with() -> None:
    """They are in every database there is: another build of a library must give the same."""
    assert state_hash(b"") == "xxh3:99aa06d3014798d86001c324468d497f"
    assert content_hash(b"") == "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.mark.parametrize("size", [0, 1, 1000, 3 << 20])
def test_bytes_are_known_by_every_name_they_may_have(size: int, tmp_path: Path) -> None:
    """By whichever version they were stored; and no other bytes are."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    other = data[:-1] + b"?" if data else b"?"
    names = [state_hash(data), content_hash(data), f"sha256:{hashlib.sha256(data).hexdigest()}"]
    for name in names:
        assert is_named(memoryview(data), name)
        assert not is_named(other, name)
        assert not is_named(data, name[:-1] + ("0" if name[-1] != "0" else "1"))
    for name in ("", "xxh3:", "md5:00", None, 7, b"xxh3:"):
        assert not is_named(data, name)  # type: ignore[arg-type]  # a damaged column
    file = tmp_path / "file"
    file.write_bytes(data)
    assert file_hash(file) == content_hash(data) == f"blake3:{blake3(data).hexdigest()}"
