"""Studies of thousands of finished trials, made in seconds: the last of some real ones, copied in both sets of tables.

Copies have numbers, parameters, curves, values, states and bytes of their own; what is the same in all of
them (who trained them, when) is the same in the real one. Reports go through the package's own code, too slow
for thousands: every one is a commit.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from large import FINGERPRINT, VIRTUAL_EPOCHS, keys
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import RandomSampler
from sqlalchemy import Column, Connection, MetaData, Table, insert, select
from untrained import UntrainedWorker

from tunesafe.contracts import TrialPhase
from tunesafe.spec import StudySpec, spec_from_mapping
from tunesafe.store import tables
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.records import sealed_place
from tunesafe.store.sealing import seal, unseal
from tunesafe.study.opening import OpenStudy, open_study
from tunesafe.study.settling import Program
from tunesafe.study.suggest import distributions
from tunesafe.trial.preemption import SignalWatch
from tunesafe.worker.judging import judges

__all__ = ["make_study", "open_new", "report_of"]

_NUM_REAL = 12
"""Trials made one by one: more than a sampler's start, so that the last has all a later one has."""
_PROGRAM = Program("name: large\n", {"train.py": "x = 1\n"}, FINGERPRINT)


def open_new(settings: Mapping[str, Any]) -> OpenStudy:
    """Open a study, or create it, by its file's content."""
    spec = spec_from_mapping(settings, base=Path("/"))
    return open_study(spec, _PROGRAM, *judges(spec))


def make_study(url: str, num_finished: int, num_free: int, *, sampler: str, pruner: str) -> None:
    """Fill an empty database with a study; nobody is connected to it afterwards.

    Args:
        url: The database.
        num_finished: How many of its trials are finished.
        num_free: How many are not begun.
        sampler: By name.
        pruner: By name.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        SignalWatch() as signals,
        open_new(keys(url, _NUM_REAL, sampler, pruner)) as opened,
    ):
        UntrainedWorker(opened, signals, Path(folder), states=True).run()
        spec = opened.spec
    engine = open_engine(url)
    with writing(engine) as connection:
        _copy(connection, range(_NUM_REAL, num_finished), spec)
    engine.dispose()
    open_new(keys(url, num_finished + num_free, sampler, pruner)).close()
    if engine.dialect.name == "postgresql":  # which otherwise plans for a table as small as it was
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _copy(connection: Connection, numbers: range, spec: StudySpec) -> None:
    rng = random.Random(0)
    levels = {number: rng.random() for number in numbers}
    params = _draw(numbers, distributions(spec))
    _copy_ours(connection, levels, params)
    _copy_optunas(connection, levels, params, distributions(spec))


def _draw(numbers: Iterable[int], space: Mapping[str, BaseDistribution]) -> dict[int, dict[str, Any]]:
    sampler = RandomSampler(seed=0)
    return {
        # A random sampler looks at neither a study nor a trial.
        number: {name: sampler.sample_independent(None, None, name, space[name]) for name in space}  # type: ignore[arg-type]
        for number in numbers
    }


def _curve(level: float, virtual_epoch: int) -> float:
    """Positive, so worse than whatever a trial without training reports."""
    return level + 0.5 / virtual_epoch


# --- our tables ---------------------------------------------------------------------------


def _copy_ours(connection: Connection, levels: Mapping[int, float], params: Mapping[int, Mapping[str, Any]]) -> None:
    (trial,) = _rows(connection, tables.trials, tables.trials.c.number, _NUM_REAL - 1)
    assert trial["phase"] == TrialPhase.TOLD, "the real trials were not told"
    study = trial["study"]
    outcome = unseal(trial["outcome_json"], "outcome", study, _NUM_REAL - 1)
    values = {number: _curve(level, VIRTUAL_EPOCHS) for number, level in levels.items()}
    own = (
        {
            "number": number,
            "token": f"{number:032}",
            "params_json": seal(params[number], "params", study, number),
            "value": value,
            "outcome_json": seal(outcome | {"value": value}, "outcome", study, number),
        }
        for number, value in values.items()
    )
    _insert(connection, tables.trials, (trial | changes for changes in own))
    events = _rows(connection, tables.events, tables.events.c.number, _NUM_REAL - 1)
    _insert(connection, tables.events, (row | {"number": number} for number in levels for row in events))
    reports = _rows(connection, tables.records, tables.records.c.number, _NUM_REAL - 1)
    own_reports = (
        report_of(row, number, _curve(level, row["virtual_epoch"]))
        for number, level in levels.items()
        for row in reports
    )
    _insert(connection, tables.records, own_reports)
    checkpoints = tables.checkpoints
    query = select(checkpoints.c.checkpoint_id).where(checkpoints.c.number == _NUM_REAL - 1)
    for checkpoint_id in connection.execute(query).scalars().all():
        _copy_checkpoint(connection, checkpoint_id, levels)


def report_of(row: Mapping[str, Any], number: int, value: float | None = None) -> dict[str, Any]:
    """Another trial's report, the same but for its seal, and for its metrics if a value for them is given."""
    metrics = unseal(row["metrics_json"], *sealed_place(row))
    if value is not None:
        metrics = dict.fromkeys(metrics, value)
    own = {**row, "number": number}
    return own | {"metrics_json": seal(metrics, *sealed_place(own))}


