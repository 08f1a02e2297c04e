"""A study's side of a trial, while the process it is in dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
from sqlalchemy import Connection, Engine, text

from tests.unit.study.studies import Desk, DiedError, opened, snapshot
from tunesafe.contracts import Claim
from tunesafe.store.checkpoints import CheckpointStore
from tunesafe.store.engine import writing
from tunesafe.worker.services import LedgerServices


def services(desk: Desk, store: CheckpointStore, claim: Claim) -> LedgerServices:
    """Those of a trial that looks for its state."""
    patience = desk.study.patience
    return LedgerServices(desk.ledger, store, Mock(), Mock(), claim, (), Mock(), Mock(), patience, Mock(), patience)


@pytest.mark.parametrize("last", [1, 2])
def test_damage_is_kept_wherever_its_finder_dies(last: int, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another trial's save may write the bytes again before anybody looks for them a second time."""
    commits = 0

    @contextmanager
    def dying(engine: Engine) -> Iterator[Connection]:
        nonlocal commits
        with writing(engine) as connection:
            yield connection
        commits += 1
        if commits == last:
            raise DiedError

    with opened(sqlite_url) as study:
        desk = Desk(study)
        store = CheckpointStore(study.engine, study.row.uuid, None)
        claim, other = desk.claim(), desk.claim()
        store.save(snapshot(1), number=claim.number, fence=claim.fence)
        with writing(study.engine) as connection:
            connection.execute(text("UPDATE tunesafe_blob_chunks SET data = :data"), {"data": b"?"})
        with monkeypatch.context() as patch:
            for module in ("store.checkpoints", "study.ledger"):
                patch.setattr(f"tunesafe.{module}.writing", dying)
            with pytest.raises(DiedError):
                services(desk, store, claim).newest_state()
        store.save(snapshot(1), number=other.number, fence=other.fence)
        services(desk, store, claim).newest_state()
        kept = desk.events("damaged")
        assert kept
        assert {event.number for event in kept} == {claim.number}
