"""The ledger: what a claimed trial leaves behind, here and in Optuna.

Every transition is one transaction that checks the fence, writes ahead and is repeated
harmlessly: draw -> report … -> finish -> close. Recovery has no path of its own: a trial
whose owner died is claimed like any other, and whatever its records say is applied to
Optuna again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tunesafe.contracts import (
    AttributeWrite,
    Claim,
    Ending,
    Event,
    Outcome,
    Parameter,
    Record,
    Report,
    TrialPhase,
    TrialRow,
    Verdict,
)
from tunesafe.errors import DamagedError
from tunesafe.failpoints import failpoint
from tunesafe.spec import StudySpec
from tunesafe.store import claims, records, studies, tallies
from tunesafe.store.engine import reading, writing
from tunesafe.store.events import append_event
from tunesafe.store.trial_rows import trial_row
from tunesafe.study import suggest
from tunesafe.study.artifacts import store_artifact
from tunesafe.study.claiming import release_held
from tunesafe.study.endings import STATES, TOLD_WITH
from tunesafe.study.opening import OpenStudy
from tunesafe.study.patience import patiently

__all__ = ["Decision", "Judge", "Ledger"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the judge of a report says.

    Args:
        verdict: Continue, prune or stop early.
        writes: What the pruner wants in Optuna.
    """

    verdict: Verdict
    writes: tuple[AttributeWrite, ...] = ()


Judge = Callable[[optuna.Study, FrozenTrial, Sequence[float]], Decision]
"""``judge(study, copy of the trial that holds the new value, objective values so far)``."""


