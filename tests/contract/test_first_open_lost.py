"""A server that goes away while it holds the lock of first opens."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tunesafe.store.engine import open_engine, writing
from tunesafe.store.faults import TransientStorageError
from tunesafe.store.first_open import first_open_lock

_HOLDERS = {
    "postgresql": "SELECT pid FROM pg_locks JOIN pg_database ON database = oid "
    "WHERE locktype = 'advisory' AND datname = current_database()",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}


def end_holders(url: str) -> None:
    """End every connection that may hold the lock, as a server does that dies."""
    engine = open_engine(url)
    backend = engine.url.get_backend_name()
    with writing(engine) as connection:
        holders = list(connection.execute(text(_HOLDERS[backend])).scalars())
        assert holders
        for holder in holders:
            end = f"SELECT pg_terminate_backend({holder})" if backend == "postgresql" else f"KILL {holder}"
            connection.execute(text(end))
    engine.dispose()


def test_what_was_lost_under_the_lock_is_said_and_not_the_lock(server_url: str) -> None:
    """Who waits for the database is told that it is gone, in our words: it can be waited for."""

    def work() -> None:
        with first_open_lock(server_url):
            end_holders(server_url)
            raise TransientStorageError("what the work under it says")

    with pytest.raises(TransientStorageError, match="what the work under it says"):
        work()


def test_a_lock_that_is_lost_after_the_work_is_done_is_no_error(server_url: str) -> None:
    """And the next one gets it."""
    with first_open_lock(server_url):
        end_holders(server_url)
    with first_open_lock(server_url):
        pass
