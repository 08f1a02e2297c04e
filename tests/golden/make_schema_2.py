"""Makes ``schema_2.db`` and the pack beside it: the same study, its state in a pack.

Run once, when schema 2 was released: ``python tests/golden/make_schema_2.py``. Both are committed
and never made again; later versions must open them and find everything in them.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete

from tests.golden import make_schema_1
from tunesafe.store import tables
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.packs import packs_beside


def make(path: Path) -> None:
    """Write the database, then its state again as a large one."""
    make_schema_1.make(path)
    engine = open_engine(f"sqlite:///{path}")
    with writing(engine) as connection:
        for table in (tables.checkpoint_blobs, tables.checkpoints, tables.blob_chunks, tables.blobs):
            connection.execute(delete(table))
        claimed = tables.trials.update().where(tables.trials.c.number == 0)
        connection.execute(claimed.values(fence=1))
    store = CheckpointStore(engine, make_schema_1.STUDY, packs_beside(engine.url), small_bytes=0)
    store.save(make_schema_1.SNAPSHOT, number=0, fence=1)
    engine.dispose()


if __name__ == "__main__":
    make(Path(__file__).with_name("schema_2.db"))
