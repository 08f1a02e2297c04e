"""Database addresses: understood, made canonical, and shown without their password.

``postgres://``, ``postgresql://``, ``mysql://`` and ``mariadb://`` are spellings of the drivers
tunesafe brings (psycopg 3 and PyMySQL); anything else but SQLite is refused here, before
anything is opened.
"""

from __future__ import annotations

from pathlib import Path

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
        parsed = make_url(url)
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


def display_url(url: str | URL) -> str:
    """The address as it may be printed: its password, if any, is masked.

    Example:
        >>> display_url("mysql://me:secret@db/tunes")
        'mysql://me:***@db/tunes'
    """
    parsed = make_url(url)
    # A password can also hide in the query: mysql://db/tunes?password=secret
    hidden = {key: "***" for key in parsed.query if "pass" in key.lower() or "secret" in key.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite address, absolute; ``None`` of any other database."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database.removeprefix("file:")).absolute()
