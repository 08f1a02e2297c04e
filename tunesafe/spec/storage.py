"""Database URLs: which are meant, and which are refused.

Drivers are always named, because SQLAlchemy's defaults differ between its versions. A
relative SQLite path is relative to the study file, so that one file is one study from
wherever it is run. A percent sign begins a character's code, as in every URL: a path that
holds one itself is written with ``%25``. No database is opened here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tunesafe.errors import SpecError
from tunesafe.spec.faults import nearest

__all__ = ["mask_password", "resolve_storage"]

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
_DATABASES = ("sqlite", "postgresql", "mysql", "mariadb")
_KINDS = ("sqlite:///FILE.db", "postgresql://HOST/DATABASE", "mysql://HOST/DATABASE")


def resolve_storage(url: str, folder: Path) -> str:
    """The full form of a database URL.

    Args:
        url: As in the study file.
        folder: What a relative SQLite path is relative to.

    Raises:
        SpecError: If it names no database that can hold a study; passwords are not shown.

    Example:
        >>> resolve_storage("sqlite:///digits.db", Path("/data"))
        'sqlite:////data/digits.db'
        >>> resolve_storage("sqlite:///my%20digits.db", Path("/100%"))
        'sqlite:////100%25/my digits.db'
        >>> resolve_storage("postgres://me@host/studies", Path("/data"))
        'postgresql+psycopg://me@host/studies'
    """
    shown = mask_password(url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        hint = (
            f"; did you mean 'sqlite:///{url}'?"
            if re.fullmatch(r"[\w./~ \-]+", url)
            else f"; write {', '.join(_KINDS)}"
        )
        raise SpecError(f"'{shown}' is not a database URL{hint}")
    driver = _DRIVERS.get(scheme.lower())
    if driver is None:
        raise SpecError(f"'{shown}' is not a database tunesafe can use{nearest(scheme, _DATABASES, what='databases')}")
    if driver == "sqlite":
        return f"sqlite:///{_sqlite_path(rest, shown, folder)}"
    try:
        parts = urlsplit(f"{driver}://{rest}")
        _ = parts.port
    except ValueError as error:
        raise SpecError(f"'{shown}' is not a database URL: {error}") from None
    if not parts.path.strip("/"):
        raise SpecError(f"'{shown}' names no database; write {scheme}://HOST/DATABASE")
    return f"{driver}://{rest}"


def _sqlite_path(rest: str, shown: str, folder: Path) -> str:
    host, _, path = rest.partition("/")
    file, question, query = path.partition("?")
    file = unquote(file)
    if host:
        raise SpecError(f"'{shown}' has two slashes where SQLite's URLs have three; write 'sqlite:///{rest}'")
    if file in {"", ":memory:"} or file.startswith("file:"):
        raise SpecError(f"'{shown}' names no file; a study must outlive its process: write sqlite:///FILE.db")
    absolute = os.path.normpath(folder.absolute() / os.path.expanduser(file))
    for forbidden in ("?", "\0"):
        if forbidden in absolute:
            text = f"'{shown}' stands for {absolute!r}, and a database's path cannot hold {forbidden!r}"
            raise SpecError(text)
    if file.endswith("/") or os.path.isdir(absolute):
        raise SpecError(f"'{shown}' is a folder; write sqlite:///FILE.db")
    return absolute.replace("%", "%25") + question + query


def mask_password(url: str) -> str:
    """The URL as it may be shown.

    Example:
        >>> mask_password("postgresql://me:secret@host/studies")
        'postgresql://me:***@host/studies'
    """
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))
