"""When a checkpoint is due: pure, so a resumed trial makes the same ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunesafe.trial.triggers import MAX_SHARE, Cadence, Since, due_at_boundary, due_at_step


@given(every=st.integers(1, 50), steps=st.lists(st.integers(1, 30), min_size=1, max_size=60), cut=st.integers(0, 60))
def test_checkpoints_by_examples_are_the_same_for_a_resumed_trial(every: int, steps: list[int], cut: int) -> None:
    """Wherever training is cut, resumption from the newest checkpoint leads to the same positions."""

    def checkpoints(start: int, steps: list[int]) -> list[int]:
        found, position, newest = [], start, start
        for step in steps:
            position += step
            if due_at_step(Cadence(examples=every), position, Since(newest, 0.0, 0.0)):
                found.append(position)
                newest = position
        return found

    ends = [sum(steps[:count]) for count in range(len(steps) + 1)]
    all_of_them = checkpoints(0, steps)
    newest = max([0, *(position for position in all_of_them if position <= ends[min(cut, len(steps))])])
    rest = steps[ends.index(newest) :]
    assert checkpoints(newest, rest) == [position for position in all_of_them if position > newest]


@given(costs=st.lists(st.floats(0.001, 5.0), min_size=1, max_size=30), step=st.floats(0.01, 2.0))
def test_auto_spends_no_more_than_its_share(costs: list[float], step: float) -> None:
    """Once a checkpoint's cost is known, the next waits until it is at most 3 % of the time between."""
    previous = 0.0
    for cost in costs:
        waited = 0.0
        while not due_at_step(Cadence(virtual_epochs=None, auto=True), 0, Since(0, waited, previous)):
            waited += max(step, previous / 10)
        assert previous <= MAX_SHARE * waited * 1.0000001
        previous = cost


def test_time_and_virtual_epochs_are_each_enough() -> None:
    """Whichever is due first."""
    cadence = Cadence(virtual_epochs=3, seconds=60.0)
    common = {"improved": False, "selects_best": False}
    assert not due_at_boundary(cadence, 2, 200, Since(0, 59.0, 0.0), **common)
    assert due_at_boundary(cadence, 2, 200, Since(0, 60.0, 0.0), **common)
    assert due_at_boundary(cadence, 3, 300, Since(0, 0.0, 0.0), **common)


def test_an_improvement_is_saved_only_where_the_best_is_selected() -> None:
    """With ``select: last`` it is a report like any other."""
    cadence, since = Cadence(virtual_epochs=10), Since(0, 0.0, 0.0)
    assert due_at_boundary(cadence, 1, 10, since, improved=True, selects_best=True)
    assert not due_at_boundary(cadence, 1, 10, since, improved=True, selects_best=False)
    assert not due_at_boundary(cadence, 1, 10, since, improved=False, selects_best=True)


def test_what_is_to_be_kept_is_saved_whatever_the_cadence() -> None:
    """``keep: {every: 3}`` names virtual epochs: their checkpoints are made, also where fewer are due."""
    since, common = Since(0, 0.0, 1.0), {"improved": False, "selects_best": False}
    for cadence in (Cadence(10, kept_virtual_epochs=3), Cadence(None, auto=True, kept_virtual_epochs=3)):
        assert [due_at_boundary(cadence, epoch, 10 * epoch, since, **common) for epoch in (2, 3, 4, 6)] == [
            False, True, False, True,
        ]  # fmt: skip