def _copy_checkpoint(connection: Connection, checkpoint_id: int, numbers: Iterable[int]) -> None:
    """Rows as they would be; the bytes are not what their hashes say, but those of finished trials are not read."""
    checkpoints, blobs, chunks, links = tables.checkpoints, tables.blobs, tables.blob_chunks, tables.checkpoint_blobs
    (checkpoint,) = _rows(connection, checkpoints, checkpoints.c.checkpoint_id, checkpoint_id)
    _insert(connection, checkpoints, (checkpoint | {"number": number} for number in numbers))
    at = checkpoints.c.virtual_epoch == checkpoint["virtual_epoch"]
    query = select(checkpoints.c.number, checkpoints.c.checkpoint_id).where(at)
    ids: dict[int, int] = dict(map(tuple, connection.execute(query)))
    for link in _rows(connection, links, links.c.checkpoint_id, checkpoint_id):
        (blob,) = _rows(connection, blobs, blobs.c.blob_id, link["blob_id"])
        (chunk,) = _rows(connection, chunks, chunks.c.blob_id, link["blob_id"])
        mark = f"copy of {link['blob_id']} for "
        _insert(connection, blobs, (blob | {"hash": f"{mark}{number}"} for number in numbers))
        query = select(blobs.c.hash, blobs.c.blob_id).where(blobs.c.hash.like(f"{mark}%"))
        copies = {int(name.removeprefix(mark)): blob_id for name, blob_id in connection.execute(query)}
        _insert(connection, chunks, (chunk | {"blob_id": blob_id} for blob_id in copies.values()))
        _insert(connection, links, ({"checkpoint_id": ids[number], "blob_id": copies[number]} for number in numbers))


# --- Optuna's tables ----------------------------------------------------------------------


def _copy_optunas(
    connection: Connection,
    levels: Mapping[int, float],
    params: Mapping[int, Mapping[str, Any]],
    space: Mapping[str, BaseDistribution],
) -> None:
    metadata = MetaData()
    metadata.reflect(connection)
    trials = metadata.tables["trials"]
    (trial,) = _rows(connection, trials, trials.c.number, _NUM_REAL - 1)
    _insert(connection, trials, (trial | {"number": number} for number in levels))
    ids: dict[int, int] = dict(map(tuple, connection.execute(select(trials.c.number, trials.c.trial_id))))

    def children(name: str, **changes: Callable[[float, Mapping[str, Any]], Any]) -> None:
        table = metadata.tables[name]
        rows = _rows(connection, table, table.c.trial_id, ids[_NUM_REAL - 1])
        copies = (
            row | {"trial_id": ids[number]} | {column: of(level, row) for column, of in changes.items()}
            for number, level in levels.items()
            for row in rows
        )
        _insert(connection, table, copies)

    children("trial_user_attributes")
    children("trial_system_attributes")
    children("trial_intermediate_values", intermediate_value=lambda level, row: _curve(level, row["step"]))
    children("trial_values", value=lambda level, row: _curve(level, VIRTUAL_EPOCHS))
    texts = {name: distribution_to_json(distribution) for name, distribution in space.items()}
    drawn = (
        {
            "trial_id": ids[number],
            "param_name": name,
            "param_value": space[name].to_internal_repr(value),
            "distribution_json": texts[name],
        }
        for number, own in params.items()
        for name, value in own.items()
    )
    _insert(connection, metadata.tables["trial_params"], drawn)


# --- rows ---------------------------------------------------------------------------------


def _rows(connection: Connection, table: Table, column: Column[Any], value: object) -> list[dict[str, Any]]:
    """Rows without the id that the database gives them, in the order they were made."""
    key = list(table.primary_key)
    given = {key[0].name} if len(key) == 1 else set()
    found = connection.execute(select(table).where(column == value).order_by(*key)).mappings()
    return [{name: row[name] for name in row if name not in given} for row in found]


def _insert(connection: Connection, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    while some := list(islice(rows, 10_000)):
        connection.execute(insert(table), some)
