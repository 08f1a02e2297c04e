"""Optuna's tables: opened as we need them, and what goes wrong in them as an error of ours.

Optuna meets a database that fails with errors of its driver, and a damaged row with whatever its
code then stumbles over. Who uses its storage through here sees ``StorageError`` and ``DamagedError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import NOT_FOUND_MSG
from sqlalchemy import URL, Connection, ExceptionContext, event, text
from sqlalchemy.exc import IntegrityError

from tunesafe.errors import DamagedError, StorageError
from tunesafe.store.engine import apply_pragmas, connect_kwargs
from tunesafe.store.faults import as_storage_error, translated
from tunesafe.store.urls import display_url

__all__ = ["number_of_newest_trial", "open_tables", "rows_intact", "unwrapped"]


class _Rdb(RDBStorage):
    """Optuna's, which gives its connections back where it cannot be opened: opening is tried again and again."""

    def __init__(self, url: str, *, engine_kwargs: dict[str, Any]) -> None:
        try:
            super().__init__(url, engine_kwargs=engine_kwargs)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise


def open_tables(url: URL) -> RDBStorage:
    """Open Optuna's storage, and make its tables where there are none.

    Args:
        url: The study's database, canonical.

    Raises:
        StorageError: If the database fails, or has tables that this Optuna cannot use.
    """
    with unwrapped(url):
        rdb = _opened(url)
        apply_pragmas(rdb.engine)
        rdb.engine.dispose()  # the connections it was opened with know no pragmas
        # Optuna closes every session after its commit: to expire what was read takes a quarter of a cold load.
        rdb.scoped_session.remove()
        rdb.scoped_session.configure(expire_on_commit=False)
    # Errors of the driver become ours before Optuna sees them: it would try to create a trial five times.
    event.listen(rdb.engine, "handle_error", lambda context: _as_ours(context, url))
    return rdb


def _opened(url: URL) -> RDBStorage:
    engine_kwargs = connect_kwargs(url)
    try:
        return _Rdb(_template(url), engine_kwargs=engine_kwargs)
    except (RuntimeError, AssertionError) as error:  # another version's tables, or a damaged row that says which
        raise StorageError(
            f"Optuna cannot use its tables in {display_url(url)}: {error}. Nothing was "
            "changed. Use the Optuna they were made with, or restore the database from a backup."
        ) from error


def _template(url: URL) -> str:
    """The address as Optuna wants it: it fills in braces."""
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


def _as_ours(context: ExceptionContext, url: URL) -> StorageError | None:
    """What a driver's error is for us; errors of integrity stay, Optuna understands them."""
    error = context.sqlalchemy_exception
    return None if error is None or isinstance(error, IntegrityError) else as_storage_error(error, url)


@contextmanager
def unwrapped(url: URL) -> Iterator[None]:
    """Let a database that fails under Optuna be a ``StorageError``, whether Optuna has wrapped the error or not."""
    with translated(url):
        try:
            yield
        except StorageInternalError as error:
            raise error.__cause__ or StorageError(str(error)) from error


@contextmanager
def rows_intact(what: str) -> Iterator[None]:
    """Let damaged rows of Optuna's be a ``DamagedError``; that there is no such study or trial is an answer.

    Args:
        what: What is being read, for the message.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, AssertionError) as error:
        if isinstance(error, KeyError) and error.args == (NOT_FOUND_MSG,):
            raise
        raise DamagedError(
            f"{what} cannot be read, a row in Optuna's tables is damaged: {type(error).__name__}: {error}. "
            "Nothing was changed, and what other rows hold is not affected. Restore the database from a "
            "backup, or begin under a new name."
        ) from error


def number_of_newest_trial(connection: Connection, study_id: int) -> int:
    """The number Optuna has just given, read inside its own transaction."""
    query = text("SELECT MAX(number) FROM trials WHERE study_id = :study_id")
    return int(connection.execute(query, {"study_id": study_id}).scalar_one())
