"""What a trial in a study asks of the world, answered by ledger, checkpoint store and lease."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunesafe.contracts import (
    Claim,
    Judgement,
    Metrics,
    Notice,
    Record,
    Report,
    Snapshot,
    StoredState,
)
from tunesafe.errors import DamagedError
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.study.lease import LeaseKeeper
from tunesafe.study.ledger import Ledger
from tunesafe.study.patience import Patience
from tunesafe.study.retaining import Retainer
from tunesafe.trackers import Trackers
from tunesafe.worker.writing import CheckpointWriter

__all__ = ["LedgerServices", "Watcher"]

Watcher = Callable[[Notice], None]


class LedgerServices:
    """The trial's side of a study; implements :class:`tunesafe.trial.services.TrialServices`.

    Args:
        ledger: All that is durable.
        checkpoints: Where states are kept.
        retainer: Removes what nobody asked to keep.
        keeper: Renews the lease meanwhile.
        claim: The trial.
        records: Reports of earlier attempts, ascending.
        watch: Told of every report.
        trackers: Told of every report and of ``trial.log``.
        patience: Waits when the database goes away.
        writer: Writes checkpoints while training goes on.
        writing_patience: Waits in its thread.
    """

    def __init__(
        self,
        ledger: Ledger,
        checkpoints: CheckpointStore,
        retainer: Retainer,
        keeper: LeaseKeeper,
        claim: Claim,
        records: Sequence[Record],
        watch: Watcher,
        trackers: Trackers,
        patience: Patience,
        writer: CheckpointWriter,
        writing_patience: Patience,
    ) -> None:
        self._ledger, self._checkpoints, self._retainer, self._keeper = ledger, checkpoints, retainer, keeper
        self._claim, self._watch, self._trackers, self._patience = claim, watch, trackers, patience
        self._writer, self._writing_patience = writer, writing_patience
        self._records = {record.report.virtual_epoch: record for record in records}

    @property
    def records(self) -> tuple[Record, ...]:
        """All reports so far, ascending."""
        return tuple(self._records.values())

    def settle_examples_per_pass(self, num_examples: int) -> int:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        return self._ledger.settle_examples_per_pass(num_examples)

    def newest_state(self) -> StoredState | None:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        damage: list[DamagedError] = []

        def newest_intact() -> StoredState | None:
            damage.clear()  # an attempt before this one has found the same
            return self._checkpoints.newest_intact(self._claim.number, damage.append)

        state = self._patience(newest_intact)
        for error in damage:
            # Only now it is known what the trial falls back on.
            seen = 0 if state is None else state.info.position.examples_seen
            self.event("damaged", message=str(error), continues_from=seen)
        self._patience(self._checkpoints.mark_damaged, damage)
        return state

    def record(self, report: Report) -> Judgement:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        self._keeper.check()
        self._writer.check()
        record = self._records.get(report.virtual_epoch)
        if record is None:
            record = self._ledger.report(self._claim, report, self.records)
            self._records[report.virtual_epoch] = record
        elif not _same(record.report.metrics, report.metrics):
            self.event(
                "not_deterministic",
                virtual_epoch=report.virtual_epoch,
                recorded=dict(record.report.metrics),
                now=dict(report.metrics),
            )
        self._trackers.log(report.metrics, report.examples_seen)
        self._tell_watcher(record)
        return Judgement(record.verdict, record.improved)

    def _tell_watcher(self, record: Record) -> None:
        report = record.report
        details = {
            "virtual_epoch": report.virtual_epoch,
            "virtual_epochs": self._ledger.spec.budget.virtual_epochs,
            "examples_seen": report.examples_seen,
            "metrics": dict(report.metrics),
            "value": report.metrics[self._ledger.spec.objective.metric],
            "verdict": str(record.verdict),
        }
        self._watch(Notice("reported", self._claim.number, details))

    def memory(self, num_bytes: int) -> memoryview:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        return self._writer.memory(num_bytes)

    def save(self, snapshot: Snapshot) -> None:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        self._keeper.check()
        number, fence = self._claim.number, self._claim.fence
        records, patience = self.records, self._writing_patience
        surplus = self._retainer.of_live(number, records)
        save = partial(self._checkpoints.save, snapshot, number=number, fence=fence, surplus=surplus)

        def write() -> None:
            patience(save)
            self._retainer.after_save(patience, number, fence, records)

        self._writer.submit(write)

    def is_saving(self) -> bool:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        return self._writer.is_busy

    def interruption(self) -> str | None:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        self._keeper.check()
        return "the study's timeout is reached" if self._keeper.timed_out else None

    def log(self, values: Mapping[str, float], examples_seen: int) -> None:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        self._trackers.log(values, examples_seen)

    def artifact(self, path: Path) -> None:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        self._ledger.attach(self._claim, path)

    def event(self, kind: str, **details: Any) -> None:
        """See :class:`tunesafe.trial.services.TrialServices`."""
        if kind in _ONCE and self._ledger.has_noted(kind):
            return
        self._ledger.note(kind, self._claim.number, **details)
        self._watch(Notice("event", self._claim.number, {"event": kind, **details}))


_ONCE = ("small_virtual_epochs",)
"""What is worth saying once in a study."""


def _same(one: Metrics, other: Metrics) -> bool:
    """Bit by bit, but every NaN is like every other."""
    return one.keys() == other.keys() and all(
        value == other[name] or (math.isnan(value) and math.isnan(other[name])) for name, value in one.items()
    )
