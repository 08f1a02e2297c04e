from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesafe.errors import StateError
from tunesafe.store import jsontext

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8)
keys = scalars.filter(lambda key: not isinstance(key, float) or not math.isnan(key))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12)


def exactly(value: Any) -> Any:
    """A form in which only equal bits of equal types are equal."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, list):
        return [exactly(item) for item in value]
    if isinstance(value, dict):
        return [(exactly(key), exactly(item)) for key, item in value.items()]
    return (type(value).__name__, value)


@given(values)
def test_any_plain_value_comes_back_with_its_types_and_bits(value: Any) -> None:
    """NaN, infinities, -0.0, True against 1, keys that are numbers, lone surrogates: nothing changes."""
    assert exactly(jsontext.load(jsontext.dump(value))) == exactly(value)


@given(values)
def test_the_text_is_strict_ascii_json(value: Any) -> None:
    """Every database can hold it and any JSON reader can read it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = jsontext.dump(value)
    assert text.isascii()
    json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    "spelled", [{"$float": "nan"}, {"$dict": [[1, 2]]}, {"$float": 1.0}, {"$x": {"$float": "inf"}}]
)
def test_a_value_that_looks_like_our_spelling_stays_what_it_is(spelled: Any) -> None:
    """A user's own dict with a dollar key is data, not markup."""
    assert jsontext.load(jsontext.dump(spelled)) == spelled


def test_what_json_cannot_hold_is_refused_by_its_place() -> None:
    """The message names the path, the type and what to do."""
    with pytest.raises(StateError, match=r"value\['a'\]\[1\] is a set"):
        jsontext.dump({"a": [1, {2}]})
