"""The clock: what a plan promises, for every size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tunesafe.clock import Batch, Plan, boundary
from tunesafe.contracts import Position
from tunesafe.errors import SpecError, TrialError

sizes = st.one_of(st.integers(1, 12), st.integers(1, 400), st.sampled_from([97, 101, 127, 397]))
START = Position(0, 0)


@st.composite
def plans(draw: st.DrawFn, batching: str | None = None, most: int = 5) -> Plan:
    """Any plan of at most 400 examples."""
    total = draw(sizes)
    return Plan(
        total=total,
        virtual_epochs=draw(st.integers(1, min(total, 12))),
        batch_size=draw(sizes),
        batching=batching or draw(st.sampled_from(["exact", "whole"])),  # type: ignore[arg-type]
        accumulate=draw(st.integers(1, most)),
    )


def by_epoch(plan: Plan) -> list[list[Batch]]:
    """The plan's batches, sorted by the virtual epoch they belong to."""
    epochs: list[list[Batch]] = [[] for _ in range(plan.virtual_epochs)]
    for batch in plan.batches(START):
        epochs[batch.virtual_epoch - 1].append(batch)
    return epochs


def positions(plan: Plan) -> list[Position]:
    """Every point at which the plan may be resumed, ends of virtual epochs before and after their report."""
    found = [START]
    for k, epoch in enumerate(by_epoch(plan)):
        found += [Position(b.start + b.size, k) for b in epoch if b.step_due]
        found.append(Position(found[-1].examples_seen, k + 1))
    return found


