"""A study of a given number of claimed trials, without user code, for the benchmarks of what is stored."""

from __future__ import annotations

import os

from sqlalchemy import Engine

from tunesafe.contracts import Owner
from tunesafe.store import claims, studies
from tunesafe.store.engine import open_engine, writing
from tunesafe.store.migrations import upgrade

__all__ = ["UUID", "begin_study"]

UUID = "0" * 32


def begin_study(url: str, num_trials: int = 1) -> Engine:
    """Begin a study in an empty database; this process holds all of its trials for an hour.

    Args:
        url: Of the database.
        num_trials: Trials, claimed under fence 1.
    """
    engine = open_engine(url)
    upgrade(engine)
    owner = Owner("bench", "machine", "boot", "pid:[1]", os.getpid(), 1)
    with writing(engine) as connection:
        studies.create_study(
            connection,
            uuid=UUID,
            name="bench",
            direction="minimize",
            spec_json="{}",
            source_text="",
            fingerprint={"sources": ""},
            environment={},
        )
        studies.ensure_numbers(connection, UUID, num_trials)
        for number in range(num_trials):
            claims.claim_free(connection, UUID, number, num_trials, owner, 3600.0)
    return engine
