from __future__ import annotations

from pathlib import Path

import pytest

from tunesafe.errors import SpecError
from tunesafe.spec import mask_password, resolve_storage


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("sqlite:///a.db", "sqlite:////data/a.db"),
        ("sqlite:///sub/../a.db", "sqlite:////data/a.db"),
        ("sqlite+pysqlite:///a.db?timeout=5", "sqlite:////data/a.db?timeout=5"),
        ("sqlite:////abs/a.db", "sqlite:////abs/a.db"),
        ("SQLite:///a.db", "sqlite:////data/a.db"),
        ("sqlite:///a b.db", "sqlite:////data/a b.db"),
        ("sqlite:///a%20b.db", "sqlite:////data/a b.db"),
        ("sqlite:///100%.db", "sqlite:////data/100%25.db"),
        ("sqlite:///100%25.db?timeout=5", "sqlite:////data/100%25.db?timeout=5"),
        ("sqlite:///%2541.db", "sqlite:////data/%2541.db"),
        ("postgresql://host/a%20b", "postgresql+psycopg://host/a%20b"),
        ("postgres://me@host:5432/db", "postgresql+psycopg://me@host:5432/db"),
        ("postgresql://host/db", "postgresql+psycopg://host/db"),
        ("postgresql+psycopg://me:p%40ss@host/db?sslmode=require", "postgresql+psycopg://me:p%40ss@host/db?sslmode=require"),
        ("mysql://host/db", "mysql+pymysql://host/db"),
        ("mariadb://host/db", "mysql+pymysql://host/db"),
        ("mysql+pymysql://host/db", "mysql+pymysql://host/db"),
    ],
)  # fmt: skip
def test_urls_are_made_absolute_and_name_their_driver(url: str, full: str) -> None:
    """And doing it again changes nothing."""
    assert resolve_storage(url, Path("/data")) == full
    assert resolve_storage(full, Path("/elsewhere")) == full


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("a.db", "'a.db' is not a database URL; did you mean 'sqlite:///a.db'?"),
        ("me:pw@host", "'me:pw@host' is not a database URL; write sqlite:///FILE.db"),
        ("sqlite://a.db", "'sqlite://a.db' has two slashes where SQLite's URLs have three; write 'sqlite:///a.db'"),
        ("sqlite://", "'sqlite://' names no file; a study must outlive its process"),
        ("sqlite:///:memory:", "'sqlite:///:memory:' names no file; a study must outlive its process"),
        ("sqlite:////", "'sqlite:////' is a folder"),
        ("sqlite:///a%3Fb.db", "'sqlite:///a%3Fb.db' stands for '/data/a?b.db', and a database's path cannot hold '?'"),
        ("sqlite:///a%00.db", "'sqlite:///a%00.db' stands for '/data/a\\x00.db', and a database's path cannot hold"),
        (
            "postgresql+psycopg2://h/d",
            "'postgresql+psycopg2://h/d' is not a database tunesafe can use; did you mean 'post",
        ),
        ("s3://bucket/key", "'s3://bucket/key' is not a database tunesafe can use; databases: sqlite, postgresql"),
        ("https://example.com", "'https://example.com' is not a database tunesafe can use"),
        ("postgres://me:secret@host", "'postgres://me:***@host' names no database; write postgres://HOST/DATABASE"),
        ("mysql://me:secret@host:port/db", "'mysql://me:***@host:port/db' is not a database URL"),
    ],
)
def test_what_holds_no_study_is_refused_without_showing_passwords(url: str, error: str) -> None:
    """The place in the study file is added by whoever knows it."""
    with pytest.raises(SpecError) as caught:
        resolve_storage(url, Path("/data"))
    assert str(caught.value).startswith(error)
    assert "secret" not in str(caught.value)


def test_a_folder_with_a_percent_sign_is_itself() -> None:
    """Whatever it would mean in a URL; the study file's own path is no URL."""
    full = "sqlite:////data/100%2541/a.db"
    assert resolve_storage("sqlite:///a.db", Path("/data/100%41")) == full
    assert resolve_storage(full, Path("/data/100%41")) == full


def test_passwords_are_masked_wherever_they_stand() -> None:
    """In the address and in its options; paths keep their colons."""
    assert mask_password("mysql://me:a:b@c@host/db") == "mysql://me:***@host/db"
    assert mask_password("postgresql://h/db?user=me&password=x&a=1") == "postgresql://h/db?user=me&password=***&a=1"
    assert mask_password("sqlite:////a/b:c@d.db") == "sqlite:////a/b:c@d.db"
