from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, make_url

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


def as_2_0_reads(url: str | URL) -> URL:
    """SQLAlchemy 2.0's ``make_url``: percent signs in the name of the database stand for themselves."""
    if isinstance(url, URL) or make_url("sqlite:///%41").database == "%41":
        return make_url(url)
    head, question, query = url.partition("?")
    return make_url(head.replace("%", "%25") + question + query)


def as_2_1_reads(url: str | URL) -> URL:
    """SQLAlchemy 2.1's: they begin a character's code, as everywhere else in the address."""
    parsed = make_url(url)
    if isinstance(url, URL) or make_url("sqlite:///%41").database == "A":
        return parsed
    return parsed if parsed.database is None else parsed.set(database=unquote(parsed.database))


@pytest.fixture(params=[as_2_0_reads, as_2_1_reads])
def _either_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As either version of SQLAlchemy would read addresses."""
    monkeypatch.setattr("tunesafe.store.urls.make_url", request.param)


@pytest.mark.usefixtures("_either_version")
@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("sqlite:////x/a%20b.db", "/x/a b.db"),
        ("sqlite:////x/a b.db?timeout=5", "/x/a b.db"),
        ("sqlite:////x/100%25.db", "/x/100%.db"),
        ("sqlite:////x/100%.db", "/x/100%.db"),
        ("sqlite:////x/%2541.db", "/x/%41.db"),
        ("sqlite:////x/gr%C3%B6%C3%9Fer.db", "/x/größer.db"),
        ("postgresql://me@h/a%20b", "a b"),
        ("mysql://h/größer?charset=utf8mb4", "größer"),
    ],
)
def test_a_percent_sign_means_the_same_whichever_sqlalchemy_reads_it(url: str, database: str) -> None:
    """Understanding an address twice, or showing it and understanding that, changes nothing."""
    assert canonical_url(url).database == database
    assert canonical_url(canonical_url(url)) == canonical_url(url)
    assert canonical_url(display_url(url)) == canonical_url(url)
    assert canonical_url(display_url(canonical_url(url))) == canonical_url(url)


@pytest.mark.usefixtures("_either_version")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_path_that_is_shown_leads_back_to_the_file(name: str) -> None:
    """Whoever copies the address that ``status`` prints reaches the same database."""
    url = URL.create("sqlite", database=f"/x/{name}")
    assert canonical_url(display_url(url)).database == f"/x/{name}"
