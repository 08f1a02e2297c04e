"""Values as JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tunesafe.cli.documents import log_document, to_json
from tunesafe.contracts import LogChunk

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def refuse(constant: str) -> Any:
    """What a strict JSON reader does with NaN and Infinity."""
    raise AssertionError(f"{constant} is not JSON")


@given(trees)
def test_every_document_is_strict_json(tree: Any) -> None:
    """Also with numbers that JSON cannot spell; every other value comes back as it was."""
    read = json.loads(to_json({"tree": tree}), parse_constant=refuse)["tree"]
    assert same(tree, read)


def same(one: Any, other: Any) -> bool:
    """Equal, where NaN and infinities are their names."""
    if isinstance(one, float) and isinstance(other, str):
        return str(one) == other
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def test_logs_are_joined_by_attempt() -> None:
    """However many pieces an attempt's output was stored in."""
    chunks = [LogChunk(3, 1, "a\n"), LogChunk(3, 1, "b\n"), LogChunk(3, 2, "c\n")]
    attempts = [{"attempt": 1, "text": "a\nb\n"}, {"attempt": 2, "text": "c\n"}]
    assert log_document(3, chunks) == {"number": 3, "attempts": attempts}
