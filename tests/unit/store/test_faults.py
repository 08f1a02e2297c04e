from __future__ import annotations

import errno
import re
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError, IntegrityError

from tunesafe.errors import LeaseLostError, StorageError
from tunesafe.store.engine import open_engine, reading, writing
from tunesafe.store.faults import CorruptStorageError, TransientStorageError, UnreachableStorageError, translated

URL = make_url("postgresql://me:secret@db/tunes")


class DriverError(Exception):
    """As drivers raise them: with a number first, or a code beside."""

    def __init__(self, *args: Any, **codes: str) -> None:
        super().__init__(*args)
        self.__dict__.update(codes)


def come_out(error: Exception) -> Exception:
    """What ``translated`` makes of an error."""
    try:
        with translated(URL):
            raise error
    except Exception as outcome:  # noqa: BLE001  whatever it is, is the answer
        return outcome


@pytest.mark.parametrize(
    ("driver", "kind", "said"),
    [
        (DriverError(sqlite_errorname="SQLITE_BUSY_SNAPSHOT"), TransientStorageError, "is locked"),
        (DriverError(sqlite_errorname="SQLITE_FULL"), StorageError, "no space left"),
        (DriverError(sqlite_errorname="SQLITE_IOERR_WRITE"), StorageError, "could not be read or written.*quota"),
        (DriverError(sqlite_errorname="SQLITE_CORRUPT_INDEX"), CorruptStorageError, "is damaged"),
        (DriverError(sqlstate="40P01"), TransientStorageError, "concurrent"),
        (DriverError(sqlstate="57P01"), UnreachableStorageError, "cannot be reached"),
        (DriverError(sqlstate="25P03"), UnreachableStorageError, "cannot be reached"),
        (DriverError(sqlstate="53100"), StorageError, "no space left"),
        (DriverError(sqlstate="28P01"), StorageError, "refused the connection"),
        (DriverError(1213, "Deadlock found"), TransientStorageError, "concurrent"),
        (DriverError(1205, "Lock wait timeout exceeded", sqlstate="HY000"), TransientStorageError, "is locked"),
        (DriverError(1927, "Connection was killed", sqlstate="70100"), UnreachableStorageError, "cannot be reached"),
        (DriverError(1049, "Unknown database", sqlstate="42000"), StorageError, "refused the connection"),
        (DriverError(2013, "Lost connection"), UnreachableStorageError, "cannot be reached"),
        (DriverError(1114, "The table is full"), StorageError, "no space left"),
        (DriverError(4242, "Something new"), StorageError, "Something new"),
    ],
)
def test_each_drivers_error_says_what_happened_what_is_safe_and_what_to_do(
    driver: DriverError, kind: type[StorageError], said: str
) -> None:
    """By the code the driver gives, whatever its language and wording."""
    error = come_out(DBAPIError("INSERT INTO t VALUES (:x)", {"x": "private"}, driver, hide_parameters=True))
    assert type(error) is kind
    text = str(error)
    assert re.search(said, text, re.DOTALL)
    assert "wrote nothing" in text
    assert "secret" not in text
    assert "private" not in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_is_one_of_the_storage(code: int) -> None:
    """ENOSPC, a read-only file system, an input/output error."""
    assert type(come_out(OSError(code, "disk"))) is StorageError


@pytest.mark.parametrize("error", [IntegrityError("INSERT", {}, Exception()), LeaseLostError("lost"), KeyError("bug")])
def test_what_is_not_the_databases_fault_passes_unchanged(error: Exception) -> None:
    """Our own errors, bugs, and what only the function that ran the statement understands."""
    assert come_out(error) is error


def test_text_that_is_none_is_damage_and_nothing_to_wait_for(sqlite_url: str) -> None:
    """A flipped bit in a column of SQLite: Python finds it without a code."""
    engine = open_engine(sqlite_url)
    with writing(engine) as connection:
        connection.execute(sql("CREATE TABLE words (word TEXT)"))
        connection.execute(sql("INSERT INTO words VALUES (CAST(x'61ff' AS TEXT))"))
    with pytest.raises(CorruptStorageError, match="is damaged: Could not decode"), reading(engine) as connection:
        connection.execute(sql("SELECT word FROM words")).all()
    engine.dispose()
