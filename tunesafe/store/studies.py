"""What is known of a study as a whole, and which numbers it has.

A study has one name in its database and one UUID for ever. What the first worker settles for
all later ones (the length of a pass, the threads of a worker) is a conditional update: the first
wins, everybody reads the winner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Row, case, delete, func, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError

from tunesafe.contracts import TrialPhase
from tunesafe.errors import StorageError, TunesafeError
from tunesafe.store.engine import database_now
from tunesafe.store.sealing import moment, real, row_intact, seal, unseal, whole
from tunesafe.store.tables import sources, studies, trials

__all__ = [
    "DuplicateStudyError",
    "RevisionConflictError",
    "StudyRow",
    "beat_study",
    "create_study",
    "drop_free_numbers",
    "ensure_numbers",
    "find_study",
    "has_begun",
    "load_sources",
    "replace_spec",
    "revision_of",
    "save_sources",
    "settle_examples_per_pass",
    "settle_threads",
    "study_names",
]


class DuplicateStudyError(TunesafeError):
    """A study of this name is there already: another process created it first. Find it and go on."""


class RevisionConflictError(TunesafeError):
    """The study changed since its revision was read. Read it again and decide again."""


_MOST_EXAMPLES, _MOST_THREADS = 1 << 62, 1 << 16


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study as our own table has it.

    Args:
        uuid: Its identity, 32 hexadecimal digits.
        name: Unique in its database, at most 255 characters.
        direction: ``minimize`` or ``maximize``.
        spec_json: The resolved study file, in the spec's own JSON.
        source_text: The study file as it was written.
        fingerprint: What a resumption is compared with (file, sources, data length).
        environment: Library versions, processor, … of the first run.
        revision: Grows with every accepted change.
        examples_per_pass: Settled by the first trial [examples].
        threads_per_worker: Settled by the first run.
        live_seconds: Time with a live lease, summed over restarts [seconds].
        created_at: Database time [seconds since the epoch].
    """

    uuid: str
    name: str
    direction: str
    spec_json: str
    source_text: str
    fingerprint: Mapping[str, Any]
    environment: Mapping[str, Any]
    revision: int
    examples_per_pass: int | None
    threads_per_worker: int | None
    live_seconds: float
    created_at: float


