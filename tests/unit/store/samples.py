"""Small studies, owners and states for the store's tests."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine

from tunesafe.contracts import Claim, Ending, Outcome, Owner, Position, Record, Report, Snapshot, TensorBytes, Verdict
from tunesafe.store import claims, studies
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.migrations import upgrade

LEASE = 60.0
# An owner on another host: alive as far as anybody here can know.
ELSEWHERE = Owner("elsewhere", "machine", "boot", "pid:[1]", 4, 2)
COMPLETE = Outcome(Ending.COMPLETE, 0.5, 2, 20)


def open_ready(url: str) -> Engine:
    """An engine on a database with our tables."""
    engine = open_engine(url)
    upgrade(engine)
    return engine


def new_study(connection: Connection, n_trials: int = 3, name: str | None = None, direction: str = "minimize") -> str:
    """A study with free numbers; its UUID."""
    study = uuid.uuid4().hex
    studies.create_study(
        connection,
        uuid=study,
        name=name or study,
        direction=direction,
        spec_json='{"name": "digits"}',
        source_text="name: digits  # ü\n",
        fingerprint={"sources": "abc"},
        environment={"torch": "2.13"},
    )
    studies.ensure_numbers(connection, study, n_trials)
    return study


def claim(connection: Connection, study: str, number: int = 0, lease: float = LEASE) -> Claim:
    """A claim of a free number by somebody elsewhere."""
    claimed = claims.claim_free(connection, study, number, number + 1, ELSEWHERE, lease)
    assert claimed is not None
    return claimed


def claimed_study(engine: Engine, n_trials: int = 3) -> tuple[str, Claim]:
    """A study whose trial 0 is claimed."""
    with writing(engine) as connection:
        study = new_study(connection, n_trials)
        return study, claim(connection, study)


def record(virtual_epoch: int, examples_seen: int | None = None, loss: float = 0.5) -> Record:
    """A plain record."""
    report = Report(virtual_epoch, 10 * virtual_epoch if examples_seen is None else examples_seen, {"loss": loss})
    return Record(report, Verdict.CONTINUE, True, (), attempt=1)


def snapshot(virtual_epoch: int, tensors: Sequence[bytes], structure: str = "{}") -> Snapshot:
    """A state at a boundary; every virtual epoch has ten examples."""
    parts = tuple(TensorBytes(f"model/{i}", "uint8", (len(t),), memoryview(t)) for i, t in enumerate(tensors))
    return Snapshot(Position(10 * virtual_epoch, virtual_epoch), structure, parts)


def on_disk(files: Sequence[Path]) -> int:
    """Space that files take [bytes]."""
    return sum(file.stat().st_blocks * 512 for file in files)
