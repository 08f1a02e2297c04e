"""Where a study stands, and how its command ends, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesafe.errors import ExitCode
from tunesafe.study.lifecycle import Standing, Tally, exit_code, held_run_again, held_to_be_told, standing

counts = st.integers(0, 4)
tallies = st.builds(
    Tally, free=counts, claimed=counts, closing=counts, held=counts, complete=counts, pruned=counts, failed=counts
)


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (Tally(free=3), Standing.RUNNING),
        (Tally(claimed=1, complete=2), Standing.RUNNING),
        (Tally(closing=1), Standing.RUNNING),
        (Tally(complete=3), Standing.FINISHED),
        (Tally(pruned=3), Standing.FINISHED),
        (Tally(free=1, held=5), Standing.FAILING),
        (Tally(free=1, held=4), Standing.RUNNING),
        (Tally(held=2), Standing.FAILING),
        (Tally(held=2, complete=1), Standing.RUNNING),
        (Tally(held=2, pruned=1), Standing.RUNNING),
    ],
)
def test_a_study_stands_where_its_trials_are(tally, expected):
    """Five exceptions in a row stop it; so does a study that ended in nothing but exceptions."""
    assert standing(tally, max_failures=5) is expected


@pytest.mark.parametrize(
    ("tally", "paused", "expected"),
    [
        (Tally(complete=3), False, ExitCode.OK),
        (Tally(complete=1, pruned=2, failed=1), False, ExitCode.OK),
        (Tally(pruned=3), False, ExitCode.FAILED),
        (Tally(pruned=2, failed=1), False, ExitCode.FAILED),
        (Tally(failed=3), False, ExitCode.FAILED),
        (Tally(held=5, free=2, complete=2), False, ExitCode.USER_CODE),
        (Tally(held=3), False, ExitCode.USER_CODE),
        (Tally(free=2, complete=1), True, ExitCode.OK),
        (Tally(free=2, complete=1), False, ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_says_how_the_study_stands(tally, paused, expected):
    """One table for every ending a command can have."""
    assert exit_code(tally, max_failures=5, paused=paused) is expected


@given(tally=tallies, max_failures=st.integers(1, 5))
def test_held_trials_are_either_told_or_run_again_or_still_in_their_streak(tally, max_failures):
    """The two ways out never hold at once, and one of them holds wherever no other trial is open."""
    told, again = held_to_be_told(tally, max_failures), held_run_again(tally, max_failures)
    assert not (told and again)
    if tally.held and not tally.open:
        assert told or again
    if not tally.held:
        assert not told
        assert not again
