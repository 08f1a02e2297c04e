"""A database driver's error as one of ours: what happened, what was not harmed, what to do.

Every transaction of the store runs inside ``translated``. What a caller can act on has a class
of its own; a password never appears, and neither do the parameters of a statement.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from tunesafe.errors import StorageError
from tunesafe.store.urls import display_url

__all__ = [
    "CorruptStorageError",
    "TransientStorageError",
    "UnreachableStorageError",
    "as_storage_error",
    "translated",
]


class TransientStorageError(StorageError):
    """The transaction was rolled back for a reason that passes: running it again may succeed."""


class UnreachableStorageError(TransientStorageError):
    """There is no database to run it again on: whoever knows how to wait should."""


class CorruptStorageError(StorageError):
    """The database file itself is damaged."""


_SAFE = "This step wrote nothing; all that was committed before it is unharmed."
_LOCKED = (
    TransientStorageError,
    "is locked: other processes kept it busy for too long",
    "Run the same command again; if it happens often, close programs that keep the file open.",
)
_CLASHED = (
    TransientStorageError,
    "rolled a transaction back because of a concurrent one",
    "Run the same command again.",
)
_FULL = (StorageError, "has no space left on its disk", "Free some space, then run the same command: it continues.")
_GONE = (
    UnreachableStorageError,
    "cannot be reached",
    "Check that it runs, its address and the network; then run the same command: it continues.",
)
_READ_ONLY = (StorageError, "cannot be written", "Check the permissions of the file and of its folder.")
_CANNOT_OPEN = (StorageError, "cannot be opened", "Check that the file exists and may be read and written.")
_IO = (
    StorageError,
    "could not be read or written",
    "Look after its disk (space, quota, health), then run the same command: it continues.",
)
_CORRUPT = (
    CorruptStorageError,
    "is damaged",
    "Make a copy of it, then try `sqlite3 FILE .recover`, or go back to a backup.",
)
_REFUSED = (StorageError, "refused the connection", "Check user, password and database name in the storage address.")
_FAILED = (StorageError, "failed", "Run the same command again; if it fails again, the cause stands above.")

_Fault = tuple[type[StorageError], str, str]

_SQLITE: dict[str, _Fault] = {
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_PERM": _READ_ONLY,
    "SQLITE_CANTOPEN": _CANNOT_OPEN,
    "SQLITE_IOERR": _IO,
    "SQLITE_CORRUPT": _CORRUPT,
    "SQLITE_NOTADB": _CORRUPT,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html: whole codes, or their class (two letters)
_POSTGRES: dict[str, _Fault] = {
    "53100": _FULL,
    "55P03": _LOCKED,
    "40001": _CLASHED,
    "40P01": _CLASHED,
    "25006": _READ_ONLY,
    "25P03": _GONE,  # the server gave up a transaction that was left open for too long
    "08": _GONE,
    "57": _GONE,
    "53": _GONE,
    "28": _REFUSED,
    "3D": _REFUSED,
    "XX001": _CORRUPT,
    "XX002": _CORRUPT,
}
_MYSQL: dict[int, _Fault] = {
    1021: _FULL,
    1114: _FULL,
    1205: _LOCKED,
    1213: _CLASHED,
    1020: _CLASHED,
    1290: _READ_ONLY,
    1792: _READ_ONLY,
    1836: _READ_ONLY,
    1040: _GONE,
    1053: _GONE,
    1203: _GONE,
    1927: _GONE,
    2002: _GONE,
    2003: _GONE,
    2006: _GONE,
    2013: _GONE,
    4031: _GONE,
    1044: _REFUSED,
    1045: _REFUSED,
    1049: _REFUSED,
    1698: _REFUSED,
}
_MYSQL_CLIENT = range(2000, 3000)
"""Numbers of errors found on this side of the connection; all others are a server's answers."""
_REFUSALS = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")
"""How PostgreSQL says no to a connection: psycopg has no code for it."""
_NO_TEXT = "Could not decode to UTF-8"
"""What Python says, without a code, of text in a SQLite column that is none."""
_ERRNO: dict[int, _Fault] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
}


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn errors of the database and of the disk under it into ``StorageError``.

    ``IntegrityError`` passes: only the function that ran the statement knows what it means.
    """
    try:
        yield
    except IntegrityError:
        raise
    except (SQLAlchemyError, OSError) as error:
        raise as_storage_error(error, url) from error


def as_storage_error(error: SQLAlchemyError | OSError, url: URL) -> StorageError:
    """What an error of the database, or of the disk under it, is in our words."""
    kind, happened, advice = _diagnose(error)
    return kind(f"The database {display_url(url)} {happened}: {_cause(error)}.\n{_SAFE}\n{advice}")


def _diagnose(error: Exception) -> _Fault:
    if isinstance(error, OSError):
        return _ERRNO.get(error.errno or 0, _FAILED)
    if not isinstance(error, DBAPIError):
        return _FAILED
    driver: BaseException | None = error.orig
    if name := getattr(driver, "sqlite_errorname", None):
        # Extended codes, such as SQLITE_BUSY_SNAPSHOT, begin with the code they extend.
        return _SQLITE.get("_".join(str(name).split("_")[:2]), _FAILED)
    if _NO_TEXT in str(driver):
        return _CORRUPT
    number = driver.args[0] if driver is not None and driver.args else None
    # Before any code: newer PyMySQL gives both, and "HY000" is a lock's timeout as well as a full disk.
    if isinstance(number, int) and number in _MYSQL:
        return _MYSQL[number]
    if state := getattr(driver, "sqlstate", None):
        return _POSTGRES.get(state) or _POSTGRES.get(state[:2], _FAILED)
    if error.connection_invalidated:
        return _GONE
    if isinstance(number, int) and number and number not in _MYSQL_CLIENT:
        return _FAILED
    if any(refusal in str(driver) for refusal in _REFUSALS):
        return _REFUSED
    # psycopg gives no code where it never reached a server.
    unreached = type(driver).__name__ in {"OperationalError", "ConnectionTimeout", "InterfaceError"}
    return _GONE if unreached else _FAILED


def _cause(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0].strip().rstrip(".:")[:300]
