"""Removing the checkpoints a study does not ask to keep, by hand and while others work on it.

Decides and removes with the functions of a worker, under the same locks; only trials that are over
are looked at, so nothing a live trial could go on from is touched.
"""

from __future__ import annotations

from tunesafe.api.checkpoints import PruneResult, view_checkpoints
from tunesafe.api.stored import StoredStudy
from tunesafe.contracts import CheckpointInfo
from tunesafe.store import inventory
from tunesafe.store.blobs import StoredBytes
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, read_only_engine, reading
from tunesafe.store.migrations import is_ours
from tunesafe.store.packs import packs_beside
from tunesafe.study.patience import Patience
from tunesafe.study.retaining import surplus_of_ended

__all__ = ["prune_checkpoints"]


def prune_checkpoints(stored: StoredStudy, *, dry_run: bool = False) -> PruneResult:
    """Apply ``checkpoint.keep`` to trials that are over, and sweep what killed processes left behind.

    The rules are those the study last ran with.

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
        packs = packs_beside(engine.url)
        store = CheckpointStore(engine, row.uuid, packs)
        unwanted = surplus_of_ended(engine, row.uuid, spec, store)
        with reading(engine) as connection:
            views = view_checkpoints(connection, row.uuid, store.infos())
            freed = inventory.bytes_of_these_alone(connection, [info.checkpoint_id for info in unwanted])
            freed += inventory.left_behind(connection, row.uuid, packs)
        removed = tuple(views[info.checkpoint_id] for info in unwanted if info.checkpoint_id in views)
        if not dry_run:
            freed = _remove(store, unwanted, Patience(spec.storage_timeout))
    finally:
        engine.dispose()
    return PruneResult(removed, freed, dry_run)


def _remove(store: CheckpointStore, unwanted: list[CheckpointInfo], patience: Patience) -> StoredBytes:
    # Trial by trial: a worker that waits for the database's lock meanwhile is let in between.
    by_trial: dict[int, list[int]] = {}
    for info in unwanted:
        by_trial.setdefault(info.number, []).append(info.checkpoint_id)
    freed = StoredBytes()
    for ids in by_trial.values():
        freed += patience(store.remove, ids)
    return freed + patience(store.sweep_orphans)
