"""Makes ``schema_1.db``: a study as tunesafe 0.1 left it, with something in every table.

Run once, when schema 1 was released: ``python tests/golden/make_schema_1.py``. The database is
committed and never made again; later versions must open it and find everything in it.
"""

from __future__ import annotations

from pathlib import Path

from tunesafe.contracts import (
    AttributeWrite,
    Ending,
    Event,
    LogChunk,
    Outcome,
    Owner,
    Parameter,
    Position,
    Record,
    Report,
    Snapshot,
    TensorBytes,
    TrialPhase,
    Verdict,
)
from tunesafe.store import claims, events, logs, records, studies
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.migrations import upgrade

STUDY = "0" * 31 + "1"
OWNER = Owner("golden", "machine", "boot", "pid:[1]", 4, 2)
PARAMS: dict[str, Parameter] = {"lr": 0.01, "batch_size": 32, "optimizer": "sgd", "nesterov": False, "clip": None}
OUTCOME = Outcome(Ending.COMPLETE, 0.25, 2, 20, None, {"test_loss": float("nan")}, None)
FAILED = Outcome(Ending.FAILED, None, None, 7, "ValueError: no", {}, "Traceback (most recent call last): …")
RECORD = Record(
    Report(2, 20, {"val_loss": 0.25, "inf": float("inf")}),
    Verdict.STOP,
    True,
    (AttributeWrite("completed_rung_0", 0.25),),
    attempt=1,
)
TENSORS = (TensorBytes("model/weight", "float32", (2, 2), memoryview(bytes(range(16)))),)
SNAPSHOT = Snapshot(Position(20, 2), '{"model": {"weight": 0}}', TENSORS)


def make(path: Path) -> None:
    """Write the database."""
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    with writing(engine) as c:
        studies.create_study(
            c,
            uuid=STUDY,
            name="golden",
            direction="minimize",
            spec_json='{"name": "golden"}',
            source_text="name: golden\n",
            fingerprint={"sources": "abc"},
            environment={"torch": "2.13"},
        )
        studies.ensure_numbers(c, STUDY, 4)
        studies.settle_examples_per_pass(c, STUDY, 1437)
        studies.settle_threads(c, STUDY, 1)
        studies.beat_study(c, STUDY, 100.0, 60.0)
        studies.beat_study(c, STUDY, 130.0, 60.0)
        studies.save_sources(c, STUDY, "abc", {"digits.py": "def train(trial): ...\n"})
        for number in range(3):
            claims.claim_free(c, STUDY, number, 4, OWNER, 60.0)
            claims.seal_params(c, STUDY, number, 1, PARAMS)
        records.insert_record(c, STUDY, 0, 1, RECORD)
        events.append_event(c, STUDY, Event("claimed", 0, {"attempt": 1}))
        logs.append_log(c, STUDY, LogChunk(0, 1, "epoch 1\n"))
    CheckpointStore(engine, STUDY, None).save(SNAPSHOT, number=0, fence=1)
    with writing(engine) as c:
        claims.record_outcome(c, STUDY, 0, 1, OUTCOME)
        claims.mark_told(c, STUDY, 0, 1)
        claims.record_outcome(c, STUDY, 1, 1, FAILED, TrialPhase.HELD)
    engine.dispose()


if __name__ == "__main__":
    make(Path(__file__).with_name("schema_1.db"))
