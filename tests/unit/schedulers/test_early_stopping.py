"""Early stopping looks at one trial's history and nothing else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesafe.schedulers.early_stopping import should_stop

values = st.integers(-5, 5).map(float) | st.floats(-5, 5)
histories = st.lists(values, max_size=15)


@given(history=histories, patience=st.integers(1, 5))
def test_it_stops_when_the_last_reports_do_not_beat_those_before(history, patience):
    """Without ``min_delta`` that is all there is to it."""
    before, last = history[:-patience], history[-patience:]
    expected = bool(before) and min(last) >= min(before)
    assert should_stop(history, direction="minimize", patience=patience) == expected


@given(history=histories, patience=st.integers(1, 5), min_delta=st.floats(0, 3))
def test_maximising_is_minimising_upside_down(history, patience, min_delta):
    """One rule for both directions."""
    flipped = [-value for value in history]
    assert should_stop(history, direction="maximize", patience=patience, min_delta=min_delta) == should_stop(
        flipped, direction="minimize", patience=patience, min_delta=min_delta
    )


@given(history=histories, patience=st.integers(1, 5), min_delta=st.floats(0, 3), more=st.floats(0, 3))
def test_steady_progress_larger_than_min_delta_never_stops(history, patience, min_delta, more):
    """Each report better than the last by more than asked."""
    steady = [-(min_delta + 1 + more) * i for i in range(len(history))]
    assert not should_stop(steady, direction="minimize", patience=patience, min_delta=min_delta)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_nan_never_improves(direction):
    """Nor does it spoil the comparison with the best before it."""
    assert should_stop([1.0, math.nan, math.nan], direction=direction, patience=2)
    assert not should_stop([math.nan, 1.0], direction=direction, patience=2)


def test_small_steps_add_up():
    """The best is the last report that counted, so two steps of 0.6 are one of more than 1."""
    history = [3.0, 2.4, 1.8]
    assert not should_stop(history, direction="minimize", patience=2, min_delta=1.0)
    assert should_stop(history, direction="minimize", patience=2, min_delta=1.5)
