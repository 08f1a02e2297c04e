"""A study as it is stored, for reading: creates nothing, needs no user code, imports no torch and no Optuna."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from tunesafe.api.views import StudyStatus, TrialView, view_status, view_trial
from tunesafe.contracts import CheckpointInfo, Event, LogChunk, Record, StoredState, TrialPhase
from tunesafe.errors import SpecError, StorageError
from tunesafe.spec import StudySpec
from tunesafe.store import events, logs, records, studies
from tunesafe.store.backup_state import backups_beside
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import packs_of
from tunesafe.store.engine import database_now, read_only_engine, reading
from tunesafe.store.migrations import is_ours
from tunesafe.store.reading import summarise
from tunesafe.store.tallies import count_events
from tunesafe.store.trial_rows import trial_row, trial_rows
from tunesafe.store.urls import canonical_url, display_url

__all__ = ["NOTABLE", "StoredStudy", "study_in"]

NOTABLE = (
    "reclaimed",
    "lease_awaited",
    "small_virtual_epochs",
    "not_deterministic",
    "damaged",
    "changed",
    "begun_again",
    "environment",
    "exhausted",
    "disk_limit",
    "given_up",
    "over_disk_limit",
    "storage_back",
    "storage_warning",
    "restored",
    "backup_failed",
    "backup_lost",
)
"""Kinds of events that ``status`` counts, however long ago they happened."""


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """Where a study is stored. Each question is one read transaction of its own.

    Every method raises ``StorageError`` if there is no such database or no such study in it.

    Args:
        url: The database.
        name: The study.
    """

    url: str
    name: str

    @contextmanager
    def opened(self) -> Iterator[tuple[Connection, studies.StudyRow]]:
        """A read transaction, and the study's row in it."""
        with _connected(self.url) as connection:
            row = studies.find_study(connection, self.name) if is_ours(connection) else None
            if row is None:
                raise StorageError(_no_study(self.url, self.name, _names(connection)))
            yield connection, row

    def spec(self) -> StudySpec:
        """The study file as the study last ran with."""
        with self.opened() as (_, row):
            return StudySpec.from_json(row.spec_json, storage=self.url)

    def row(self) -> studies.StudyRow:
        """What is known of the study as a whole."""
        with self.opened() as (_, row):
            return row

    def sources(self) -> dict[str, str]:
        """The trainable's sources as the study last ran with, by path relative to the study file."""
        with self.opened() as (connection, row):
            return studies.load_sources(connection, row.uuid, str(row.fingerprint["sources"]))

    def status(self) -> StudyStatus:
        """Where the study stands."""
        with self.opened() as (connection, row):
            spec = StudySpec.from_json(row.spec_json, storage=self.url)
            notes = {kind: count_events(connection, row.uuid, kind) for kind in NOTABLE}
            copying = backups_beside(canonical_url(self.url), row.uuid)
            state = None if copying is None else copying.state()
            return view_status(summarise(connection, self.name), spec, self.url, notes, state)

    def best(self) -> TrialView | None:
        """The complete trial with the best value; the lowest number among equals."""
        with self.opened() as (connection, _):
            best = summarise(connection, self.name, num_events=0).best
        return None if best is None else self.trial(best.number)

    def trials(self) -> list[TrialView]:
        """Every trial that has begun, by number."""
        with self.opened() as (connection, row):
            now = database_now(connection)
            known: dict[int, list[Record]] = {}
            for number, record in records.all_records(connection, row.uuid):
                known.setdefault(number, []).append(record)
            return [
                view_trial(trial, known.get(trial.number, ()), now)
                for trial in trial_rows(connection, row.uuid)
                if trial.phase is not TrialPhase.FREE
            ]

    def trial(self, number: int) -> TrialView:
        """One trial.

        Raises:
            SpecError: If the study has no such trial, or it has not begun.
        """
        with self.opened() as (connection, row):
            trial = trial_row(connection, row.uuid, number)
            if trial is None or trial.phase is TrialPhase.FREE:
                raise SpecError(self._no_trial(connection, row, number))
            return view_trial(trial, records.records_of(connection, row.uuid, number), database_now(connection))

    def logs(self, number: int) -> list[LogChunk]:
        """What a trial printed, in order.

        Raises:
            SpecError: If the study has no such trial, or it has not begun.
        """
        self.trial(number)
        with self.opened() as (connection, row):
            return logs.logs_of(connection, row.uuid, number)

    def events(self, number: int) -> list[Event]:
        """What happened to a trial, in order."""
        with self.opened() as (connection, row):
            return events.events_of(connection, row.uuid, number=number)

    def checkpoints(self, number: int) -> list[CheckpointInfo]:
        """The checkpoints a trial has, newest first."""
        with self.checkpoint_store() as store:
            return store.infos(number)

    def state(self, checkpoint: CheckpointInfo) -> StoredState:
        """A checkpoint, verified.

        Raises:
            DamagedError: If it is not what was written.
        """
        with self.checkpoint_store() as store:
            return store.load(checkpoint)

    @contextmanager
    def checkpoint_store(self) -> Iterator[CheckpointStore]:
        """All checkpoints, for several questions; with it nothing can be written."""
        with _engine(self.url) as engine:
            uuid = self.row().uuid
            yield CheckpointStore(engine, uuid, packs_of(engine.url, uuid, self.spec().blobs))

    def _no_trial(self, connection: Connection, row: studies.StudyRow, number: int) -> str:
        trials = trial_rows(connection, row.uuid)
        if any(trial.number == number for trial in trials):
            return f"trial {number} of study {self.name!r} has not begun"
        return f"study {self.name!r} has no trial {number}; its trials are 0 to {len(trials) - 1}"


def study_in(url: str, name: str | None) -> StoredStudy:
    """The study of a database, by name; the name may be left out where there is only one.

    Raises:
        StorageError: If there is no such database, or no such study in it.
        SpecError: If the name is left out and there are several.
    """
    with _connected(url) as connection:
        names = _names(connection)
    if name is None and len(names) > 1:
        raise SpecError(f"{display_url(url)} holds several studies; add #NAME, one of: {', '.join(names)}")
    if name not in names and (name is not None or not names):
        raise StorageError(_no_study(url, name, names))
    return StoredStudy(url, name or names[0])


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = read_only_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    with _engine(url) as engine, reading(engine) as connection:
        yield connection


def _names(connection: Connection) -> list[str]:
    return studies.study_names(connection) if is_ours(connection) else []


def _no_study(url: str, name: str | None, names: list[str]) -> str:
    which = f"no study named {name!r}" if name else "no study of tunesafe's"
    there = f"It holds: {', '.join(names)}." if names else "It holds none."
    return f"{display_url(url)} holds {which}. {there} Nothing was created. Start it with tunesafe run."
