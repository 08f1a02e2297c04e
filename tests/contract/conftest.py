"""What every contract suite runs on: each kind of database in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.unit.store.samples import open_ready
from tunesafe.store.first_open import first_open_lock


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with our tables, of every kind in turn."""
    with first_open_lock(database_url):
        engine = open_ready(database_url)
    yield engine
    engine.dispose()
