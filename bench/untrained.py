"""A worker of tunesafe that trains nothing: its trials report made-up values and end at once.

``python bench/untrained.py SETTINGS`` takes a trial for every line it reads, and prints its stamps. Everything
a worker does beside training is done by the code that does it (claim, lease, draw, records, outcome, telling,
retention), but for the states: without ``states`` there are none to save. It imports no torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from large import EXAMPLES_PER_PASS, FINGERPRINT, NAME, TOTAL_EXAMPLES, VIRTUAL_EPOCHS, Stamps, made_up_value

from tunesafe.contracts import Assignment, Claim, Ending, Outcome, Position, Report, Snapshot, TensorBytes
from tunesafe.errors import Preempted
from tunesafe.study.claiming import Claimant
from tunesafe.study.lease import LeaseKeeper
from tunesafe.study.opening import OpenStudy, attach_study
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.judging import judges
from tunesafe.worker.loop import Left, Worker
from tunesafe.worker.services import LedgerServices

__all__ = ["UntrainedWorker"]


class UntrainedWorker(Worker):
    """A worker that has reports made up in place of training, until none is left.

    Args:
        opened: The study.
        signals: Entered by the caller.
        folder: For artifacts, of which there are none.
        states: Whether every report is followed by a (small) checkpoint.
    """

    def __init__(self, opened: OpenStudy, signals: SignalWatch, folder: Path, *, states: bool = False) -> None:
        super().__init__(opened, lambda: self._make_up, signals, lambda notice: None, folder)
        self._states = states

    def run(self) -> Left:
        """Take trials until none is left."""
        # In place of the module that brings torch.
        name, own = "tunesafe.worker.training", SimpleNamespace(train_trial=_instead_of_training)
        before = sys.modules.get(name)
        sys.modules[name] = own  # type: ignore[assignment]
        try:
            return super().run()
        finally:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before

    def _make_up(self, number: int, services: LedgerServices) -> Outcome:
        services.settle_examples_per_pass(EXAMPLES_PER_PASS)
        for epoch in range(1, VIRTUAL_EPOCHS + 1):
            examples_seen = epoch * TOTAL_EXAMPLES // VIRTUAL_EPOCHS
            value = made_up_value(number, epoch)
            services.record(Report(epoch, examples_seen, {"val_loss": value, "val_accuracy": 0.5}))
            if self._states:
                services.save(_state(number, Position(examples_seen, epoch)))
        return Outcome(Ending.COMPLETE, value, VIRTUAL_EPOCHS, TOTAL_EXAMPLES)


def _instead_of_training(
    train: Callable[[int, LedgerServices], Outcome],
    assignment: Assignment,
    spec: object,
    services: LedgerServices,
    *_: Any,
) -> Outcome:
    return train(assignment.number, services)


def _state(number: int, position: Position) -> Snapshot:
    data = f"{number}/{position.virtual_epoch}".encode().ljust(1024)
    tensor = TensorBytes("model/weight", "uint8", (len(data),), memoryview(data))
    return Snapshot(position, json.dumps({"at": [number, position.virtual_epoch]}), (tensor,))


class _OrderedWorker(UntrainedWorker):
    """Takes a trial for every line on its standard input, and says when it had what."""

    def __init__(self, opened: OpenStudy, stamps: Stamps, *arguments: Any, **options: Any) -> None:
        super().__init__(opened, *arguments, **options)
        self._stamps = stamps
        self._claimant = _OrderedClaimant(opened, self._next)

    def _next(self) -> None:
        if self._stamps.ordered:
            self._stamps.ended = perf_counter()
            self._stamps.say()
        if not sys.stdin.readline():
            raise Preempted("nothing more is ordered")
        self._stamps.ordered = perf_counter()

    def _train(self, claim: Claim, keeper: LeaseKeeper) -> Outcome:
        self._stamps.asked = perf_counter()
        return super()._train(claim, keeper)

    def _make_up(self, number: int, services: LedgerServices) -> Outcome:
        self._stamps.drawn = perf_counter()
        return super()._make_up(number, services)


class _OrderedClaimant(Claimant):
    """Waits before every claim.

    Args:
        opened: The study.
        wait: For what.
    """

    def __init__(self, opened: OpenStudy, wait: Callable[[], None]) -> None:
        super().__init__(opened)
        self._wait = wait

    def claim(self) -> Claim | None:
        """Wait, then claim."""
        self._wait()
        return super().claim()


def main(settings: dict[str, Any]) -> None:
    """Attach to a study as a worker does, and take its free trials.

    Args:
        settings: ``url`` of its database, and whether there are ``states``.
    """
    stamps = Stamps(imported=perf_counter())
    with (
        suppress(Preempted),
        tempfile.TemporaryDirectory() as name,
        attach_study(settings["url"], NAME, Path(name), FINGERPRINT, judges) as opened,
        SignalWatch() as signals,
    ):
        _OrderedWorker(opened, stamps, signals, Path(name), states=settings["states"]).run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
