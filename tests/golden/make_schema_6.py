"""Makes ``schema_6.db`` and the packs beside it: schema 5's study, and one of whose states small tensors are merged.

Run once, when schema 6 was released: ``python tests/golden/make_schema_6.py``. They are committed
and never made again; later versions must open them and find everything in them.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden import make_schema_3
from tests.golden.make_schema_1 import OWNER
from tunesafe.contracts import Position, Snapshot, TensorBytes
from tunesafe.store import claims, studies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.packs import packs_beside

MERGED = "0" * 31 + "6"
FROZEN = bytes(range(100))


def state(virtual_epoch: int) -> Snapshot:
    """Four tensors: one frozen, and three that change; of these one has changed for the first time at the end."""
    changing = [bytes([virtual_epoch, index] * 50) for index in range(2)]
    late = bytes([0 if virtual_epoch < 3 else 1] * 100)
    tensors = [
        TensorBytes(f"model/{index}", "uint8", (len(data),), memoryview(data))
        for index, data in enumerate([FROZEN, *changing, late])
    ]
    return Snapshot(Position(10 * virtual_epoch, virtual_epoch), '{"model": {}}', tuple(tensors))


def make(path: Path) -> None:
    """Write the database, then a study of two trials: one's states are in rows, the other's in packs."""
    make_schema_3.make(path)
    engine = open_engine(f"sqlite:///{path}")
    with writing(engine) as connection:
        studies.create_study(
            connection,
            uuid=MERGED,
            name="merged",
            direction="minimize",
            spec_json='{"name": "merged"}',
            source_text="name: merged\n",
            fingerprint={"sources": "abc"},
            environment={"torch": "2.13"},
        )
        studies.ensure_numbers(connection, MERGED, 2)
        for number in range(2):
            claims.claim_free(connection, MERGED, number, 2, OWNER, 60.0)
    for number, small_bytes in ((0, 1 << 20), (1, 0)):
        store = CheckpointStore(engine, MERGED, packs_beside(engine.url), small_bytes)
        for virtual_epoch in (1, 2, 3):
            store.save(state(virtual_epoch), number=number, fence=1)
    engine.dispose()


if __name__ == "__main__":
    make(Path(__file__).with_name("schema_6.db"))
