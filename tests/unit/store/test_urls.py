from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from tunesafe.errors import SpecError
from tunesafe.store.urls import canonical_url, display_url, sqlite_path


@pytest.mark.parametrize(
    ("given_url", "driver"),
    [
        ("sqlite:///x.db", "sqlite"),
        ("postgres://h/d", "postgresql+psycopg"),
        ("postgresql://h/d", "postgresql+psycopg"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg"),
        ("mysql://h/d", "mysql+pymysql"),
        ("mariadb://h/d", "mysql+pymysql"),
    ],
)
def test_every_spelling_of_a_database_leads_to_the_driver_we_bring(given_url: str, driver: str) -> None:
    """Nobody has to know the names of Python drivers."""
    assert canonical_url(given_url).drivername == driver


@pytest.mark.parametrize("url", ["", "digits.db", "oracle://h/d", "sqlite://", "sqlite:///:memory:"])
def test_what_cannot_hold_a_study_is_refused(url: str) -> None:
    """No address, an unknown database, or one that is gone with its process."""
    with pytest.raises(SpecError, match=r"storage .*sqlite:///"):
        canonical_url(url)


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=8).map(lambda text: f"Pw{text}"))
def test_a_password_is_never_shown(password: str) -> None:
    """Neither one in its place nor one in the query."""
    url = URL.create("mysql", "me", password, "db", 3306, "tunes", {"password": password})
    assert password not in display_url(url)
    assert password not in display_url(url.render_as_string(hide_password=False))


def test_an_address_that_cannot_be_parsed_is_not_echoed() -> None:
    """A password may stand anywhere in it."""
    with pytest.raises(SpecError) as refused:
        canonical_url("me:secret@db")
    assert "secret" not in str(refused.value)


def test_the_file_of_a_sqlite_address_is_absolute() -> None:
    """And a server has none."""
    path = sqlite_path(canonical_url("sqlite:///x.db"))
    assert path is not None
    assert path.is_absolute()
    assert sqlite_path(canonical_url("postgres://h/d")) is None
