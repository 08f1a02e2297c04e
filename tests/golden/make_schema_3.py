"""Makes ``schema_3.db`` and the pack beside it: the same study, of a state only the weights.

Run once, when schema 3 was released: ``python tests/golden/make_schema_3.py``. Both are committed
and never made again; later versions must open them and find everything in them.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden import make_schema_1, make_schema_2
from tunesafe.store import claims
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.packs import packs_beside


def make(path: Path) -> None:
    """Write the database, then give up all of its state but the weights: here all of its tensors."""
    make_schema_2.make(path)
    engine = open_engine(f"sqlite:///{path}")
    store = CheckpointStore(engine, make_schema_1.STUDY, packs_beside(engine.url))
    (info,) = store.infos()
    store.keep_weights(info, lambda structure: [0])
    with writing(engine) as connection:
        claims.mark_tidied(connection, make_schema_1.STUDY, 0)
    engine.dispose()


if __name__ == "__main__":
    make(Path(__file__).with_name("schema_3.db"))
