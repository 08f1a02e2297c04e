"""Blobs found damaged are written again by whoever saves the same bytes, by several at once too."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update

from tests.unit.store.samples import claim, new_study, snapshot
from tunesafe.store import inventory
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.depot_urls import packs_of
from tunesafe.store.engine import reading, writing
from tunesafe.store.packs import packs_beside
from tunesafe.store.tables import blobs


@pytest.mark.parametrize("size", [1000, 700_000], ids=["small", "large"])
def test_workers_that_save_the_same_damaged_bytes_at_once_all_succeed(engine: Engine, size: int) -> None:
    """One of them heals the bytes, for all checkpoints; nobody waits for another in a circle, or fails."""
    with writing(engine) as connection:
        study = new_study(connection, n_trials=4)
        fences = {number: claim(connection, study, number).fence for number in range(4)}
    store = CheckpointStore(engine, study, packs_beside(engine.url))
    tensors = [os.urandom(size) for _ in range(3)]
    store.save(snapshot(1, tensors), number=0, fence=fences[0])
    for turn in range(2, 5):
        with writing(engine) as connection:
            connection.execute(update(blobs).values(intact=0))
            connection.execute(text("DELETE FROM tunesafe_blob_chunks"))
        begin = threading.Barrier(len(fences))

        def save(number: int, turn: int = turn, begin: threading.Barrier = begin) -> None:
            begin.wait()
            store.save(snapshot(turn, tensors), number=number, fence=fences[number])

        with ThreadPoolExecutor(len(fences)) as pool:
            list(pool.map(save, fences))
        for info in store.infos():
            assert [bytes(tensor) for tensor in store.load(info).tensors if tensor is not None] == tensors


def test_small_pieces_keep_no_object_of_a_distant_place(engine: Engine, tmp_path: Path) -> None:
    """Not even where all that is new goes there: else each would hold bytes that nobody counts."""
    with writing(engine) as connection:
        study = new_study(connection)
        fence = claim(connection, study).fence
    store = CheckpointStore(engine, study, packs_of(engine.url, study, f"file://{tmp_path}/blobs"), small_bytes=0)
    constant = b"a small tensor that never changes"
    for virtual_epoch in range(1, 4):
        state = snapshot(virtual_epoch, [constant, os.urandom(100_000)])
        store.save(state, number=0, fence=fence, surplus=lambda infos: [info.checkpoint_id for info in infos])
    packs = list((tmp_path / "blobs").rglob("*.pack"))
    with reading(engine) as connection:
        stored = inventory.stored_bytes(connection, study)
    assert sum(file.stat().st_size for file in packs) == stored.in_packs == 100_000
    assert stored.in_database >= len(constant)