class Ledger:
    """All that is durable about the trials one worker has claimed.

    Args:
        opened: The study, from :func:`tunesafe.study.opening.open_study`.
        judge: Decides about reports; pure but for reading.
        artifacts: Folder in which files attached to trials are kept.
    """

    def __init__(self, opened: OpenStudy, judge: Judge, artifacts: Path) -> None:
        self._opened, self._judge, self._artifacts = opened, judge, artifacts
        self._engine, self._storage, self._optuna = opened.engine, opened.storage, opened.optuna
        self._uuid, self._spec, self._patience = opened.row.uuid, opened.spec, opened.patience
        self._distributions = suggest.distributions(opened.spec)
        self._minimize = opened.spec.objective.direction == "minimize"

    @property
    def spec(self) -> StudySpec:
        """The study file."""
        return self._spec

    @patiently
    def settle_examples_per_pass(self, num_examples: int) -> int:
        """Fix the length of one pass for the whole study; the first trial to ask decides.

        Raises:
            SpecError: If it was settled differently and the study file does not name it.
        """
        named = self._spec.budget.examples_per_pass
        if named is not None or self._spec.budget.examples is not None:
            return named or num_examples
        with writing(self._engine) as connection:
            settled = studies.settle_examples_per_pass(connection, self._uuid, num_examples)
        if settled != num_examples:
            raise self._spec.error(
                "budget",
                f"the training set has {num_examples} examples now; this study counts {settled} to a pass since its "
                "first trial. The trial was not started and nothing is lost. To keep the compute of all trials equal, "
                f"write examples_per_pass: {settled} under budget; for a study of the new data, choose a new name.",
            )
        return settled

    # --- drawing ------------------------------------------------------------------------

    @patiently
    def draw(self, claim: Claim) -> dict[str, Parameter]:
        """The trial's parameters: sealed ones as they are, else drawn (again, and the same)."""
        with writing(self._engine) as connection:
            row = self._row(connection, claim)
        if row.params is not None:
            return dict(row.params)
        self._storage.show(self._distributions)
        self._optuna.get_trials(deepcopy=False)  # a re-attached trial must be known to Optuna's cache
        with self._guarded(claim):
            params = suggest.draw(self._optuna, self._trial_id(claim), claim.number, self._spec, self._distributions)
        with writing(self._engine) as connection:
            claims.seal_params(connection, self._uuid, claim.number, claim.fence, params)
        failpoint("sample.sealed")
        return params

    # --- reports ------------------------------------------------------------------------

    @patiently
    def records(self, claim: Claim) -> tuple[Record, ...]:
        """All reports of the trial, ascending, applied to Optuna once more."""
        with writing(self._engine) as connection:
            known = tuple(records.records_of(connection, self._uuid, claim.number))
        if known:
            trial = self._storage.get_trial(self._trial_id(claim))
            with self._decorating(claim):
                for record in known:
                    self._apply(trial, record)
        return known

    @patiently
    def report(self, claim: Claim, report: Report, history: Sequence[Record]) -> Record:
        """Judge a report, make it durable with its verdict, then apply it to Optuna.

        Args:
            claim: The trial.
            report: What was measured.
            history: The trial's earlier records, ascending.

        Raises:
            LeaseLostError: If another worker has the trial; nothing is written.
        """
        value = report.metrics[self._spec.objective.metric]
        trial_id = self._trial_id(claim)
        with self._storage.held_still(self._opened.study_id):
            trial = self._storage.get_trial(trial_id)
            decision = self._decide(trial, report, value, history)
        applies = math.isfinite(value) and not trial.state.is_finished()
        record = Record(report, decision.verdict, self._improves(value, history), decision.writes, claim.attempt)
        failpoint("report.judged")

        def insert(connection: Connection) -> None:
            records.insert_record(connection, self._uuid, claim.number, claim.fence, record)
            failpoint("report.in_transaction")

        try:
            if applies:
                with self._storage.carrying(insert):
                    self._storage.set_trial_intermediate_value(trial_id, report.virtual_epoch, value)
            else:
                with writing(self._engine) as connection:
                    insert(connection)
        except records.DuplicateRecordError:  # the reply to an earlier attempt's COMMIT was lost
            record = self._recorded_before(claim, report)
        failpoint("report.recorded")
        with self._decorating(claim):
            for write in record.writes:
                self._storage.set_trial_system_attr(trial_id, write.key, write.value)
        failpoint("report.applied")
        return record

    def _recorded_before(self, claim: Claim, report: Report) -> Record:
        with reading(self._engine) as connection:
            known = records.records_of(connection, self._uuid, claim.number)
        return next(record for record in known if record.report.virtual_epoch == report.virtual_epoch)

    def _decide(self, trial: FrozenTrial, report: Report, value: float, history: Sequence[Record]) -> Decision:
        if not math.isfinite(value):
            return Decision(Verdict.DIVERGED)
        if trial.state.is_finished():  # somebody ended it through the dashboard: here, too, it ends
            return Decision(Verdict.PRUNE)
        trial = deepcopy(trial)
        trial.intermediate_values[report.virtual_epoch] = value
        return self._judge(self._optuna, trial, [*self._values(history), value])

    def _values(self, history: Sequence[Record]) -> list[float]:
        return [record.report.metrics.get(self._spec.objective.metric, math.nan) for record in history]

    def _improves(self, value: float, history: Sequence[Record]) -> bool:
        earlier = [past for past in self._values(history) if math.isfinite(past)]
        if not math.isfinite(value):
            return False
        return not earlier or (value < min(earlier) if self._minimize else value > max(earlier))

    def _apply(self, trial: FrozenTrial, record: Record) -> None:
        value = record.report.metrics.get(self._spec.objective.metric, math.nan)
        step = record.report.virtual_epoch
        if math.isfinite(value) and step not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
        for write in record.writes:
            if write.key not in trial.system_attrs:
                self._storage.set_trial_system_attr(trial._trial_id, write.key, write.value)

    @patiently
    def attach(self, claim: Claim, file: Path) -> None:
        """Keep a copy of a file with the trial, where optuna-dashboard finds it."""
        artifact = store_artifact(file, self._artifacts, owner=f"{self._uuid}/{claim.number}")
        with self._decorating(claim):
            self._storage.set_trial_system_attr(self._trial_id(claim), artifact.attribute, artifact.description)

    # --- endings ------------------------------------------------------------------------

    @patiently
    def finish(self, claim: Claim, outcome: Outcome) -> TrialPhase:
        """Record how a trial ended; Optuna is told by :meth:`close`.

        Returns:
            ``CLOSING``, or ``HELD`` for an exception whose streak is not over.
        """
        failpoint("finish.before")
        phase = TrialPhase.HELD if outcome.traceback is not None else TrialPhase.CLOSING
        with writing(self._engine) as connection:
            claims.record_outcome(connection, self._uuid, claim.number, claim.fence, outcome, phase)
            if phase is TrialPhase.CLOSING:
                release_held(connection, self._uuid, TrialPhase.CLOSING)
            kind = {Ending.COMPLETE: "completed", Ending.PRUNED: "pruned", Ending.FAILED: "failed"}[outcome.ending]
            self._note(connection, kind, claim.number, {"reason": outcome.reason, "value": outcome.value})
        failpoint("finish.recorded")
        return phase

    @patiently
    def close(self, claim: Claim) -> Outcome:
        """Tell Optuna a recorded outcome: records, attributes, state, each only if missing.

        Returns:
            The outcome: as recorded, or as somebody told Optuna meanwhile.
        """
        self.records(claim)
        with writing(self._engine) as connection:
            row = self._row(connection, claim)
        outcome = row.outcome
        assert outcome is not None, "a trial is closing without an outcome"
        if row.phase is TrialPhase.TOLD:
            return outcome
        if (elsewhere := self.ended_elsewhere(claim)) is not None:
            return self._follow(claim, outcome, elsewhere)
        trial_id = self._trial_id(claim)
        with self._decorating(claim):
            for key, value in _attributes(row, outcome).items():
                self._storage.set_trial_user_attr(trial_id, key, value)
        failpoint("finish.attributes")
        self._storage.show(self._distributions)
        with self._guarded(claim), self._storage.telling(lambda connection: self._mark_told(connection, claim)):
            values = [outcome.value] if outcome.ending is Ending.COMPLETE and outcome.value is not None else None
            self._optuna.tell(claim.number, values, state=STATES[outcome.ending])
        failpoint("tell.after")
        return outcome

    @patiently
    def ended_elsewhere(self, claim: Claim) -> Outcome | None:
        """The end that somebody else gave a trial, e.g. with optuna-dashboard's buttons; ``None`` as a rule.

        Meant for trials that are not told: of those, only somebody else can have told Optuna.
        """
        trial = self._storage.get_trial(self._trial_id(claim))
        if not trial.state.is_finished():
            return None
        with reading(self._engine) as connection:
            examples_seen = self._row(connection, claim).examples_seen
        ending = next(ending for ending, state in STATES.items() if state is trial.state)
        value = trial.value if ending is Ending.COMPLETE and math.isfinite(trial.value or 0) else None
        return Outcome(ending, value, None, examples_seen, reason="ended by another program, through Optuna")

    def _follow(self, claim: Claim, outcome: Outcome, elsewhere: Outcome) -> Outcome:
        """Optuna's word stands: it cannot be taken back there, and the two must agree on the best trial."""
        self._opened.sampler.is_exhausted(self._optuna)
        with writing(self._engine) as connection:
            if (outcome.ending, outcome.value) != (elsewhere.ending, elsewhere.value):
                claims.record_outcome(connection, self._uuid, claim.number, claim.fence, elsewhere)
                recorded = {"recorded": outcome.ending, "value": outcome.value}
                self._note(connection, "ended_elsewhere", claim.number, recorded)
                outcome = elsewhere
            self._mark_told(connection, claim)
        return outcome

    def _mark_told(self, connection: Connection, claim: Claim) -> None:
        claims.mark_told(connection, self._uuid, claim.number, claim.fence)
        if self._opened.sampler.exhausted:
            self._end_early(connection)
        failpoint("tell.in_transaction")

    def _end_early(self, connection: Connection) -> None:
        """The sampler has no further point: the study ends with the trials it has."""
        highest = tallies.highest_begun(connection, self._uuid)
        studies.drop_free_numbers(connection, self._uuid, highest + 1)
        self._note(connection, "exhausted", None, {"trials": highest + 1})

    # --- small print --------------------------------------------------------------------

    def _note(self, connection: Connection, kind: str, number: int | None, details: dict[str, Any]) -> None:
        append_event(connection, self._uuid, Event(kind, number, details), again=self._patience.repeating)

    @patiently
    def has_noted(self, kind: str) -> bool:
        """Whether an event of this kind has been kept for the study."""
        with reading(self._engine) as connection:
            return tallies.count_events(connection, self._uuid, kind) > 0

    def note(self, /, kind: str, number: int | None, **details: Any) -> None:
        """Keep an event for ``status`` and the report."""
        with writing(self._engine) as connection:
            self._note(connection, kind, number, details)

    def _row(self, connection: Connection, claim: Claim) -> TrialRow:
        row = trial_row(connection, self._uuid, claim.number)
        assert row is not None, f"trial {claim.number} is claimed but has no row"
        return row

    def _trial_id(self, claim: Claim) -> int:
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(self._opened.study_id, claim.number)
        except KeyError as error:
            raise DamagedError(
                f"Trial {claim.number} is not in Optuna's tables any more: its row is damaged, or a program other than "
                "tunesafe removed it. Nothing was changed. Restore the database from a backup, or begin under a new "
                "name."
            ) from error

    @contextmanager
    def _decorating(self, claim: Claim) -> Iterator[None]:
        """Guarded writes that a trial can do without, if somebody has ended it in Optuna."""
        with suppress(UpdateFinishedTrialError), self._guarded(claim):
            yield

    def _guarded(self, claim: Claim) -> Any:
        return self._storage.guarded(
            lambda connection: claims.check_fence(connection, self._uuid, claim.number, claim.fence)
        )


def _attributes(row: TrialRow, outcome: Outcome) -> dict[str, Any]:
    """What anyone who opens the study with plain Optuna finds beside values and states."""
    attributes: dict[str, Any] = {"examples_seen": outcome.examples_seen, TOLD_WITH: row.attempt}
    if outcome.selected_virtual_epoch is not None:
        attributes["selected_virtual_epoch"] = outcome.selected_virtual_epoch
    if outcome.reason is not None:
        attributes["reason"] = outcome.reason
    for name, value in outcome.result.items():
        attributes[f"result:{name}"] = value
    return attributes
