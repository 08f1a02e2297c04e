"""Database addresses: understood, made canonical, and shown without their password.

``postgres://``, ``postgresql://``, ``mysql://`` and ``mariadb://`` are spellings of the drivers
tunesafe brings (psycopg 3 and PyMySQL); anything else but SQLite is refused here, before
anything is opened. A percent sign begins a character's code in every part of an address, which
SQLAlchemy 2.1 reads so and 2.0 does not in the name of the database.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tunesafe.errors import SpecError

__all__ = ["canonical_url", "display_url", "sqlite_path"]

_DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}


def canonical_url(url: str | URL) -> URL:
    """The address with the driver tunesafe uses.

    Raises:
        SpecError: If it is no database address, of an unknown kind, or of a database in memory.

    Example:
        >>> canonical_url("postgres://me@db/tunes").drivername
        'postgresql+psycopg'
    """
    try:
        parsed = _parsed(url)
    except ArgumentError:
        # The text may hold a password in a place we cannot find: it is not echoed.
        raise SpecError(
            "storage is not a database address. Write sqlite:///FILE.db, postgresql://USER:PASSWORD@HOST/DATABASE "
            "or mysql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    driver = _DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        raise SpecError(
            f"storage names a {parsed.drivername!r} database, which is not supported. "
            "Use sqlite:///…, postgresql://… or mysql://…."
        )
    if driver == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SpecError(
            "storage is a database in memory, which is gone with its process. Name a file: sqlite:///FILE.db"
        )
    return parsed.set(drivername=driver)


def _parsed(url: str | URL) -> URL:
    parsed = make_url(url)
    decodes = make_url("sqlite:///%25").database == "%"
    if decodes or isinstance(url, URL) or parsed.database is None:
        return parsed
    return parsed.set(database=unquote(parsed.database))


def display_url(url: str | URL) -> str:
    """The address as it may be printed, and given to us again: its password, if any, is masked.

    Example:
        >>> display_url("mysql://me:secret@db/tunes"), display_url("sqlite:///gr%C3%B6%C3%9Fer.db")
        ('mysql://me:***@db/tunes', 'sqlite:///größer.db')
    """
    parsed = _parsed(url)
    # A password can also hide in the query: mysql://db/tunes?password=secret
    hidden = {key: "***" for key in parsed.query if "pass" in key.lower() or "secret" in key.lower()}
    rendered = parsed.set(database="").update_query_dict(hidden).render_as_string(hide_password=True)
    # SQLAlchemy 2.1 would write every letter beyond ASCII as a code.
    server, question, query = rendered.partition("?")
    database = None if parsed.database is None else parsed.database.replace("%", "%25").replace("?", "%3F")
    return (server.removesuffix("/") if database is None else server + database) + question + query


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite address, absolute; ``None`` of any other database."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database.removeprefix("file:")).absolute()
