"""What checkpoints cost is measured, and ``every: auto`` stays within its share of the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trial.support import contents, new_trial, plain, settings
from tunesafe.contracts import Snapshot
from tunesafe.trial import MemoryServices, run_trial
from tunesafe.trial.costs import Costs
from tunesafe.trial.triggers import MAX_SHARE, Cadence, Since, due_at_boundary


@given(
    seconds=st.floats(0.001, 1.0),
    slower=st.floats(1.0, 4.0),
    stall=st.floats(0.0, 1.0),
    sizes=st.lists(st.integers(1, 256), min_size=2, max_size=40),
    share=st.floats(0.1, 0.9),
)
def test_what_steps_beside_a_write_take_longer_is_its_cost(
    seconds: float, slower: float, stall: float, sizes: list[int], share: float
) -> None:
    """Whatever the sizes of the batches: per example."""
    costs = Costs()
    costs.trained(seconds * 10, 10, beside=False)
    costs.stalled(stall)
    num_beside = max(1, int(share * len(sizes)))
    for index, size in enumerate(sizes):
        beside = index < num_beside
        costs.trained(seconds * size * (slower if beside else 1.0), size, beside=beside)
    assert costs.of_one == pytest.approx(stall + seconds * (slower - 1.0) * sum(sizes[:num_beside]), abs=1e-6)


def test_what_is_unknown_counts_in_full_and_what_is_old_is_forgotten() -> None:
    """A write that never ends before the next begins; and one slow moment of the disk."""
    costs = Costs()
    assert costs.of_one == 0.0
    costs.stalled(0.0)
    costs.trained(2.0, 10, beside=True)
    assert costs.of_one == 2.0
    costs = Costs()
    costs.stalled(60.0)
    for _ in range(40):
        costs.stalled(0.1)
    assert costs.of_one == pytest.approx(0.1, rel=0.1)


def test_luck_is_no_profit() -> None:
    """Steps that happen to be faster beside a write do not pay for its stall."""
    costs = Costs()
    costs.trained(1.0, 10, beside=False)
    costs.stalled(0.5)
    costs.trained(0.1, 10, beside=True)
    assert costs.of_one == 0.5


@dataclass
class World:
    """A simulated training: what it would take without checkpoints, and what it takes."""

    step: float
    batches: int
    stall: float
    write: float
    slower: float
    now: float = 0.0
    written_at: float = -1.0
    plain_seconds: float = 0.0
    made: list[int] = field(default_factory=list)

    def run(self, epochs: int) -> None:
        """Train so many virtual epochs with ``every: auto``."""
        costs, saved_at = Costs(), 0.0
        for epoch in range(1, epochs + 1):
            for _ in range(self.batches):
                began, beside = self.now, self.now < self.written_at
                self.now += self.step * (self.slower if beside else 1.0)
                self.plain_seconds += self.step
                costs.trained(self.now - began, 32, beside=beside or self.now < self.written_at)
            since = Since(0, self.now - saved_at, costs.of_one, is_saving=self.now < self.written_at)
            if due_at_boundary(Cadence(None, auto=True), epoch, epoch, since, improved=False, selects_best=False):
                began = self.now
                self.now = max(self.now, self.written_at) + self.stall
                costs.stalled(self.now - began)
                self.written_at, saved_at = self.now + self.write, self.now
                self.made.append(epoch)


@given(
    step=st.floats(0.001, 0.2),
    batches=st.integers(2, 60),
    stall=st.floats(0.0, 0.5),
    write=st.floats(0.0, 3.0),
    slower=st.floats(1.0, 1.5),
)
def test_auto_costs_training_no_more_than_its_share(
    step: float, batches: int, stall: float, write: float, slower: float
) -> None:
    """Stall and drag together, whatever they are; and where they are small, every boundary is saved."""
    world = World(step, batches, stall, write, slower)
    world.run(400)
    lost = world.now - world.plain_seconds
    most_of_one = stall + write * (slower - 1.0) + slower * step
    # The newest one's wait is still to come, and before the first nothing is known.
    assert lost <= 1.1 * MAX_SHARE * world.now + 2.0 * most_of_one
    if max(most_of_one, MAX_SHARE * write) <= MAX_SHARE * step * batches:
        assert len(world.made) == 400


class SlowServices(MemoryServices):
    """Takes a second to take a state, and is busy with it for three batches, which take longer; by its own clock."""

    def __init__(self) -> None:
        super().__init__(settings().objective)
        self.now, self.busy, self.saved = 0.0, 0, list[int]()

    def clock(self) -> float:
        """The time."""
        return self.now

    def save(self, snapshot: Snapshot) -> None:
        super().save(snapshot)
        self.saved.append(snapshot.position.virtual_epoch)
        self.now += 1.0
        self.busy = 3

    def is_saving(self) -> bool:
        return self.busy > 0

    def interruption(self) -> str | None:
        """Asked after every batch: here time passes."""
        self.now += 2.0 if self.busy else 1.0
        self.busy = max(0, self.busy - 1)
        return None


def test_a_trial_saves_at_boundaries_that_are_worth_it_and_always_its_last(tmp_path: Path) -> None:
    """A second of stall and three of drag are 3 % of 134 seconds: 10 virtual epochs of 13 batches and more."""
    how = settings(examples=32 * 200, virtual_epochs=16, every="auto")
    services = SlowServices()
    run_trial(plain, new_trial(services, how, batch_size=32, now=services.clock))
    assert services.saved[0] == 1
    assert services.saved[-1] == 16
    assert 2 <= len(services.saved) <= 4
    often = MemoryServices(how.objective)
    run_trial(plain, new_trial(often, settings(examples=32 * 200, virtual_epochs=16), batch_size=32))
    assert contents(services.snapshot) == contents(often.snapshot)


def test_auto_saves_what_counts_whatever_it_costs() -> None:
    """``select: best``: an improvement is saved; ``keep: {every: 5}``: those, too."""
    services = SlowServices()
    how = settings(examples=32 * 200, virtual_epochs=16, select="best", every="auto", keep={"every": 5})
    run_trial(plain, new_trial(services, how, batch_size=32, now=services.clock))
    improved = [
        report.virtual_epoch for report in services.reports if services.judgements[report.virtual_epoch].improved
    ]
    assert {*improved, 5, 10, 15, 16} <= set(services.saved)
