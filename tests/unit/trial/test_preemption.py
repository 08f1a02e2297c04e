"""Leaving in order: what is saved, when the loop leaves, and that the next attempt ends the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.trial import support
from tests.unit.trial.support import X, contents, new_trial, run_with_deaths
from tunesafe.contracts import Position
from tunesafe.errors import Preempted
from tunesafe.trial import MemoryServices, SignalWatch, Trial, TrialSettings, run_trial
from tunesafe.trial.preemption import SIGNALS


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def preempted(how: TrialSettings, ask: Callable[[Trial, int, MemoryServices], None], **more: Any) -> MemoryServices:
    """Train; ``ask`` runs in every batch (with its count from 1) and asks to leave at some point."""
    services, count = MemoryServices(how.objective), 0

    def train(trial: Trial) -> None:
        nonlocal count
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                count += 1
                ask(trial, count, services)
            trial.report(loss=1 / epoch.index)

    with pytest.raises(Preempted):
        run_trial(train, new_trial(services, how, **more))
    return services


def test_inside_a_virtual_epoch_the_next_step_saves_and_leaves() -> None:
    """With mid_epoch: batches of 16, 9 and 8; asked in the fifth, left after it."""

    def ask(_: Trial, count: int, services: MemoryServices) -> None:
        services.request = "timeout" if count == 5 else None

    services = preempted(support.settings(mid_epoch=True), ask)
    assert services.snapshot is not None
    assert services.snapshot.position == Position(33 + 16 + 9, 1)


def test_without_mid_epoch_a_virtual_epoch_that_fits_the_grace_is_finished() -> None:
    """Then reported, saved, and left."""

    def ask(_: Trial, count: int, services: MemoryServices) -> None:
        services.request = "timeout" if count >= 4 else None

    services = preempted(support.settings(every={"virtual_epochs": 10}), ask)
    assert len(services.reports) == 2
    assert services.snapshot is not None
    assert services.snapshot.position == Position(66, 2)


def test_without_mid_epoch_a_virtual_epoch_that_does_not_fit_is_left_at_once() -> None:
    """At 10 s for 16 examples, 17 more take longer than 10 s: the state before it stands."""
    clock, counts = Clock(), []

    def ask(_: Trial, count: int, services: MemoryServices) -> None:
        clock.time += 10.0
        counts.append(count)
        services.request = "timeout" if count >= 4 else None

    how = support.settings()
    services = preempted(TrialSettings(how.budget, how.objective, how.checkpoint, grace_seconds=10.0), ask, now=clock)
    assert counts[-1] == 4
    assert services.snapshot is not None
    assert services.snapshot.position == Position(33, 1)


def test_a_virtual_epoch_that_turns_slow_is_left_when_the_grace_runs_out() -> None:
    """The estimate is made anew after every batch."""
    clock, counts = Clock(), []

    def ask(_: Trial, count: int, services: MemoryServices) -> None:
        clock.time += 1.0 if count <= 4 else 100.0
        counts.append(count)
        services.request = "timeout" if count >= 4 else None

    preempted(support.settings(), ask, now=clock)
    assert counts[-1] == 5


def test_asked_in_the_last_virtual_epoch_the_trial_is_completed() -> None:
    """There is nothing left to come back for."""
    how = support.settings()
    services = MemoryServices(how.objective)

    def train(trial: Trial) -> None:
        for epoch in trial.virtual_epochs((X,)):
            for _ in epoch:
                services.request = "timeout" if epoch.index == 3 else None
            trial.report(loss=1)

    assert run_trial(train, new_trial(services, how)).ending == "complete"


# An attempt that resumes after a virtual epoch's last batch steps the scheduler before the optimizer, rightly.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("mid_epoch", [False, True])
@pytest.mark.parametrize("training", ["plain", "accumulating", "class"])
def test_a_trial_preempted_in_every_attempt_ends_in_the_same_bits(training: str, mid_epoch: bool) -> None:
    """Asked at every third look, as often as it takes."""
    train, how = support.TRAININGS[training], support.settings(mid_epoch=mid_epoch, every={"virtual_epochs": 1})
    outcome, reference = run_with_deaths(train, how, [])

    class Impatient(MemoryServices):
        looks = 0

        def interruption(self) -> str | None:
            self.looks += 1
            return "again" if self.looks % 3 == 0 else None

    services, attempts = Impatient(how.objective), 0
    while attempts < 100:
        attempts += 1
        try:
            again = run_trial(train, new_trial(services, how, attempt=attempts))
            break
        except Preempted:
            continue
    assert again == outcome
    assert attempts > 2
    assert contents(services.snapshot) == contents(reference.snapshot)


def test_preempted_passes_code_that_catches_everything() -> None:
    """It is no Exception; and even if it is swallowed, the attempt has no outcome."""
    how = support.settings(mid_epoch=True)
    services = MemoryServices(how.objective)
    services.request = "spot instance reclaimed"

    def train(trial: Trial) -> None:
        try:
            support.plain(trial)
        except BaseException:  # noqa: BLE001 - the worst user code there is
            return

    with pytest.raises(Preempted, match="spot instance reclaimed"):
        run_trial(train, new_trial(services, how))


# ---------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_makes_the_loop_leave_and_handlers_are_put_back(number: signal.Signals) -> None:
    """SIGTERM, SIGINT and SIGUSR1 alike."""
    before = [signal.getsignal(each) for each in SIGNALS]

    def ask(_: Trial, count: int, __: MemoryServices) -> None:
        if count == 2:
            signal.raise_signal(number)

    services = preempted(support.settings(mid_epoch=True), ask)
    assert services.snapshot is not None
    assert services.snapshot.position == Position(25, 0)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_second_signal_leaves_at_once() -> None:
    """Inside the batch, without saving."""
    reached = []

    def ask(_: Trial, count: int, __: MemoryServices) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        reached.append(count)

    services = preempted(support.settings(mid_epoch=True), ask)
    assert reached == []
    assert services.snapshot is None


def test_a_swallowed_second_signal_leaves_at_the_next_batch() -> None:
    """Nothing more is finished."""

    def ask(_: Trial, count: int, __: MemoryServices) -> None:
        if count == 4:
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Preempted, match="SIGTERM after SIGTERM"):
                signal.raise_signal(signal.SIGTERM)

    services = preempted(support.settings(), ask)
    assert len(services.reports) == 1


def test_a_watch_lent_to_a_trial_stays_in_force_after_it() -> None:
    """A worker watches for its whole life; entering again adds nothing, leaving takes nothing away."""
    before = signal.getsignal(signal.SIGUSR1)
    with SignalWatch() as watch:
        with watch:
            pass
        signal.raise_signal(signal.SIGUSR1)
        assert watch.reason == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """Python delivers none there."""
    how = support.settings()
    outcomes: list[Any] = []

    def work() -> None:
        outcomes.append(run_trial(support.plain, new_trial(MemoryServices(how.objective), how)).ending)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes == ["complete"]
