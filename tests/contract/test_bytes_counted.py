"""What the store promises on every database: bytes are counted as they are stored, and freed as they were counted."""

from __future__ import annotations

import os

from sqlalchemy import Engine

from tests.unit.store.samples import claimed_study, snapshot
from tunesafe.store import blobs, inventory
from tunesafe.store.blobs import StoredBytes
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import read_only_engine, reading, writing
from tunesafe.store.hashing import state_hash
from tunesafe.store.packs import packs_beside
from tunesafe.store.tables import blob_chunks

LARGE = 3 << 20


def test_what_was_counted_is_what_is_freed(engine: Engine) -> None:
    """What each holds alone, what two hold together, what nobody names any more; a reader may count all of it."""
    study, _ = claimed_study(engine)
    packs = packs_beside(engine.url)
    store = CheckpointStore(engine, study, packs)
    tensors = ([b"s" * 100, b"a" * 10], [b"s" * 100, b"b" * 20], [b"c" * 7, os.urandom(LARGE)])
    infos = [store.save(snapshot(epoch, each), number=0, fence=1) for epoch, each in enumerate(tensors, start=1)]
    ids = [info.checkpoint_id for info in infos]
    data = memoryview(b"unnamed")
    with writing(engine) as connection:
        blobs.write_blobs(connection, study, [blobs.Content(state_hash(data), len(data), (data,))])
        connection.execute(blob_chunks.insert().values(blob_id=12345, seq=0, data=b"\0\1\2"))
    reader = read_only_engine(engine.url)
    try:
        with reading(reader) as connection:
            alone = inventory.bytes_of_each_alone(connection, study)
            pair = inventory.bytes_of_these_alone(connection, ids[:2])
            left = inventory.left_behind(connection, study, packs, -1)
            total = inventory.stored_bytes(connection, study)
    finally:
        reader.dispose()
    assert alone == dict(zip(ids, (10, 20, 7 + LARGE), strict=True))
    assert pair == StoredBytes(in_database=100 + 10 + 20)
    assert left == StoredBytes(in_database=7 + 3)
    assert total.in_database + total.in_packs == 2 + 100 + 10 + 20 + 7 + 7 + LARGE
    assert store.remove(ids[:2]) == pair
    assert store.sweep_orphans(-1) == left
    freed = store.remove(ids[2:])
    assert freed.in_database + freed.in_packs == 2 + 7 + LARGE
    with reading(engine) as connection:
        assert inventory.stored_bytes(connection, study) == StoredBytes()
