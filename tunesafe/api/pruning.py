"""Removing the checkpoints a study does not ask to keep, by hand and while others work on it.

Decides and removes with the functions of a worker, under the same locks; only trials that are over
are looked at, so nothing a live trial could go on from is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import Connection

from tunesafe.api.checkpoints import PruneResult, view_checkpoints
from tunesafe.api.stored import StoredStudy
from tunesafe.contracts import CheckpointInfo, Event
from tunesafe.errors import DamagedError
from tunesafe.state.weights import weights_in
from tunesafe.store import inventory
from tunesafe.store.blobs import StoredBytes
from tunesafe.store.checkpoint_rows import is_there
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.damage import RemovedError
from tunesafe.store.depot_urls import packs_of
from tunesafe.store.engine import open_engine, read_only_engine, reading
from tunesafe.store.events import append_event
from tunesafe.store.migrations import is_ours
from tunesafe.study.patience import Patience
from tunesafe.study.retaining import Unneeded, unneeded_of_ended

__all__ = ["prune_checkpoints"]


def prune_checkpoints(stored: StoredStudy, *, dry_run: bool = False) -> PruneResult:
    """Apply ``checkpoint.keep`` to trials that are over, and sweep what killed processes left behind.

    The rules are those the study last ran with. Every trial that loses something gets an event.

    Args:
        stored: The study.
        dry_run: Only say what would be removed.

    Raises:
        StorageError: If there is no such study, or its database cannot be written. What is removed
            by then is what was to be; the same command goes on.
    """
    with stored.opened() as (connection, row):
        is_ours(connection)
    spec = stored.spec()
    engine = read_only_engine(stored.url) if dry_run else open_engine(stored.url)
    try:
        packs = packs_of(engine.url, row.uuid, spec.blobs)
        store = CheckpointStore(engine, row.uuid, packs)
        unneeded = unneeded_of_ended(engine, row.uuid, spec, store)
        thinnable = [info for info in unneeded.thinnable if _has_more_than_weights(store, info)]
        with reading(engine) as connection:
            views = view_checkpoints(connection, row.uuid, store.infos())
            freed = inventory.bytes_of_these_alone(connection, [info.checkpoint_id for info in unneeded.surplus])
            freed += inventory.left_behind(connection, row.uuid, packs)
        removed, thinned = (
            tuple(views[info.checkpoint_id] for info in infos if info.checkpoint_id in views)
            for infos in (unneeded.surplus, thinnable)
        )
        if not dry_run:
            what = Unneeded(unneeded.surplus, tuple(thinnable))
            freed = _remove(row.uuid, store, what, Patience(spec.storage_timeout))
    finally:
        engine.dispose()
    return PruneResult(removed, freed, dry_run, thinned, spec.blobs)


def _has_more_than_weights(store: CheckpointStore, info: CheckpointInfo) -> bool:
    with suppress(DamagedError, RemovedError):
        return bool(store.weights(info, weights_in))
    return False


def _remove(uuid: str, store: CheckpointStore, unneeded: Unneeded, patience: Patience) -> StoredBytes:
    # Trial by trial: a worker that waits for the database's lock meanwhile is let in between.
    freed = StoredBytes()
    for number, infos in _by_trial(unneeded.surplus).items():
        ids = [info.checkpoint_id for info in infos]
        freed += patience(store.remove, ids, _note(uuid, number, infos, patience, weights_kept=False))
    for info in unneeded.thinnable:
        with suppress(DamagedError, RemovedError):
            note = _note(uuid, info.number, [info], patience, weights_kept=True)
            freed += patience(store.keep_weights, info, weights_in, note)
    return freed + patience(store.sweep_orphans)


def _by_trial(infos: Sequence[CheckpointInfo]) -> dict[int, list[CheckpointInfo]]:
    by_trial: dict[int, list[CheckpointInfo]] = {}
    for info in infos:
        by_trial.setdefault(info.number, []).append(info)
    return by_trial


def _note(
    uuid: str, number: int, infos: Sequence[CheckpointInfo], patience: Patience, *, weights_kept: bool
) -> Callable[[Connection], None]:
    """Keeps, in the transaction that removes checkpoints of a trial, which ones they were."""
    epochs = sorted({info.position.virtual_epoch for info in infos})
    event = Event("checkpoints_pruned", number, {"virtual_epochs": epochs, "weights_kept": weights_kept})

    def note(connection: Connection) -> None:
        if any(is_there(connection, info) for info in infos):
            append_event(connection, uuid, event, again=patience.repeating)

    return note
