"""Memos: texts over several attributes, complete or absent."""

from __future__ import annotations

import json
import math

from hypothesis import example, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tunesafe.contracts import AttributeWrite
from tunesafe.study.samplers.memo import CHUNK_SIZE, Draw, read_text, text_writes

texts = st.integers(0, 3 * CHUNK_SIZE + 5).map(lambda n: "\\" * n) | st.text(st.characters(codec="ascii"))


@given(text=texts, done=st.integers(0, 5))
@example(text="a" * CHUNK_SIZE, done=0)
def test_a_text_is_read_back_whole_or_not_at_all(text, done):
    """After any number of its writes; and each fits a text column once it is JSON."""
    writes = text_writes("k", text)
    assert all(len(json.dumps(write.value)) < 2**16 - 1 for write in writes)
    for written in (writes, writes[: min(done, len(writes) - 1)]):
        expected = text if written is writes else None
        assert read_text("k", {write.key: write.value for write in written}) == expected


choices = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)


@given(value=choices, others=st.lists(choices, max_size=4), number=st.floats(-1e300, 1e300), count=st.integers(0, 99))
def test_a_draw_is_read_back_with_its_types(value, others, number, count):
    """None, booleans, numbers and text; writes keep their order and JSON values."""
    kinds = CategoricalDistribution([*others, value])
    space = {"c": kinds, "f": FloatDistribution(-1e300, 1e300), "i": IntDistribution(0, 99), "more": kinds}
    params = {"c": kinds.to_external_repr(kinds.to_internal_repr(value)), "f": number, "i": count}
    draw = Draw(space, params, (AttributeWrite("b", [1, None]), AttributeWrite("a", "x")), (AttributeWrite("s", [3]),))
    read = Draw.read({write.key: write.value for write in draw.writes()})
    assert read is not None
    for name, drawn in params.items():
        back = read.params[name]
        assert type(back) is type(drawn)
        assert back == drawn or (math.isnan(back) and math.isnan(drawn))
    assert repr(read.space) == repr(space)
    assert (read.trial_writes, read.study_writes) == (draw.trial_writes, draw.study_writes)


def test_no_memo_is_no_draw():
    """What Optuna and others keep in a trial is not ours."""
    assert Draw.read({"fixed_params": {"lr": 0.1}, "tpe:relative_params:0": "{}"}) is None