def create_study(
    connection: Connection,
    *,
    uuid: str,
    name: str,
    direction: str,
    spec_json: str,
    source_text: str,
    fingerprint: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> StudyRow:
    """Insert a new study at revision 1.

    Raises:
        DuplicateStudyError: If the name (or UUID) is taken; on servers the transaction is then over.
    """
    row = StudyRow(
        uuid,
        name,
        direction,
        spec_json,
        source_text,
        dict(fingerprint),
        dict(environment),
        1,
        None,
        None,
        0.0,
        database_now(connection),
    )
    values = {
        "uuid": uuid,
        "name": name,
        "direction": direction,
        "spec_json": spec_json,
        "source_text": source_text,
        "fingerprint_json": seal(fingerprint, "study", uuid, direction, spec_json, source_text),
        "environment_json": seal(environment, "environment", uuid),
        "revision": 1,
        "live_seconds": 0.0,
        "created_at": row.created_at,
    }
    try:
        connection.execute(insert(studies).values(values))
    except IntegrityError as error:
        raise DuplicateStudyError(f"There is a study {name!r} in this database already; it was not changed.") from error
    return row


def find_study(connection: Connection, name: str) -> StudyRow | None:
    """The study of this name, if there is one."""
    row = connection.execute(select(studies).where(studies.c.name == name)).one_or_none()
    return None if row is None else _study_row(row)


def study_names(connection: Connection) -> list[str]:
    """The names of all studies in the database, sorted."""
    return [str(name) for name in connection.execute(select(studies.c.name).order_by(studies.c.name)).scalars()]


def has_begun(connection: Connection, name: str) -> bool:
    """Whether there is a study of ours of this name, of whatever schema: older ones are read only once upgraded."""
    return inspect(connection).has_table(studies.name) and name in study_names(connection)


def revision_of(connection: Connection, uuid: str, *, lock: bool = False) -> int:
    """The study's revision now; a worker that runs an older one stops.

    With ``lock`` it stays that until this transaction ends.

    Raises:
        StorageError: If the study is gone.
    """
    query = select(studies.c.revision).where(studies.c.uuid == uuid)
    revision = connection.execute(query.with_for_update(read=True) if lock else query).scalar_one_or_none()
    if revision is None:
        raise _gone(uuid)
    return int(revision)


def replace_spec(
    connection: Connection,
    uuid: str,
    expected_revision: int,
    *,
    direction: str,
    spec_json: str,
    source_text: str,
    fingerprint: Mapping[str, Any],
    threads_per_worker: int | None = None,
) -> int:
    """Put an accepted change in place of the study's spec, if nobody else did meanwhile.

    ``threads_per_worker`` is changed only if it is given.

    Returns:
        The new revision.

    Raises:
        RevisionConflictError: If the study is not at ``expected_revision`` any more.
    """
    threads = {} if threads_per_worker is None else {"threads_per_worker": threads_per_worker}
    result = connection.execute(
        update(studies)
        .where(studies.c.uuid == uuid, studies.c.revision == expected_revision)
        .values(
            direction=direction,
            spec_json=spec_json,
            source_text=source_text,
            fingerprint_json=seal(fingerprint, "study", uuid, direction, spec_json, source_text),
            revision=expected_revision + 1,
            **threads,
        )
    )
    if result.rowcount != 1:
        raise RevisionConflictError("Another process changed the study at the same time; this change was not applied.")
    return expected_revision + 1


def settle_examples_per_pass(connection: Connection, uuid: str, num_examples: int) -> int:
    """Fix the length of a pass if nobody has; return the settled length [examples]."""
    return _settle(connection, uuid, studies.c.examples_per_pass, num_examples)


def settle_threads(connection: Connection, uuid: str, num_threads: int) -> int:
    """Fix the threads of a worker if nobody has; return the settled number."""
    return _settle(connection, uuid, studies.c.threads_per_worker, num_threads)


def _settle(connection: Connection, uuid: str, column: Column[int], value: int) -> int:
    connection.execute(update(studies).where(studies.c.uuid == uuid, column.is_(None)).values({column: value}))
    settled = connection.execute(select(column).where(studies.c.uuid == uuid)).scalar_one_or_none()
    if settled is None:
        raise _gone(uuid)
    return int(settled)


def ensure_numbers(connection: Connection, uuid: str, n_trials: int) -> None:
    """Give every number below ``n_trials`` a row, free where it is new."""
    _lock(connection, uuid)
    there = set(connection.execute(select(trials.c.number).where(trials.c.study == uuid)).scalars())
    new = {"study": uuid, "phase": TrialPhase.FREE, "attempt": 0, "fence": 0, "lease_expires_at": 0.0}
    new |= {"examples_seen": 0, "deaths": 0}
    rows = [new | {"number": number} for number in range(n_trials) if number not in there]
    if rows:
        connection.execute(insert(trials), rows)


def drop_free_numbers(connection: Connection, uuid: str, n_trials: int) -> int | None:
    """Remove free numbers from ``n_trials`` on; return the highest number that was ever claimed."""
    _lock(connection, uuid)
    connection.execute(
        delete(trials).where(trials.c.study == uuid, trials.c.number >= n_trials, trials.c.phase == TrialPhase.FREE)
    )
    return connection.execute(
        select(func.max(trials.c.number)).where(trials.c.study == uuid, trials.c.phase != TrialPhase.FREE)
    ).scalar_one_or_none()


def save_sources(connection: Connection, uuid: str, fingerprint: str, files: Mapping[str, str]) -> None:
    """Keep the source files behind a fingerprint, by path relative to the study file; once."""
    _lock(connection, uuid)
    there = select(sources.c.path).where(sources.c.study == uuid, sources.c.fingerprint == fingerprint).limit(1)
    if files and connection.execute(there).first() is None:
        rows = [{"study": uuid, "fingerprint": fingerprint, "path": p, "text": t} for p, t in sorted(files.items())]
        connection.execute(insert(sources), rows)


def load_sources(connection: Connection, uuid: str, fingerprint: str) -> dict[str, str]:
    """The source files kept under a fingerprint, by path; empty if there are none."""
    query = select(sources.c.path, sources.c.text).where(sources.c.study == uuid, sources.c.fingerprint == fingerprint)
    return {row.path: row.text for row in connection.execute(query.order_by(sources.c.path))}


def beat_study(connection: Connection, uuid: str, now: float, lease_seconds: float) -> float:
    """Count the time since the last beat as lived, if a lease can have been live all the while.

    Every worker beats; the study's time is their union, summed over restarts.

    ``now`` is the database's time [seconds since the epoch]; a silence longer than ``lease_seconds``
    was a time without workers. Returns the study's time so far [seconds].
    """
    since, beat_at = now - studies.c.beat_at, studies.c.beat_at
    lived = case(((beat_at.is_not(None)) & (since > 0) & (since <= lease_seconds), since), else_=0.0)
    # A beat a little older than the last one is a race; one much older is a clock that was set back.
    newest = case(((beat_at > now) & (beat_at <= now + lease_seconds), beat_at), else_=now)
    # MySQL evaluates left to right, and the first must see the old beat.
    connection.execute(
        update(studies)
        .where(studies.c.uuid == uuid)
        .ordered_values((studies.c.live_seconds, studies.c.live_seconds + lived), (beat_at, newest))
    )
    query = select(studies.c.live_seconds).where(studies.c.uuid == uuid)
    return float(connection.execute(query).scalar_one_or_none() or 0.0)


def _lock(connection: Connection, uuid: str) -> None:
    locked = select(studies.c.uuid).where(studies.c.uuid == uuid).with_for_update()
    if connection.execute(locked).first() is None:
        raise _gone(uuid)


def _gone(uuid: str) -> StorageError:
    return StorageError(f"The study {uuid} is no longer in its database: somebody removed it. Nothing was written.")


def _study_row(row: Row[Any]) -> StudyRow:
    with row_intact(f"The study {row.name!r}"):
        place = ("study", row.uuid, row.direction, row.spec_json, row.source_text)
        fingerprint = unseal(row.fingerprint_json, *place)
        environment = unseal(row.environment_json, "environment", row.uuid)
        whole(row.revision)
        real(row.live_seconds)
        moment(row.created_at)
        for settled, most in ((row.examples_per_pass, _MOST_EXAMPLES), (row.threads_per_worker, _MOST_THREADS)):
            if settled is not None and not 1 <= whole(settled) <= most:
                raise ValueError(f"{settled} is not between 1 and {most}")
    return StudyRow(
        uuid=row.uuid,
        name=row.name,
        direction=row.direction,
        spec_json=row.spec_json,
        source_text=row.source_text,
        fingerprint=fingerprint,
        environment=environment,
        revision=row.revision,
        examples_per_pass=row.examples_per_pass,
        threads_per_worker=row.threads_per_worker,
        live_seconds=row.live_seconds,
        created_at=row.created_at,
    )
