"""Opening a study: first creation, reopening, and what a changed study file or code means.

Serialised by a lock, because first opens of one database collide. Our row comes first,
Optuna's study second, so a death between the two is told apart from a study of that name
that somebody else made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import optuna
import sqlalchemy as sa
from optuna.pruners import BasePruner
from sqlalchemy import Connection, Engine

from tunesafe.errors import SpecError
from tunesafe.failpoints import failpoint
from tunesafe.spec import Change, StudySpec
from tunesafe.store import studies, tallies
from tunesafe.store.engine import open_engine, read_only_engine, reading, writing
from tunesafe.store.filesystems import network_file_system
from tunesafe.store.first_open import first_open_lock
from tunesafe.store.migrations import upgrade
from tunesafe.store.urls import canonical_url, display_url, sqlite_path
from tunesafe.study.agreement import check_agreement
from tunesafe.study.fenced import FencedStorage
from tunesafe.study.patience import Patience
from tunesafe.study.sampling import SeededSampler
from tunesafe.study.settling import Program, note, settle

__all__ = ["OpenStudy", "attach_study", "open_study"]

_METRIC_NAMES = "study:metric_names"
_UUID_ATTRIBUTE = "tunesafe:study"
"""Optuna study attribute that ties its study to ours, whatever it is renamed to."""


_OPENING_SECONDS = 15.0
"""How long an opening waits for the database at most [s]: a restart fits in, and a wrong address is soon known."""


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that is ready to be worked on.

    Args:
        engine: Our connections.
        storage: Optuna's, fenced.
        optuna: The study in Optuna's eyes, on that storage.
        study_id: Optuna's id of it, for this process only.
        row: Our row, at the revision this process works by.
        spec: The study file.
        sampler: The study's sampler.
        changes: What changed since the last opening, all of it accepted.
        patience: Waits when the database goes away.
        warnings: What is not as it should be where the database is, one sentence each.
    """

    engine: Engine
    storage: FencedStorage
    optuna: optuna.Study
    study_id: int
    row: studies.StudyRow
    spec: StudySpec
    sampler: SeededSampler
    changes: tuple[Change, ...] = ()
    patience: Patience = field(default_factory=lambda: Patience(0.0))
    warnings: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.storage.close()
        self.engine.dispose()


def open_study(
    spec: StudySpec,
    program: Program,
    sampler: SeededSampler,
    pruner: BasePruner,
    *,
    accept_changes: bool = False,
) -> OpenStudy:
    """Create a study or open it again.

    Args:
        spec: The study file.
        program: Its text and the trainable's sources.
        sampler: Built from the study file.
        pruner: Built from the study file.
        accept_changes: Go on even though a change makes finished trials mean something else.

    Raises:
        SpecError: If Optuna has a study of this name that is not ours.
        ChangeRefusedError: If a breaking change is not accepted; nothing is written.
        DamagedError: If Optuna's tables do not say what ours do.
        StorageError: If the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    patience = Patience(min(spec.storage_timeout, _OPENING_SECONDS))
    with spec.placing():
        return patience(_open, spec, program, sampler, pruner, accept_changes)


def _open(
    spec: StudySpec, program: Program, sampler: SeededSampler, pruner: BasePruner, accept_changes: bool
) -> OpenStudy:
    with ExitStack() as undo:
        with first_open_lock(spec.storage):
            failpoint("open.locked")
            _refuse_foreign(spec)
            engine = open_engine(spec.storage)
            undo.callback(engine.dispose)
            upgrade(engine)
            failpoint("open.schema")
            storage = FencedStorage(spec.storage)
            undo.callback(storage.close)
            failpoint("open.optuna")
            warnings = _warnings(spec.storage)
            with writing(engine) as connection:
                row, changes = settle(connection, spec, program, accept_changes)
                _keep_warnings(connection, row.uuid, warnings)
            failpoint("open.study")
            study_id = _optuna_study(engine, storage, spec, row.uuid)
            failpoint("open.done")
        check_agreement(engine, storage, study_id, row.uuid)
        with storage.guarded(_nothing):
            study = optuna.Study(study_name=spec.name, storage=storage, sampler=sampler, pruner=pruner)
        undo.pop_all()
    patience = _patience(engine, row.uuid, spec)
    return OpenStudy(engine, storage, study, study_id, row, spec, sampler, tuple(changes), patience, warnings)


def attach_study(
    url: str,
    name: str,
    folder: Path,
    fingerprint: str,
    judges: Callable[[StudySpec], tuple[SeededSampler, BasePruner]],
    storage_timeout: float = 600.0,
) -> OpenStudy:
    """Open a study that another process has opened, as the database has it now; nothing is changed.

    Args:
        url: Of the database.
        name: Of the study.
        folder: The study file's folder.
        fingerprint: Of the trainable's sources here.
        judges: Builds sampler and pruner from the study file.
        storage_timeout: How long to wait for the database [s].

    Raises:
        SpecError: If the study is gone, or runs other code than is here.
        StorageError: If the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Patience(storage_timeout)(_attach, url, name, folder, fingerprint, judges)