@given(total=st.integers(1, 10**12), epochs=st.integers(1, 10**4))
def test_boundaries_divide_the_trial_evenly(total: int, epochs: int) -> None:
    """They begin at 0, end at the total, and virtual epochs differ by at most one example."""
    assume(epochs <= total)
    ends = [boundary(total, epochs, k) for k in range(min(epochs, 200) + 1)]
    assert ends[0] == 0
    assert boundary(total, epochs, epochs) == total
    assert {b - a for a, b in pairwise(ends)} <= {total // epochs, total // epochs + 1}


@given(plan=plans())
def test_the_batches_are_the_whole_budget_without_gap_or_overlap(plan: Plan) -> None:
    """Every trial consumes exactly its total, each batch starting where the last one ended."""
    seen = 0
    for batch in plan.batches(START):
        assert batch.start == seen
        assert batch.size >= 1
        seen += batch.size
    assert seen == plan.total


@given(plan=plans(batching="exact"))
def test_exact_virtual_epochs_end_on_their_boundaries(plan: Plan) -> None:
    """The examples of each virtual epoch are the plan's, whatever the batch size."""
    for k, epoch in enumerate(by_epoch(plan), start=1):
        start, end = (boundary(plan.total, plan.virtual_epochs, j) for j in (k - 1, k))
        assert (epoch[0].start, sum(b.size for b in epoch)) == (start, end - start)


@given(plan=plans(batching="exact", most=1))
def test_a_remainder_is_evened_out_over_the_last_two_batches(plan: Plan) -> None:
    """Full batches, then ceil((B + r) / 2) and floor((B + r) / 2), or one batch where that would leave one example."""
    full = plan.batch_size
    for epoch in by_epoch(plan):
        length = sum(b.size for b in epoch)
        count, rest = divmod(length, full)
        if length <= full:
            expected = [length]
        elif rest == 0:
            expected = [full] * count
        elif (full + rest) // 2 == 1:
            expected = [full] * (count - 1) + [full + rest]
        else:
            expected = [full] * (count - 1) + [-(-(full + rest) // 2), (full + rest) // 2]
        assert [b.size for b in epoch] == expected


@given(plan=plans(batching="exact"))
def test_no_exact_batch_is_of_one_example_unless_it_must_be(plan: Plan) -> None:
    """BatchNorm refuses a batch of one: only a batch size or a virtual epoch of one makes any."""
    for epoch in by_epoch(plan):
        if plan.batch_size > 1 and sum(b.size for b in epoch) > 1:
            assert min(b.size for b in epoch) > 1


@given(plan=plans())
def test_no_batch_is_larger_than_asked_for(plan: Plan) -> None:
    """Memory that holds a full batch holds every batch; but at size 2 three examples may stay together."""
    assert max(b.size for b in plan.batches(START)) <= plan.batch_size + (plan.batch_size == 2)


@given(plan=plans(batching="whole"))
def test_whole_steps_are_full_except_the_last(plan: Plan) -> None:
    """Every step starts at a multiple of the step's size, and a boundary is reached by the first step to cross it."""
    starts = [0] + [b.start + b.size for b in plan.batches(START) if b.step_due]
    assert starts == [*range(0, plan.total, plan.step_size), plan.total]
    for k in range(plan.virtual_epochs):
        crossed = boundary(plan.total, plan.virtual_epochs, k + 1)
        begin = next(s for s in starts if s >= boundary(plan.total, plan.virtual_epochs, k))
        assert plan.epoch_end(Position(begin, k)) == next(s for s in starts if s >= crossed)


@given(plan=plans())
def test_the_batches_of_a_step_differ_by_at_most_one_and_weigh_its_examples_equally(plan: Plan) -> None:
    """Scaled mean losses add up to the mean over the step; a full step is ``accumulate`` full batches."""
    step: list[Batch] = []
    for batch in plan.batches(START):
        step.append(batch)
        if batch.step_due:
            total = sum(b.size for b in step)
            assert max(b.size for b in step) - min(b.size for b in step) <= 1
            assert [b.loss_scale for b in step] == [b.size / total for b in step]
            if total == plan.step_size:
                assert len(step) == plan.accumulate
            step = []
    assert not step


@given(plan=plans())
def test_the_last_batch_of_each_virtual_epoch_says_so(plan: Plan) -> None:
    """And it completes an optimizer step: gradients never cross a boundary."""
    for epoch in by_epoch(plan):
        assert [b.ends_epoch for b in epoch] == [False] * (len(epoch) - 1) + [True] * bool(epoch)
        assert all(b.step_due for b in epoch[-1:])


@settings(max_examples=60)
@given(plan=plans(), data=st.data())
def test_a_trial_cut_at_any_step_and_resumed_sees_the_same_batches(plan: Plan, data: st.DataObject) -> None:
    """Rebuilding the plan from one position changes nothing of what is left."""
    cut = data.draw(st.sampled_from(positions(plan)))
    rest = [b for b in plan.batches(START) if (b.start, b.virtual_epoch) >= (cut.examples_seen, cut.virtual_epoch + 1)]
    assert list(plan.batches(cut)) == rest
    assert list(plan.epoch_batches(cut)) == [b for b in rest if b.virtual_epoch == cut.virtual_epoch + 1]


@settings(max_examples=60)
@given(plan=plans(), data=st.data())
def test_only_the_starts_of_steps_can_be_resumed(plan: Plan, data: st.DataObject) -> None:
    """Any other position is refused, and the message names it."""
    wrong = Position(data.draw(st.integers(-1, plan.total + 1)), data.draw(st.integers(-1, plan.virtual_epochs + 1)))
    assume(wrong not in positions(plan))
    with pytest.raises(TrialError, match=f"at example {wrong.examples_seen} after"):
        plan.batches(wrong)


@given(plan=plans())
def test_small_epochs_are_noticed(plan: Plan) -> None:
    """``small_epochs`` says whether some virtual epoch is shorter than one step."""
    ends = [boundary(plan.total, plan.virtual_epochs, k) for k in range(plan.virtual_epochs + 1)]
    assert plan.small_epochs == any(b - a < plan.step_size for a, b in pairwise(ends))


def test_seeking_deep_into_a_long_trial_costs_nothing() -> None:
    """A position is computed, not replayed: the trillionth example is as near as the first."""
    plan = Plan(total=10**15, virtual_epochs=10, batch_size=7)
    start = 10**14 + 7 * 10**12
    assert next(plan.batches(Position(start, 1))) == Batch(start, 7, 2, True, 1.0, False)


def test_a_whole_virtual_epoch_may_have_no_batches_of_its_own() -> None:
    """A batch that crosses two boundaries belongs to the first of the two virtual epochs."""
    plan = Plan(total=10, virtual_epochs=5, batch_size=4, batching="whole")
    assert [[b.size for b in epoch] for epoch in by_epoch(plan)] == [[4], [], [4], [], [2]]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"total": 0}, "total is 0"),
        ({"virtual_epochs": 0}, "virtual_epochs is 0"),
        ({"virtual_epochs": 101}, "101 virtual epochs do not fit into a trial of 100 examples"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"accumulate": -1}, "accumulate is -1"),
        ({"batching": "even"}, "batching is 'even'"),
    ],
)
def test_a_size_out_of_range_is_refused_by_its_value(change: dict[str, object], found: str) -> None:
    """The message echoes what was wrong."""
    arguments: dict[str, object] = {"total": 100, "virtual_epochs": 5, "batch_size": 10} | change
    with pytest.raises(SpecError, match=found):
        Plan(**arguments)  # type: ignore[arg-type]
