"""Small studies for the ledger's tests: real SQLite, no torch, no user code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import Connection

from tunesafe import failpoints
from tunesafe.contracts import (
    Claim,
    Ending,
    Event,
    Outcome,
    Owner,
    Position,
    Record,
    Report,
    Snapshot,
    TensorBytes,
    TrialPhase,
    TrialRow,
    Verdict,
)
from tunesafe.schedulers.pruning import build_pruner
from tunesafe.spec import StudySpec, spec_from_mapping
from tunesafe.store import claims, events, identity, records
from tunesafe.store.engine import reading, writing
from tunesafe.store.trial_rows import trial_row, trial_rows
from tunesafe.study.claiming import Claimant
from tunesafe.study.ledger import Decision, Ledger
from tunesafe.study.opening import OpenStudy, open_study
from tunesafe.study.sampling import build_sampler
from tunesafe.study.settling import Program
from tunesafe.study.suggest import distributions

LR = {"type": "float", "low": 0.01, "high": 0.1, "log": True}
PROGRAM = Program("name: s\n", {"train.py": "x = 1\n"}, "one")
# Owners that are not this process: alive for all anybody here can know, and dead for certain.
ELSEWHERE = Owner("elsewhere", "machine", "boot", "pid:[1]", 4, 2)
DEAD = replace(identity.this_process(), started=1)


class DiedError(Exception):
    """Stands for a death: raised at a failpoint, so that nothing after it runs."""


def spec_of(url: str, **changes: Any) -> StudySpec:
    """A study file's content, with some keys changed."""
    keys: dict[str, Any] = {
        "name": "s",
        "trainable": "train.py:train",
        "storage": url,
        "objective": {"metric": "loss", "direction": "minimize"},
        "budget": {"examples": 40, "virtual_epochs": 4},
        "parameters": {"lr": LR},
        "n_trials": 3,
        "seed": 7,
        "sampler": {"name": "random"},
        "pruner": {"name": "nop"},
        "threads_per_worker": 1,
    }
    return spec_from_mapping(keys | changes, base=Path("/"))


@contextmanager
def opened(url: str, program: Program = PROGRAM, *, accept: bool = False, **changes: Any) -> Iterator[OpenStudy]:
    """A study, created or opened again as a new process would."""
    spec = spec_of(url, **changes)
    sampler = build_sampler(spec.sampler.name, spec.sampler.options, seed=spec.seed, search_space=distributions(spec))
    pruner = build_pruner(spec.pruner.name, spec.pruner.options, max_resource=spec.budget.virtual_epochs)
    study = open_study(spec, program, sampler, pruner, accept_changes=accept)
    try:
        yield study
    finally:
        study.close()


def keep_going(study: optuna.Study, trial: FrozenTrial, values: Sequence[float]) -> Decision:
    """A judge that lets everything pass."""
    return Decision(Verdict.CONTINUE)