def _attach(
    url: str,
    name: str,
    folder: Path,
    fingerprint: str,
    judges: Callable[[StudySpec], tuple[SeededSampler, BasePruner]],
) -> OpenStudy:
    with ExitStack() as undo:
        engine = open_engine(url)
        undo.callback(engine.dispose)
        with reading(engine) as connection:
            row = studies.find_study(connection, name)
        if row is None or row.fingerprint["sources"] != fingerprint:
            raise SpecError(
                f"study {name!r} in {display_url(url)} runs other code than is here: another command changed it. "
                "Its finished trials are safe; update the code, then run the same command again."
            )
        spec = StudySpec.from_json(row.spec_json, storage=url, folder=folder)
        sampler, pruner = judges(spec)
        storage = FencedStorage(url)
        undo.callback(storage.close)
        study_id = storage.get_study_id_from_name(name)
        study = optuna.Study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        undo.pop_all()
    return OpenStudy(engine, storage, study, study_id, row, spec, sampler, patience=_patience(engine, row.uuid, spec))


def _patience(engine: Engine, uuid: str, spec: StudySpec) -> Patience:
    def keep(kind: str, details: dict[str, Any]) -> None:
        with writing(engine) as connection:
            note(connection, uuid, kind, details)

    return Patience(spec.storage_timeout, keep=keep)


def _warnings(url: str) -> tuple[str, ...]:
    path = sqlite_path(canonical_url(url))
    kind = None if path is None else network_file_system(path)
    if kind is None:
        return ()
    return (
        f"{path} is on a network file system ({kind}), where SQLite's locks and its write-ahead log are not reliable: "
        "a study can be damaged. Use a file on a local disk, or PostgreSQL or MariaDB for workers on several hosts.",
    )


def _keep_warnings(connection: Connection, uuid: str, warnings: Sequence[str]) -> None:
    if warnings and not tallies.count_events(connection, uuid, "storage_warning"):
        for warning in warnings:
            note(connection, uuid, "storage_warning", {"message": warning})


def _nothing(connection: Connection) -> None:
    """Carried where a write concerns no trial."""


def _refuse_foreign(spec: StudySpec) -> None:
    path = sqlite_path(canonical_url(spec.storage))
    if path is not None and not path.exists():
        return
    # Read-only: our own engine would switch a foreign database to WAL.
    engine = read_only_engine(spec.storage)
    try:
        with reading(engine) as connection:
            foreign = _is_foreign(connection, spec.name)
    finally:
        engine.dispose()
    if foreign:
        raise spec.error(
            "name",
            f"{display_url(spec.storage)} already has an Optuna study named {spec.name!r} that tunesafe did not make. "
            "It was not touched. Choose another name, or another storage.",
        )


def _is_foreign(connection: Connection, name: str) -> bool:
    if not sa.inspect(connection).has_table("studies"):
        return False
    query = sa.text("SELECT COUNT(*) FROM studies WHERE study_name = :name")
    in_optuna = connection.execute(query, {"name": name}).scalar_one()
    return bool(in_optuna) and not studies.has_begun(connection, name)


def _optuna_study(engine: Engine, storage: FencedStorage, spec: StudySpec, uuid: str) -> int:
    direction = optuna.study.StudyDirection[spec.objective.direction.upper()]
    with storage.guarded(_nothing):
        try:
            study_id = storage.get_study_id_from_name(spec.name)
        except KeyError:
            _refuse_renamed(storage, spec, uuid)
            study_id = storage.create_new_study([direction], spec.name)
        _set_direction(engine, study_id, direction)
        if storage.get_study_user_attrs(study_id).get(_UUID_ATTRIBUTE) != uuid:
            storage.set_study_user_attr(study_id, _UUID_ATTRIBUTE, uuid)
        if storage.get_study_system_attrs(study_id).get(_METRIC_NAMES) != [spec.objective.metric]:
            storage.set_study_system_attr(study_id, _METRIC_NAMES, [spec.objective.metric])
    return study_id


def _set_direction(engine: Engine, study_id: int, direction: optuna.study.StudyDirection) -> None:
    """Follow an accepted change of direction: Optuna itself knows no way to."""
    table = sa.table("study_directions", sa.column("study_id"), sa.column("direction"))
    with writing(engine) as connection:
        row = table.c.study_id == study_id
        if connection.execute(sa.select(table.c.direction).where(row)).scalar_one() != direction.name:
            connection.execute(sa.update(table).where(row).values(direction=direction.name))


def _refuse_renamed(storage: FencedStorage, spec: StudySpec, uuid: str) -> None:
    for study in storage.get_all_studies():
        if study.user_attrs.get(_UUID_ATTRIBUTE) == uuid:
            raise spec.error(
                "name",
                f"study {spec.name!r} is named {study.study_name!r} in Optuna's tables: it was renamed there, by the "
                "dashboard for instance. Nothing was changed. Rename it back.",
            )
