"""The checkpoints of a stored study, for who looks at them: listed, taken apart, verified byte by byte.

Reads only, imports neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from tunesafe.api.stored import StoredStudy
from tunesafe.contracts import CheckpointInfo
from tunesafe.errors import DamagedError, SpecError, TunesafeError
from tunesafe.store import inventory
from tunesafe.store.blobs import StoredBytes
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.manifests import TensorEntry, read_manifest, tensors_of
from tunesafe.store.migrations import is_ours
from tunesafe.store.retention import at_end_of
from tunesafe.store.trial_rows import trial_rows

__all__ = [
    "CheckpointContent",
    "CheckpointList",
    "CheckpointView",
    "PruneResult",
    "VerifiedCheckpoint",
    "checkpoint_content",
    "list_checkpoints",
    "verify_checkpoints",
    "view_checkpoints",
]


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """One checkpoint.

    Args:
        number: The trial it belongs to.
        virtual_epoch: The last one that has ended in it.
        examples_seen: Where in training it was taken [examples].
        num_bytes: Size of its state [bytes].
        own_bytes: How much of that no other checkpoint holds, so that it would be free without it [bytes].
        created: When it was made, UTC.
        selected: Whether the value its trial ended with is of it.
        weights_only: Whether all but the weights has been given up: enough to export.
    """

    number: int
    virtual_epoch: int
    examples_seen: int
    num_bytes: int
    own_bytes: int
    created: datetime
    selected: bool
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointList:
    """A study's checkpoints, or one trial's, and what the study's are in all.

    Args:
        checkpoints: By trial, the newest of each first.
        num_bytes: Of the listed states, each counted in full [bytes].
        stored: What all states of the study take, each content once, and where.
        blobs: Where its packs are, if not beside its database.
    """

    checkpoints: tuple[CheckpointView, ...]
    num_bytes: int
    stored: StoredBytes
    blobs: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointContent:
    """What one checkpoint consists of.

    Args:
        checkpoint: Which one.
        structure_hash: The name of the bytes of its structure, everything that is no tensor.
        structure_bytes: How many they are.
        tensors: Its tensors, in the order of the state.
    """

    checkpoint: CheckpointView
    structure_hash: str
    structure_bytes: int
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that has been read to its last byte.

    Args:
        number: The trial it belongs to.
        virtual_epoch: The last one that has ended in it.
        examples_seen: Where in training it was taken [examples].
        num_bytes: Size of its state [bytes].
        damage: What is not as it was written, a message; ``None`` if it is intact.
        weights_only: Whether all but the weights has been given up.
    """

    number: int
    virtual_epoch: int
    examples_seen: int
    num_bytes: int
    damage: str | None
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What pruning a study's checkpoints removed, or would remove.

    Args:
        removed: The checkpoints, as they were.
        freed: The bytes of theirs nobody else holds, and those that killed processes had left behind.
        dry_run: Whether it only would; the bytes are then an estimate, without what ``thinned`` frees.
        thinned: The checkpoints of which only the weights are kept from now on, as they were.
        blobs: Where the study's packs are, if not beside its database.
    """

    removed: tuple[CheckpointView, ...]
    freed: StoredBytes
    dry_run: bool
    thinned: tuple[CheckpointView, ...] = ()
    blobs: str | None = None


def list_checkpoints(stored: StoredStudy, number: int | None = None) -> CheckpointList:
    """The checkpoints there are, in a study or of one trial.

    Raises:
        SpecError: If there is no such trial, or it has not begun.
    """
    with _store(stored, number) as store:
        infos = store.infos(number)
    with stored.opened() as (connection, row):
        views = view_checkpoints(connection, row.uuid, infos, number)
        total = inventory.stored_bytes(connection, row.uuid)
    return CheckpointList(tuple(views.values()), sum(info.num_bytes for info in infos), total, stored.spec().blobs)


def checkpoint_content(stored: StoredStudy, number: int, virtual_epoch: int | None = None) -> CheckpointContent:
    """What a trial's newest checkpoint consists of, or the one at the end of a virtual epoch.

    Raises:
        SpecError: If there is no such trial or no such checkpoint; the message names those there are.
        DamagedError: If the list of its tensors is not what was written.
    """
    with _store(stored, number) as store:
        infos = store.infos(number)
        info = next(iter(infos), None) if virtual_epoch is None else at_end_of(infos, virtual_epoch)
        if info is None:
            raise SpecError(_no_checkpoint(number, virtual_epoch, infos))
        manifest = store.manifest(info)
    with stored.opened() as (connection, row):
        views = view_checkpoints(connection, row.uuid, infos, number)
    structure = read_manifest(manifest).structure
    return CheckpointContent(
        views[info.checkpoint_id], structure.blob, structure.num_bytes, tuple(tensors_of(manifest))
    )


def verify_checkpoints(stored: StoredStudy, number: int | None = None) -> Iterator[VerifiedCheckpoint]:
    """Read every checkpoint to its last byte and compare it with its hash; nothing is changed.

    Each is given as soon as it is read. One that a running study removes meanwhile is left out.

    Raises:
        SpecError: If there is no such trial, or it has not begun.
    """
    with _store(stored, number) as store:
        for info in store.infos(number):
            damage = None
            try:
                store.load(info)
            except TunesafeError as error:
                if info not in store.infos(info.number):
                    continue  # what is read in mid-removal looks damaged, and is only gone
                if not isinstance(error, DamagedError):
                    raise
                damage = str(error)
            position = info.position
            where = (info.number, position.virtual_epoch, position.examples_seen)
            yield VerifiedCheckpoint(*where, info.num_bytes, damage, info.weights_only)


def view_checkpoints(
    connection: Connection, uuid: str, infos: Sequence[CheckpointInfo], number: int | None = None
) -> dict[int, CheckpointView]:
    """What a reader is shown of checkpoints, by their ids.

    Args:
        connection: In a transaction.
        uuid: The study.
        infos: All checkpoints of the trial, or of all trials.
        number: The trial, if they are of one only.
    """
    own = inventory.bytes_of_each_alone(connection, uuid, number)
    selected = _selected(connection, uuid, infos)
    return {
        info.checkpoint_id: CheckpointView(
            number=info.number,
            virtual_epoch=info.position.virtual_epoch,
            examples_seen=info.position.examples_seen,
            num_bytes=info.num_bytes,
            own_bytes=own.get(info.checkpoint_id, 0),
            created=datetime.fromtimestamp(info.created_at, UTC),
            selected=info.checkpoint_id in selected,
            weights_only=info.weights_only,
        )
        for info in infos
    }


def _selected(connection: Connection, uuid: str, infos: Sequence[CheckpointInfo]) -> set[int]:
    by_trial: dict[int, list[CheckpointInfo]] = {}
    for info in infos:
        by_trial.setdefault(info.number, []).append(info)
    found = (
        at_end_of(by_trial.get(row.number, ()), row.outcome.selected_virtual_epoch)
        for row in trial_rows(connection, uuid)
        if row.outcome is not None
    )
    return {info.checkpoint_id for info in found if info is not None}


@contextmanager
def _store(stored: StoredStudy, number: int | None) -> Iterator[CheckpointStore]:
    """The checkpoints, for reading; refuses a trial that is not there."""
    with stored.opened() as (connection, _):
        is_ours(connection)
    if number is not None:
        stored.trial(number)
    with stored.checkpoint_store() as store:
        yield store


def _no_checkpoint(number: int, virtual_epoch: int | None, infos: Sequence[CheckpointInfo]) -> str:
    if not infos:
        return f"Trial {number} has no checkpoint. Those of trials that were pruned or failed are not kept."
    there = ", ".join(str(epoch) for epoch in sorted({info.position.virtual_epoch for info in infos}))
    return f"Trial {number} has no checkpoint of virtual epoch {virtual_epoch}. It has those of virtual epoch {there}."