class Desk:
    """A study as one worker has it: who claims, and what is durable.

    Args:
        study: Opened.
        owner: Who claims; this process by default.
        judge: Judges reports.
    """

    def __init__(self, study: OpenStudy, owner: Owner | None = None, judge: Any = keep_going) -> None:
        self.study, self.engine, self.uuid = study, study.engine, study.row.uuid
        self.claimant = Claimant(study, owner)
        self.ledger = Ledger(study, judge, Path("artifacts"))
        self._plain: optuna.Study | None = None

    def claim(self) -> Claim:
        """The next trial; there must be one."""
        claim = self.claimant.claim()
        assert claim is not None
        return claim

    def run(self, outcome: Outcome | None = None, reports: Sequence[float] = ()) -> Claim:
        """A whole trial: claimed, drawn, reported, finished and, unless it raised, told."""
        while (claim := self.claim()).phase is TrialPhase.CLOSING:
            self.ledger.close(claim)
        self.ledger.draw(claim)
        self.report(claim, *reports)
        if self.ledger.finish(claim, outcome or complete(0.5)) is TrialPhase.CLOSING:
            self.ledger.close(claim)
        return claim

    def report(self, claim: Claim, *values: float) -> list[Record]:
        """Report these objective values, one for each virtual epoch after the last."""
        known = list(self.ledger.records(claim))
        for value in values:
            known.append(self.ledger.report(claim, report_of(len(known) + 1, value), known))
        return known

    def row(self, number: int) -> TrialRow:
        """A trial in our table."""
        with reading(self.engine) as connection:
            row = trial_row(connection, self.uuid, number)
        assert row is not None
        return row

    def phases(self) -> list[str]:
        """Every trial's phase, by number."""
        with reading(self.engine) as connection:
            return [str(row.phase) for row in trial_rows(connection, self.uuid)]

    def records(self, number: int) -> list[Record]:
        """A trial's records."""
        with reading(self.engine) as connection:
            return records.records_of(connection, self.uuid, number)

    def events(self, *kinds: str) -> list[Event]:
        """What happened, of these kinds."""
        with reading(self.engine) as connection:
            return [event for event in events.events_of(connection, self.uuid) if event.kind in kinds]

    def expire(self, number: int) -> None:
        """Let a lease run out."""
        with writing(self.engine) as connection:
            claims.renew(connection, self.uuid, number, self.row(number).fence, -1.0)

    def plain(self) -> optuna.Study:
        """The same study, opened by plain Optuna."""
        if self._plain is None:
            self._plain = plain(self.study.spec)
        return self._plain


def plain(spec: StudySpec) -> optuna.Study:
    """A study as anybody's Optuna sees it."""
    return optuna.load_study(study_name=spec.name, storage=spec.storage)


def report_of(virtual_epoch: int, value: float) -> Report:
    """A report of one metric; every virtual epoch has ten examples."""
    return Report(virtual_epoch, 10 * virtual_epoch, {"loss": value})


def complete(value: float) -> Outcome:
    """A trial that went well."""
    return Outcome(Ending.COMPLETE, value, 4, 40)


PRUNED = Outcome(Ending.PRUNED, None, 2, 20, reason="pruned at virtual epoch 2")
RAISED = Outcome(Ending.FAILED, None, None, 10, reason="ValueError: no", traceback="Traceback …\nValueError: no")


def snapshot(virtual_epoch: int, data: bytes = b"abcd") -> Snapshot:
    """A state at a boundary."""
    tensors = (TensorBytes("model/0", "uint8", (len(data),), memoryview(data)),)
    return Snapshot(Position(10 * virtual_epoch, virtual_epoch), f'{{"at": {virtual_epoch}}}', tensors)


@contextmanager
def dying_at(monkeypatch: Any, name: str, passing: int = 1) -> Iterator[None]:
    """Raise :class:`DiedError` where a failpoint of the study's room stands."""
    left = passing

    def failpoint(at: str) -> None:
        nonlocal left
        left -= at == name
        if at == name and left == 0:
            raise DiedError(name)

    with monkeypatch.context() as patch:
        for module in ("ledger", "claiming", "opening", "fenced", "suggest", "samplers.seeded"):
            patch.setattr(f"tunesafe.study.{module}.failpoint", failpoint)
        assert name in failpoints.FAILPOINTS
        try:
            yield
        except DiedError:
            return
    raise AssertionError(f"{name} was not passed")


def tables(connection: Connection) -> dict[str, list[Any]]:
    """Everything that is in the database, ours and Optuna's: to show that nothing was written."""
    from sqlalchemy import MetaData, select

    metadata = MetaData()
    metadata.reflect(connection)
    return {name: sorted(map(repr, connection.execute(select(table)))) for name, table in metadata.tables.items()}


def everything(desk: Desk) -> dict[str, list[Any]]:
    """The database's whole content."""
    with reading(desk.engine) as connection:
        return tables(connection)
