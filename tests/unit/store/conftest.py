"""A database that is ready, for tests that need no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.unit.store.samples import open_ready


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """An SQLite database with our tables."""
    engine = open_ready(sqlite_url)
    yield engine
    engine.dispose()
